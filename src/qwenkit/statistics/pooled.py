"""One mean over several training seeds and their questions: its interval counts both kinds of noise.

`across_seeds` estimates where *another seed* would come out on the same questions; where all seeds answer the same
ones, a question that is easy by chance moves every seed alike, which it cannot see. `pooled_mean` resamples the
questions, each with the answers of every seed (questions are the clusters), and independently of them the seeds: the
bootstrap for crossed factors (Owen 2007). Questions that differ between seeds have different keys.

Caveat. Two or three seeds say little about the spread of seeds: where that noise dominates, this interval is too narrow
and `across_seeds` is the one to trust. Show both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from qwenkit import rng
from qwenkit.statistics.intervals import CHUNK, REPLICATES, Floats, Interval, as_scores, interval_ends


def pooled_mean(
    scores: Sequence[Mapping[str, float]], level: float = 0.95, seed: int = 0, bounds: tuple[float, float] = (-1, 1)
) -> Interval:
    """Return the mean over seeds of {question: score}, every seed with equal weight; `n` counts the different
    questions.

    `bounds` is the range of a score: it gives a width to scores that never vary."""
    questions = sorted(set[str]().union(*scores))
    table = np.array([[row.get(question, math.nan) for question in questions] for row in scores])
    known = as_scores(table[~np.isnan(table)])
    mean = float(np.nanmean(table, axis=1).mean())
    if np.ptp(known) == 0:
        return Interval(mean, *interval_ends(known[: len(questions)], level, seed, bounds), len(questions))
    low, high = np.quantile(_resampled(table, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(questions))


def _resampled(table: Floats, seed: int) -> Floats:
    """Return `REPLICATES` means: of resampled questions for every seed, then of resampled seeds."""
    seeds, count = table.shape
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    by_seed = np.empty((REPLICATES, seeds))
    rows = max(1, CHUNK // count)
    for start in range(0, REPLICATES, rows):
        replicate = np.arange(start, min(start + rows, REPLICATES))[:, None]
        picks = (rng.uniform(seed, 0, replicate, _row(count)) * count).astype(np.int64)
        for index in range(seeds):
            answered = np.maximum(present[index][picks].sum(axis=1), 1)
            by_seed[replicate[:, 0], index] = filled[index][picks].sum(axis=1) / answered
    middle = by_seed.mean(axis=1)
    picks = (rng.uniform(seed, 1, _row(REPLICATES).T, _row(seeds)) * seeds).astype(np.int64)
    moved = np.take_along_axis(by_seed, picks, axis=1).mean(axis=1) - middle
    return middle + moved * math.sqrt(seeds / max(1, seeds - 1))  # n resampled seeds spread n - 1 / n as far as n seeds


def _row(count: int) -> npt.NDArray[np.int64]:
    """Return 0 to count - 1 as a matrix of one row."""
    return np.arange(count)[None, :]
