"""A ratio of two sums over the same items, such as bytes per token over documents.

`ratio_interval(tops, bottoms)` resamples the items, each with both of its numbers: long documents weigh more, as they
do in the ratio itself. A single item shows no spread, so that its ends are None.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from qwenkit import rng
from qwenkit.statistics.intervals import CHUNK, REPLICATES, Interval, as_scores


def ratio_interval(tops: Iterable[float], bottoms: Iterable[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Return sum(tops) / sum(bottoms) with its percentile bootstrap interval (Efron, 1979).

    >>> ratio_interval([2, 4], [1, 2])
    Interval(mean=2.0, low=2.0, high=2.0, n=2)"""
    top, bottom = as_scores(tops), as_scores(bottoms)
    if len(top) != len(bottom):
        raise ValueError(f"{len(top)} tops and {len(bottom)} bottoms")
    value, count = float(top.sum() / bottom.sum()), len(top)
    if count == 1:
        return Interval(value, None, None, 1)
    ratios: list[npt.NDArray[np.float64]] = []
    rows = max(1, CHUNK // count)
    for start in range(0, REPLICATES, rows):
        replicate = np.arange(start, min(start + rows, REPLICATES))[:, None]
        picks = (rng.uniform(seed, replicate, np.arange(count)[None, :]) * count).astype(np.int64)
        ratios.append(top[picks].sum(axis=1) / bottom[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), count)
