"""Intervals and paired comparisons, so that no number of the project stands without its noise (numpy only).

`intervals.py`: means and counts; `clustered.py`: items in groups, clean and dirty items; `paired.py`: two models on the
same items; `comparisons.py`: McNemar, Holm, what n items can show; `samples.py`: several answers an item, pass@k;
`pooled.py`: seeds and questions; `ratio.py`: ratios of sums.
"""

from qwenkit.statistics.clustered import Split, clustered_mean, split_means
from qwenkit.statistics.comparisons import holm, least_detectable_difference, mcnemar
from qwenkit.statistics.intervals import Interval, across_seeds, mean_interval, wilson
from qwenkit.statistics.paired import Difference, paired_difference
from qwenkit.statistics.pooled import pooled_mean
from qwenkit.statistics.ratio import ratio_interval
from qwenkit.statistics.samples import SampledMean, pass_at_k, pass_at_k_interval, sampled_mean

__all__ = [
    "Difference",
    "Interval",
    "SampledMean",
    "Split",
    "across_seeds",
    "clustered_mean",
    "holm",
    "least_detectable_difference",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "pass_at_k",
    "pass_at_k_interval",
    "pooled_mean",
    "ratio_interval",
    "sampled_mean",
    "split_means",
    "wilson",
]
