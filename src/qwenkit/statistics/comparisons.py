"""Tests over many comparisons, and what a comparison can show before it is made.

`mcnemar(a, b)` is the exact test for two models that are right or wrong on the same items, `holm(ps)` adjusts the
p values of several tasks, and `least_detectable_difference(n, disagreement)` says which difference n items can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from qwenkit.statistics.intervals import as_scores

_NORMAL = NormalDist()


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided p value of the exact test of McNemar (1947): only items on which the two differ count.

    >>> round(mcnemar([1] * 9 + [0], [0] * 9 + [1]), 6)
    0.021484

    Raises a `ValueError` for scores other than 0 and 1, or of different number."""
    first, second = as_scores(a), as_scores(b)
    if len(first) != len(second):
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    if not all(score in (0.0, 1.0) for score in (*first, *second)):
        raise ValueError("McNemar's test compares right and wrong: scores of 0 and 1")
    better, worse = int((first > second).sum()), int((first < second).sum())
    count = better + worse
    if better == worse:
        return 1.0
    tail = sum(
        math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2))
        for k in range(min(better, worse) + 1)
    )
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Raises a `ValueError` for what is not a probability."""
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("a p value lies between 0 and 1")
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = greatest
    return adjusted


def least_detectable_difference(
    n: int, disagreement: float, level: float = 0.95, power: float = 0.8, design_effect: float = 1.0
) -> float:
    """Return the least difference of two models' means that n paired items show with the given power.

    `disagreement` is the share of items on which just one of the two is right (the variance of the difference of any
    scores), `design_effect` how much clusters multiply the variance. Raises a `ValueError` outside of these ranges."""
    if n <= 0 or not 0 < disagreement <= 1 or design_effect < 1 or not 0 < power < 1:
        raise ValueError(f"n={n}, disagreement={disagreement}, design_effect={design_effect}, power={power}")
    quantiles = _NORMAL.inv_cdf((1 + level) / 2) + _NORMAL.inv_cdf(power)
    return quantiles * math.sqrt(disagreement * design_effect / n)
