"""Measure an engine: the loss of texts, and how fast it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwenkit.inference import Engine


def text_losses(engine: Engine, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the mean loss of each text, given as token ids, in nats per token."""
    return [-sum(scores) / len(scores) for scores in engine.score(texts)]


def tokens_per_second(engine: Engine, tokens: int = 24) -> float:
    """Return the tokens per second of one greedy answer, the better of two tries."""
    from qwenkit.inference import SamplingParams

    tokens = min(tokens, engine.max_length - 8)
    params = SamplingParams.plain(temperature=0, max_tokens=tokens, ignore_eos=True)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        engine.generate([[1, 2, 3, 4]], params)
        best = max(best, tokens / (time.perf_counter() - start))
    return round(best, 2)
