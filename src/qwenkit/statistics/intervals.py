"""Confidence intervals of a mean: bootstrap, Wilson, and Student's t over seeds.

Use `mean_interval(scores)` for the items of one evaluation, `wilson(correct, n)` for a count, and `across_seeds(means)`
for one number per training run. Everything is a pure function of its arguments (`qwenkit.rng`).

Caveats. An interval over items says how far *other test items* could move the number, and nothing about another
training seed. That is `across_seeds`, which says nothing about other items where all seeds answer the same ones;
`pooled.pooled_mean` counts both. Scores that never vary give a bootstrap nothing to resample; there we bound the share
of the population that n equal draws can have missed, which needs to know the range of a score: inside [0, 1] the range
is taken to be [0, 1], elsewhere the ends are None ("unknown"), never a false zero width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit import rng

REPLICATES = 2000
CHUNK = 1 << 21  # bootstrap indices drawn at once: 16 MB
_NORMAL = NormalDist()

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval; an end is None where nothing is known about it."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Iterable[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of independent scores: with Wilson's interval for 0/1 scores, otherwise that of the BCa bootstrap
    (Efron, 1987).

    >>> mean_interval([1, 1, 1, 0])
    Interval(mean=0.75, low=0.300641842582402, high=0.9544127391902995, n=4)"""
    scores = as_scores(values)
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson(int(scores.sum()), len(scores), level)
    low, high = interval_ends(scores, level, seed, (0.0, 1.0))
    return Interval(float(scores.mean()), low, high, len(scores))


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval (Wilson, 1927) for k successes in n trials.

    It holds also where the normal approximation fails (k near 0 or n). Raises a `ValueError` for k outside 0 to n."""
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"wilson needs 0 <= k <= n and n > 0, got k={k}, n={n}")
    z2 = _NORMAL.inv_cdf((1 + level) / 2) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    return Interval(k / n, max(0.0, centre - half) if k else 0.0, min(1.0, centre + half) if k < n else 1.0, n)


def across_seeds(means: Sequence[float], level: float = 0.95) -> Interval:
    """Return Student's t interval over one number per training seed.

    A single seed, or seeds that agree to the last bit, show no spread: the ends are None."""
    values = as_scores(means)
    count, mean = len(values), float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, None, None, count)
    half = student_quantile((1 + level) / 2, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def as_scores(values: Iterable[float]) -> Floats:
    """Return a finite, non-empty vector of float64; raises a `ValueError` that says which value is not a score."""
    scores = np.asarray(list(values), dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError("an interval needs at least one score")
    if not np.isfinite(scores).all():
        raise ValueError(f"score {int(np.argmin(np.isfinite(scores)))} is not finite")
    return scores


def interval_ends(
    scores: Floats, level: float, seed: int, bounds: tuple[float, float]
) -> tuple[float | None, float | None]:
    """Return the ends of the mean's interval; `bounds` is the range of a score, used only while every score lies inside
    it."""
    if np.ptp(scores) > 0:
        return _bca(scores, level, seed)
    value, (least, most) = float(scores[0]), bounds
    if not least <= value <= most:
        return None, None
    unseen = 1 - (1 - level) ** (1 / len(scores))  # the largest share that n draws miss with probability 1 - level
    return value - unseen * (value - least), value + unseen * (most - value)


def _bca(scores: Floats, level: float, seed: int) -> tuple[float, float]:
    """Return the bias-corrected and accelerated percentile bootstrap (BCa; Efron, 1987) of the mean."""
    mean = scores.mean()
    resampled = _bootstrap_means(scores, seed)
    below = ((resampled < mean).mean() + (resampled <= mean).mean()) / 2
    bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / REPLICATES, 1 - 1 / REPLICATES)))
    off = scores - mean
    spread = float((off**2).sum() ** 1.5)
    acceleration = float((off**3).sum()) / (6 * spread) if spread else 0.0  # tiny scores: the powers vanish
    return (
        float(np.quantile(resampled, _bca_rank((1 - level) / 2, bias, acceleration))),
        float(np.quantile(resampled, _bca_rank((1 + level) / 2, bias, acceleration))),
    )


def _bca_rank(rank: float, bias: float, acceleration: float) -> float:
    z = bias + _NORMAL.inv_cdf(rank)
    return _NORMAL.cdf(bias + z / (1 - acceleration * z))


def _bootstrap_means(scores: Floats, seed: int) -> Floats:
    """Return the means of `REPLICATES` resamples; draw (replicate, position) is a pure function of the seed."""
    count = len(scores)
    rows = max(1, CHUNK // count)
    parts: list[Floats] = []
    for start in range(0, REPLICATES, rows):
        replicate = np.arange(start, min(start + rows, REPLICATES))[:, None]
        picks = (rng.uniform(seed, replicate, np.arange(count)[None, :]) * count).astype(np.int64)
        parts.append(scores[picks].mean(axis=1))
    return np.concatenate(parts)


def student_quantile(rank: float, freedom: int) -> float:
    """Return the quantile of Student's t for rank > 0.5, by bisection on its distribution function."""
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < rank:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < rank else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """Return P(T <= t) for t >= 0: with t = sqrt(freedom) tan(angle) the density is a power of a cosine (Simpson's
    rule)."""
    angles = np.linspace(0, math.atan(t / math.sqrt(freedom)), 1001)
    weights = np.ones(1001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    area = float((weights * np.cos(angles) ** (freedom - 1)).sum() * angles[-1] / 3000)
    gamma = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return 0.5 + math.exp(gamma) / math.sqrt(math.pi) * area
