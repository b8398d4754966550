"""The one data order: whole epochs, steps over their ends, and draws that are part of the digests of every run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.data.shuffled_order import ShuffledOrder, place_of, step_numbers
from qwenkit.data.tokens.order import EpochOrder


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 9))
def test_every_item_comes_once_an_epoch(count: int, batch_size: int, seed: int) -> None:
    order = ShuffledOrder(count, seed)
    taken = [item for step in range(2 * count) for item in order.at(step, batch_size)]
    for epoch in range(2 * batch_size):
        assert sorted(taken[epoch * count : (epoch + 1) * count]) == list(range(count))
        assert taken[epoch * count : (epoch + 1) * count] == order.permutation(epoch).tolist()


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 30))
def test_a_step_is_counted_through_the_epochs(step: int, batch_size: int, per_epoch: int) -> None:
    numbers = list(step_numbers(step, batch_size))
    assert len(numbers) == batch_size and numbers[-1] + 1 == step_numbers(step + 1, batch_size)[0]
    for number in numbers:
        epoch, index = place_of(number, per_epoch)
        assert 0 <= index < per_epoch and epoch * per_epoch + index == number


@pytest.mark.parametrize("other", [ShuffledOrder(30, 6), ShuffledOrder(30, 5, 0), ShuffledOrder(30, 5, 1)])
def test_seeds_and_streams_are_shuffled_differently(other: ShuffledOrder) -> None:
    assert other.at(0, 30) != ShuffledOrder(30, 5).at(0, 30)


def test_the_draws_of_pairs_and_prompts_stay() -> None:
    """Stored numbers: another derivation would make every reward model and policy anew."""
    order = ShuffledOrder(7, 5)
    assert [order.at(step, 3) for step in range(5)] == [[1, 3, 0], [2, 6, 4], [5, 4, 6], [2, 1, 0], [3, 5, 5]]


def test_the_draws_of_packed_sequences_stay() -> None:
    order = EpochOrder("digest", 3, [5, 9, 3, 12, 7], 12, split_documents=True)
    first = [[(3, 3, 12), (2, 0, 3)], [(1, 0, 9), (3, 0, 3)], [(0, 0, 5), (4, 0, 7)]]
    second = [[(2, 0, 3), (3, 0, 9)]]
    assert [[tuple(segment) for segment in row.segments] for row in order.sequences(0, 4)] == [*first, *second]
