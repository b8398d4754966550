"""The engine's answers to rows of prompts, each with the tools that its row offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from qwenkit.chat.publish import prompt_ids
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.inference import Engine, Output, SamplingParams


def answers(
    engine: Engine, rows: Sequence[Row], params: SamplingParams, requests: Sequence[int] | None = None
) -> list[Output]:
    """Return the engine's answers to prompts, each ending with its turn or with the text."""
    tok = cast("ChatTokenizer", engine.tok)
    turn = replace(params, stop_token_ids=(*(params.stop_token_ids or ()), tok.im_end_id, tok.eot_id))
    return engine.generate([prompt_ids(tok, row) for row in rows], turn, requests)
