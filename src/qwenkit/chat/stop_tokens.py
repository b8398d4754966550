"""The stop tokens of a chat: which tokens end an answer, for serving, rollouts, reward annotation and evaluation alike.

    stop_token_ids(tok)       # (151645, 151644, 151643) for the first Qwen's chat models

The engine adds them to what the folder's generation_config.json names (`inference/generation_config.py`) and to what a
request asks for; `inference/stopping.py` decides from all of these whether an answer ends.
"""

from __future__ import annotations

from typing import cast

from qwenkit.tokenizer import ENDOFTEXT, IM_END, IM_START, Tokenizer


def stop_token_ids(tok: object) -> tuple[int, ...]:
    """Return the tokens that end an answer in a chat: the end of its turn, the start of another, the end of the text,
    and what the folder calls its end.

    `tok` has `special`, and `end_ids` where its folder names some."""
    special = cast(Tokenizer, tok).special
    marks = [special[name] for name in (IM_END, IM_START, ENDOFTEXT) if name in special]
    return tuple(dict.fromkeys((*marks, *getattr(tok, "end_ids", ()))))
