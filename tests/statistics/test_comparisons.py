"""McNemar, Holm, clusters and pass@k beside values of scipy 1.17 and statsmodels 0.15, and beside brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qwenkit.statistics import (
    clustered_mean,
    holm,
    least_detectable_difference,
    mcnemar,
    mean_interval,
    paired_difference,
    pass_at_k,
    pass_at_k_interval,
    sampled_mean,
    split_means,
)


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(9, 1, 0.021484375), (30, 18, 0.11140289106101878), (5, 5, 1.0), (412, 350, 0.02705404182443191), (0, 0, 1.0)],
)
def test_mcnemar_equals_statsmodels(better: int, worse: int, p: float) -> None:
    a, b = [1] * better + [0] * worse + [1, 0], [0] * better + [1] * worse + [1, 0]
    assert mcnemar(a, b) == pytest.approx(p, rel=1e-9) and mcnemar(b, a) == pytest.approx(p, rel=1e-9)


def test_mcnemar_is_for_right_and_wrong() -> None:
    with pytest.raises(ValueError, match="scores of 0 and 1"):
        mcnemar([0.5], [1])
    with pytest.raises(ValueError, match="differ in number: 1 and 2"):
        mcnemar([1], [1, 0])


def test_holm_equals_statsmodels() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_clustered_interval_equals_statsmodels() -> None:
    interval = clustered_mean([1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert interval == pytest.approx((7 / 12, 0.31812947, 0.84853719, 12), abs=1e-8)


def test_clusters_widen_what_items_alone_make_too_narrow() -> None:
    """Of 400 draws from groups that differ, the clustered interval holds the truth as often as it says."""
    rng, held, narrow = np.random.default_rng(3), 0, 0
    for _ in range(400):
        levels = np.clip(rng.normal(0.5, 0.2, 30), 0, 1).repeat(20)
        scores, groups = (rng.random(600) < levels).astype(float), np.arange(30).repeat(20)
        interval = clustered_mean(scores, groups.tolist())
        items = mean_interval(scores)
        held += interval.low <= 0.5 <= interval.high
        narrow += items.low <= 0.5 <= items.high
    assert 0.92 <= held / 400 <= 0.98 and narrow / 400 < 0.85


def test_one_cluster_says_nothing_and_numbers_must_match() -> None:
    assert clustered_mean([1, 0], ["a", "a"])[1:3] == (None, None)
    assert clustered_mean([1, 1], ["a", "b"]).low < 1
    with pytest.raises(ValueError, match="2 scores and 1 clusters"):
        clustered_mean([1, 0], ["a"])


def test_clean_dirty_and_all() -> None:
    split = split_means([1, 1, 0, 0], [True, False, False, False])
    assert (split.clean.mean, split.dirty.mean, split.all.mean) == (pytest.approx(1 / 3), 1.0, 0.5)
    assert split_means([1], [False]).dirty is None
    with pytest.raises(ValueError, match="1 scores and 2 flags"):
        split_means([1], [True, False])


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (6, 3, 2), (7, 0, 3), (4, 4, 4), (8, 6, 3)])
def test_pass_at_k_equals_counting_all_choices(n: int, c: int, k: int) -> None:
    picks = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, picks)) / len(picks))


def test_pass_at_k_of_problems_and_what_it_refuses() -> None:
    interval = pass_at_k_interval([(10, 3), (10, 0), (10, 10), (10, 5)], 1)
    assert interval.mean == pytest.approx(0.45) and interval.low < 0.45 < interval.high
    for n, c, k in ((3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)


def test_the_noise_of_sampling_is_part_of_the_error_and_falls_with_more_answers() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(300)
    few, many = (sampled_mean((rng.random((300, k)) < chances[:, None]).astype(float).tolist()) for k in (2, 32))
    assert 0 < many.sampling_error < few.sampling_error < few.error
    expected = math.sqrt(float((chances * (1 - chances)).sum()) / 32) / 300
    assert many.sampling_error == pytest.approx(expected, rel=0.1)
    assert sampled_mean([[1], [0]]).sampling_error is None


def test_least_detectable_difference_is_found_as_often_as_its_power_says() -> None:
    assert least_detectable_difference(1000, 0.2) == pytest.approx(2.8015852181 * math.sqrt(0.2 / 1000))
    difference, rng = least_detectable_difference(800, 0.2), np.random.default_rng(1)
    signs = [rng.choice([1, -1, 0], 800, p=[0.1 + difference / 2, 0.1 - difference / 2, 0.8]) for _ in range(400)]
    shown = [mcnemar((row > 0).astype(float).tolist(), (row < 0).astype(float).tolist()) < 0.05 for row in signs]
    assert 0.7 < np.mean(shown) < 0.9
    with pytest.raises(ValueError, match="disagreement=0"):
        least_detectable_difference(10, 0)


def test_intervals_of_paired_models_hold_the_true_difference() -> None:
    """A small form of `benchmarks/paired_coverage.py`: 100 pairs of models of known difference."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(100):
        hardness = rng.random(250)
        a, b = (rng.random(250) < np.clip(hardness + shift, 0, 1) for shift in (0.05, 0.0))
        truth = float((np.clip(hardness + 0.05, 0, 1) - hardness).mean())
        difference = paired_difference(a.astype(float).tolist(), b.astype(float).tolist())
        held += difference.low <= truth <= difference.high
    assert held >= 90
