"""Intervals where scores come in groups: items of one subject, one text, one template.

Items of a group are alike, so that they say less than as many independent ones: `clustered_mean(scores, subjects)` lets
whole groups vary. `split_means(scores, flagged)` gives the mean of flagged items, of the others and of all, such as
items that the training text contains and items that it does not.

Caveat. With fewer than some twenty groups the interval is rough, and wide on purpose (Student's t over the groups).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from qwenkit.statistics.intervals import Interval, as_scores, mean_interval, student_quantile


def clustered_mean(values: Iterable[float], clusters: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Return the mean over items with an interval of cluster-robust standard errors (CR1; Liang and Zeger, 1986).

    The ends are None for a single cluster. Raises a `ValueError` where scores and clusters differ in number.

    >>> clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"]).low < clustered_mean([1, 1, 0, 0], range(4)).low
    True"""
    scores = as_scores(values)
    if len(clusters) != len(scores):
        raise ValueError(f"{len(scores)} scores and {len(clusters)} clusters")
    mean, count = float(scores.mean()), len(scores)
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    if len(places) == 1:
        return Interval(mean, None, None, count)
    sums = np.bincount([places[name] for name in clusters], weights=scores - mean)
    error = math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())) / count
    if error == 0:
        return mean_interval(scores, level)._replace(mean=mean)
    half = student_quantile((1 + level) / 2, len(sums) - 1) * error
    return Interval(mean, mean - half, mean + half, count)


class Split(NamedTuple):
    """Means of the items that are not flagged, of those that are, and of all; None where there is no item."""

    clean: Interval | None
    dirty: Interval | None
    all: Interval


def split_means(values: Iterable[float], flagged: Sequence[bool], level: float = 0.95, seed: int = 0) -> Split:
    """Return the means of clean, dirty and all items, `flagged[i]` saying that item i is dirty.

    Raises a `ValueError` where scores and flags differ in number."""
    scores = as_scores(values)
    if len(flagged) != len(scores):
        raise ValueError(f"{len(scores)} scores and {len(flagged)} flags")
    dirty = np.asarray(flagged, dtype=bool)
    clean, marked = (
        mean_interval(part, level, seed) if len(part) else None for part in (scores[~dirty], scores[dirty])
    )
    return Split(clean, marked, mean_interval(scores, level, seed))
