"""Ratios of sums and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from qwenkit.statistics import ratio_interval


def test_the_ratio_is_of_the_sums() -> None:
    found = ratio_interval([1, 8], [1, 2])
    assert found.mean == 3.0 and found.low == 1.0 and found.high == 4.0 and found.n == 2
    assert ratio_interval([1, 8], [1, 2]) == found


def test_one_item_says_nothing_of_others() -> None:
    assert ratio_interval([3], [2]) == (1.5, None, None, 1)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        bottom = rng.integers(5, 50, 60)
        top = rng.poisson(2.0 * bottom)
        found = ratio_interval(top.tolist(), bottom.tolist(), seed=trial)
        assert found.low is not None and found.high is not None
        hits += found.low <= 2.0 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_unequal_numbers_of_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tops and 1 bottoms"):
        ratio_interval([1, 2], [1])
