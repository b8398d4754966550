"""Comparison of two models on the same items: the difference of their means with interval and p value.

Pairing removes what both share (how hard an item is), which is most of the noise of an evaluation: always compare two
models on the same items, in the same order. `paired_difference(a, b)` is positive where a is better than b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qwenkit import rng
from qwenkit.statistics.intervals import Floats, as_scores, interval_ends

FLIPS = 9999
_EXACT = 12  # up to so many pairs every one of the 2^n sign patterns is counted


class Difference(NamedTuple):
    """The mean of a - b with its interval, the number of pairs, and the two-sided p value of the sign-flip test."""

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95, seed: int = 0) -> Difference:
    """Return the mean of a[i] - b[i]: the interval by the BCa bootstrap over pairs (Efron, 1987), p by sign-flip
    permutation.

    Raises a `ValueError` for scores of different number."""
    first, second = as_scores(a), as_scores(b)
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    differences = first - second
    inside = bool(((first >= 0) & (first <= 1)).all() and ((second >= 0) & (second <= 1)).all())
    bounds = (-1.0, 1.0) if inside else (np.inf, -np.inf)
    low, high = interval_ends(differences, level, seed, bounds)
    return Difference(float(differences.mean()), low, high, len(differences), _sign_flip(differences, seed))


def _sign_flip(differences: Floats, seed: int) -> float:
    """Return the share of sign patterns whose mean is at least as far from zero: exact for few pairs, else Monte Carlo
    + 1."""
    count = len(differences)
    threshold = abs(differences.sum()) * (1 - 1e-12)  # rounding must not make a pattern beat itself
    if count <= _EXACT:
        patterns = (np.arange(1 << count)[:, None] >> np.arange(count)[None, :]) & 1
        return float((np.abs((1 - 2 * patterns) @ differences) >= threshold).mean())
    moved = differences[differences != 0]  # a tie has no sign
    extreme = 0
    for start in range(0, FLIPS, 1024):
        replicate = np.arange(start, min(start + 1024, FLIPS))[:, None]
        flips = rng.random_bits(seed, replicate, np.arange(len(moved))[None, :]) & np.uint64(1)
        sums = (1.0 - 2.0 * flips.astype(np.float64)) @ moved
        extreme += int((np.abs(sums) >= threshold).sum())
    return (1 + extreme) / (1 + FLIPS)
