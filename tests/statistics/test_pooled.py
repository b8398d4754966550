"""The pooled interval counts both noises: it covers where the questions' dominates, and never collapses."""

from __future__ import annotations

import numpy as np
import pytest

from qwenkit.statistics import across_seeds, mean_interval, pooled_mean


def rows(table: np.ndarray, own: bool = False) -> list[dict[str, float]]:
    return [{f"{seed if own else ''}/{i}": float(x) for i, x in enumerate(row)} for seed, row in enumerate(table)]


def simulated(rng: np.random.Generator, seeds: int, questions: int, seed_noise: float) -> np.ndarray:
    """Differences with true mean 0: a part that all seeds share by question, one of the seed, and the rest."""
    shared = rng.normal(0, 0.35, questions)
    return shared + rng.normal(0, seed_noise, (seeds, 1)) + rng.normal(0, 0.25, (seeds, questions))


def test_it_covers_where_the_interval_over_seeds_alone_does_not() -> None:
    pooled = over_seeds = 0
    for trial in range(150):
        table = simulated(np.random.default_rng(trial), 3, 120, 0.01)
        a, b = pooled_mean(rows(table), seed=trial), across_seeds(table.mean(axis=1).tolist())
        pooled += a.low <= 0 <= a.high
        over_seeds += b.low <= 0 <= b.high
    assert 0.92 <= pooled / 150 <= 1, "other questions and other seeds"
    assert over_seeds / 150 < 0.9, "a question that is easy by chance moves every seed alike"


def test_noise_of_seeds_widens_it() -> None:
    still, moved = (pooled_mean(rows(simulated(np.random.default_rng(5), 3, 200, s))) for s in (0.0, 0.2))
    assert moved.high - moved.low > 2 * (still.high - still.low)


def test_more_seeds_do_not_cure_few_questions() -> None:
    """The same answers by ten copies of one seed are worth one seed."""
    one = np.random.default_rng(1).normal(0, 0.3, (1, 80))
    pooled, alone = pooled_mean(rows(np.repeat(one, 10, axis=0))), mean_interval(one[0])
    assert pooled.high - pooled.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_questions_of_their_own_and_seeds_of_equal_weight() -> None:
    table = np.random.default_rng(2).normal(0.1, 0.3, (3, 100))
    assert pooled_mean(rows(table)).n == 100 and pooled_mean(rows(table, own=True)).n == 300
    uneven = pooled_mean([{"a": 1.0}, {"b": 0.0, "c": 0.0, "d": 0.0}])
    assert uneven.mean == 0.5 and uneven.low <= 0.5 <= uneven.high


def test_it_is_a_function_of_its_arguments_and_never_of_zero_width() -> None:
    table = rows(np.random.default_rng(3).normal(0, 1, (2, 30)))
    assert pooled_mean(table) == pooled_mean(table) != pooled_mean(table, seed=1)
    assert pooled_mean(table) == pooled_mean([dict(reversed(row.items())) for row in table])
    never = pooled_mean([{"a": 0.0, "b": 0.0}] * 3)
    assert never.low < 0 < never.high
