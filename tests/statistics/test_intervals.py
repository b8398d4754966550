"""Intervals must cover what they promise, on simulated data whose truth is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenkit.statistics import across_seeds, mean_interval, wilson
from qwenkit.statistics.intervals import student_quantile


def coverage(sampler, truth: float, trials: int) -> float:
    hits = 0
    for trial in range(trials):
        interval = mean_interval(sampler(np.random.default_rng(trial)), seed=trial)
        hits += interval.low <= truth <= interval.high
    return hits / trials


@pytest.mark.parametrize(
    ("sampler", "truth"),
    [
        (lambda rng: rng.normal(0.4, 1.0, 50), 0.4),
        (lambda rng: rng.exponential(1.0, 60), 1.0),
        (lambda rng: rng.random(50) < 0.9, 0.9),
        (lambda rng: np.clip(rng.normal(0.8, 0.3, 80), -0.5, 1.0).round(1), None),
    ],
    ids=["normal", "skewed", "binary", "lumpy"],
)
def test_coverage_is_near_95_percent(sampler, truth) -> None:
    if truth is None:
        truth = float(np.mean([sampler(np.random.default_rng(10_000 + i)).mean() for i in range(4000)]))
    assert 0.90 <= coverage(sampler, truth, 300) <= 0.99


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 2**62))
@example([0.0, 5e-244], 0)
@settings(max_examples=60, deadline=None)
def test_ordered_and_repeatable(values: list[float], seed: int) -> None:
    interval = mean_interval(values, seed=seed)
    assert interval == mean_interval(values, seed=seed)
    assert interval.n == len(values) and math.isclose(interval.mean, np.mean(values), abs_tol=1e-9)
    if interval.low is not None:
        slack = 1e-9 * (1 + abs(interval.mean))
        assert interval.low - slack <= interval.mean <= interval.high + slack


@given(st.integers(1, 500), st.data())
def test_wilson_agrees_with_its_definition(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval = wilson(k, n)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    for end in {interval.low, interval.high} - {0.0, 1.0}:  # an end p solves |k/n - p| = z sqrt(p(1-p)/n)
        assert math.isclose(abs(k / n - end), 1.959963984540054 * math.sqrt(end * (1 - end) / n), rel_tol=1e-6)


def test_wilson_known_value() -> None:
    interval = wilson(0, 10)
    assert interval.low == 0 and interval.high == pytest.approx(0.27753, abs=1e-5)


def test_constant_scores_never_have_zero_width() -> None:
    assert mean_interval([0.5] * 20).low < 0.5 < mean_interval([0.5] * 20).high
    assert mean_interval([1.0] * 20).low < 0.85
    assert mean_interval([7.0, 7.0]).low is None, "the range of a score outside [0, 1] is unknown"
    widths = [mean_interval([0.5] * n).high for n in (1, 10, 100, 1000)]
    assert all(a > b for a, b in pairwise(widths))


def test_more_items_give_a_narrower_interval_and_a_higher_level_a_wider_one() -> None:
    scores = np.random.default_rng(0).random(400)
    few, many = mean_interval(scores[:40]), mean_interval(scores)
    sure = mean_interval(scores, level=0.99)
    assert many.high - many.low < few.high - few.low
    assert sure.high - sure.low > many.high - many.low


@pytest.mark.parametrize("bad", [[], [math.nan], [0.1, math.inf]])
def test_no_interval_of_nothing(bad: list[float]) -> None:
    with pytest.raises(ValueError):
        mean_interval(bad)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (30, 2.04227)])
def test_student_quantile_matches_the_tables(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=1e-4)


def test_across_seeds() -> None:
    interval = across_seeds([0.6, 0.7, 0.8])
    assert interval.mean == pytest.approx(0.7) and interval.high - 0.7 == pytest.approx(4.30265 * 0.1 / math.sqrt(3))
    assert across_seeds([0.6])[1:] == (None, None, 1), "one seed has no interval"
    assert across_seeds([0.6, 0.6])[1:] == (None, None, 2), "seeds that agree by chance do not agree for ever"
