"""Intervals and paired comparisons, so that no number of the project stands without its noise (numpy only)."""

from qwenkit.statistics.intervals import Interval, across_seeds, mean_interval, wilson
from qwenkit.statistics.paired import Difference, paired_difference
from qwenkit.statistics.pooled import pooled_mean
from qwenkit.statistics.ratio import ratio_interval

__all__ = [
    "Difference",
    "Interval",
    "across_seeds",
    "mean_interval",
    "paired_difference",
    "pooled_mean",
    "ratio_interval",
    "wilson",
]
