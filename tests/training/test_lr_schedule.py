"""Schedules hit their corners."""

from typing import get_args

import pytest

from qwenkit.errors import UserError
from qwenkit.training.lr_schedule import SHAPES, build_schedule
from qwenkit.training.settings import ScheduleShape


def test_cosine_rises_and_falls_to_a_tenth():
    schedule = build_schedule("cosine", total=101, warmup=10)
    factors = [schedule(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55) and factors[100] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_linear_and_constant():
    linear = build_schedule("linear", total=11, min_lr_ratio=0.0)
    assert [linear(step) for step in (0, 5, 10, 50)] == pytest.approx([1, 0.5, 0, 0])
    assert build_schedule("constant", total=5)(4) == 1.0


def test_what_a_recipe_may_name_can_be_drawn():
    assert set(get_args(ScheduleShape)) == set(SHAPES)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="cosine"):
        build_schedule("cosin", 10)
    with pytest.raises(UserError, match="warm-up of 20"):
        build_schedule("linear", 10, warmup=20)
