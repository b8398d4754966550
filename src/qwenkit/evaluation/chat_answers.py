"""The engine's answers to rows of prompts, each with the tools that its row offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwenkit.evaluation.rubric import mean_rubric
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.inference import Engine, Output, SamplingParams
    from qwenkit.model import Transformer


def answers(
    engine: Engine, rows: Sequence[Row], params: SamplingParams, rng_ids: Sequence[int] | None = None
) -> list[Output]:
    """Return `engine.chat` of the rows' `messages` and `tools`; the draws of row i are made from `rng_ids[i]`.

    An answer ends where it would in a served chat: at any of `chat.stop_token_ids`.
    """
    tools = [row.get("tools") for row in rows]
    return engine.chat([row["messages"] for row in rows], params, tools, rng_ids=rng_ids)


def greedy_rubric(model: Transformer, tok: ChatTokenizer, rows: Sequence[Row], max_tokens: int) -> dict[str, float]:
    """Return the mean of each part of the rubric over greedy answers, rounded to 5 digits; nothing for no rows."""
    from qwenkit.inference import Engine, SamplingParams

    if not rows:
        return {}
    outputs = answers(Engine(model, tok), rows, SamplingParams.plain(temperature=0, max_tokens=max_tokens))
    means = mean_rubric(rows, [output.text or "" for output in outputs])
    return {name: round(value, 5) for name, value in means.items()}
