"""Several answers a problem: pass@k without bias, and means that know the noise of sampling.

`pass_at_k(n, c, k)` is the chance that one of k answers is right, from n answers of which c were. `pass_at_k_interval`
resamples the problems, each with all of its answers. `sampled_mean` averages k answers an item, and says how much of
the interval comes from sampling the answers, which more answers would reduce, and not from the choice of items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qwenkit.statistics.intervals import Interval, as_scores, interval_ends


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k), the unbiased estimate of pass@k (Chen et al., 2021).

    >>> pass_at_k(5, 2, 1)
    0.4

    Raises a `ValueError` for fewer than k answers, or more right ones than answers."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} answers and 0 <= c <= n, got n={n}, c={c}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_at_k_interval(counts: Sequence[tuple[int, int]], k: int, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of pass@k over problems, given (answers, right ones) of each, with the BCa bootstrap over
    problems (Efron, 1987)."""
    scores = as_scores(pass_at_k(n, c, k) for n, c in counts)
    low, high = interval_ends(scores, level, seed, (0.0, 1.0))
    return Interval(float(scores.mean()), low, high, len(scores))


class SampledMean(NamedTuple):
    """A mean over items, its interval, the number of items, its standard error, and the part of that error that
    sampling the answers makes (None with one answer an item)."""

    mean: float
    low: float | None
    high: float | None
    n: int
    error: float
    sampling_error: float | None


def sampled_mean(samples: Sequence[Sequence[float]], level: float = 0.95, seed: int = 0) -> SampledMean:
    """Return the mean over items of the mean of each item's answers; every item weighs the same.

    The interval resamples items with their answers, so that it holds both kinds of noise."""
    means = as_scores(as_scores(answers).mean() for answers in samples)
    low, high = interval_ends(means, level, seed, (0.0, 1.0))
    count = len(means)
    error = float(means.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    sampling = None
    if all(len(answers) > 1 for answers in samples):
        within = [float(np.var(as_scores(answers), ddof=1)) / len(answers) for answers in samples]
        sampling = math.sqrt(sum(within)) / count
    return SampledMean(float(means.mean()), low, high, count, error, sampling)
