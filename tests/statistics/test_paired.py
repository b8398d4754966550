"""Paired comparison: symmetric, calibrated under no difference, and stronger than comparing two intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.statistics import mean_interval, paired_difference

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(SCORES, st.data())
@settings(max_examples=50, deadline=None)
def test_swapping_the_sides_turns_the_sign(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.floats(0, 1), min_size=len(a), max_size=len(a)))
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert forth.mean == pytest.approx(-back.mean) and forth.p == pytest.approx(back.p)
    assert 0 < forth.p <= 1 and forth.low <= forth.mean + 1e-9 and forth.mean <= forth.high + 1e-9


def test_exact_p_equals_brute_force() -> None:
    a, b = np.array([0.9, 0.4, 0.8, 0.6, 0.7]), np.array([0.1, 0.5, 0.2, 0.3, 0.6])
    signs = np.array(list(itertools.product((-1, 1), repeat=5)))
    expected = (np.abs(signs @ (a - b)) >= abs((a - b).sum()) - 1e-12).mean()
    assert paired_difference(a, b).p == pytest.approx(expected)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(1)
    results = [paired_difference(rng.random(40), rng.random(40), seed=i) for i in range(300)]
    assert 0.02 <= np.mean([r.p <= 0.05 for r in results]) <= 0.09
    assert 0.02 <= np.mean([not r.low <= 0 <= r.high for r in results]) <= 0.10


def test_pairing_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.random(100)
    weak, strong = hardness * 0.9, np.clip(hardness * 0.9 + rng.normal(0.03, 0.02, 100), 0, 1)
    assert mean_interval(weak).high > mean_interval(strong).low, "side by side they overlap"
    difference = paired_difference(strong, weak)
    assert difference.low > 0 and difference.p < 0.01


def test_no_difference_at_all_still_has_width() -> None:
    same = paired_difference([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert same.mean == 0 and same.p == 1 and same.low < 0 < same.high
    assert paired_difference([5.0, 5.0], [5.0, 5.0]).low is None


def test_sides_must_match() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([0.1, 0.2], [0.1])
