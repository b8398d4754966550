"""The tokens around the thought of an answer, for the engine: budgets of thoughts, and grammars that bind what follows.

    tags = thought_tokens(tok)       # None where the vocabulary has no tokens <think> and </think>
    tags.state(prompt_ids)           # "inside" where a prompt opens the thought, as QwQ's do

The engine needs each tag as one token, as the families that think have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from qwenkit.tokenizer import IM_START, Tokenizer

OPEN, CLOSE = "<think>", "</think>"
ThoughtState = Literal["before", "inside", "behind"]


class ThoughtTokens(NamedTuple):
    """The tokens of a vocabulary that begin and end a thought."""

    start: int
    end: int
    closing: tuple[int, ...]
    """What ends a thought that was too long: a newline, the tag, and the gap."""
    gap: tuple[int, ...]
    """The blank line between a thought and the answer's content."""
    turn_start: int | None
    """The token that begins a turn; an answer's thought comes after the last one of its prompt."""

    def state(self, prompt_ids: Sequence[int]) -> ThoughtState:
        """Return where an answer to this prompt begins: inside a thought that the prompt opens, behind one that it
        closes (an answer without thoughts), or before any."""
        for id in reversed(prompt_ids):
            if id == self.start:
                return "inside"
            if id == self.end:
                return "behind"
            if id == self.turn_start:
                break
        return "before"


def thought_tokens(tok: object) -> ThoughtTokens | None:
    """Return the tokens around thoughts; None where the vocabulary (or no tokenizer) has none."""
    special = cast("dict[str, int]", getattr(tok, "special", {}))
    if OPEN not in special or CLOSE not in special:
        return None
    encode = cast(Tokenizer, tok).encode
    gap = tuple(encode("\n\n"))
    return ThoughtTokens(
        special[OPEN], special[CLOSE], (*encode("\n"), special[CLOSE], *gap), gap, special.get(IM_START)
    )
