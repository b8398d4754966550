"""Trajectories of any mask: their tensors, and what does not fit together is refused by name."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.alignment import Passes, Trajectories, Trajectory
from qwenkit.errors import UserError


def trajectory(ids: Sequence[int], mask: str, **given: Any) -> Trajectory:
    """A trajectory whose mask is written as "0110"; the log-probability of a token is minus its id."""
    sampled = tuple(sign == "1" for sign in mask)
    count = sum(sampled)
    parts: dict[str, Any] = {
        "logprobs": tuple(-float(id) for id, here in zip(ids, sampled) if here), "weight_versions": (0,) * count,
        "finish_reason": "stop", "ended": True, "row": {"id": "q3"}, "prompt": 3, "sample": 1,
    }  # fmt: skip
    return Trajectory(ids=tuple(ids), sampled=sampled, **{**parts, **given})


ONE, TWO = trajectory([1, 2, 3, 4], "0011"), trajectory([5, 6, 7, 8, 9, 1], "010011", prompt=4, ended=False)


def test_the_example_of_the_module() -> None:
    batch = Trajectories.of([ONE, TWO])
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 9, 1]]
    assert batch.sampled_BT.long().tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1]]
    assert batch.tokens_N.tolist() == [3, 4, 6, 9, 1]
    assert batch.preceding(batch.ids_BT[..., None]).squeeze(1).tolist() == [2, 3, 5, 8, 9]
    assert batch.logprobs_BT.tolist() == [[0, 0, -3, -4, 0, 0], [0, -6, 0, 0, -9, -1]]
    assert batch.lengths == [4, 6] and batch.counts_B.tolist() == [2, 3]
    assert batch.ended_B.tolist() == [True, False] and batch.groups_B.tolist() == [3, 4]


def test_a_selection_is_in_its_order_and_cut_to_its_longest() -> None:
    batch = Trajectories.of([ONE, TWO, ONE])
    assert batch.select([2, 0]).ids_BT.tolist() == [[1, 2, 3, 4]] * 2
    both = batch.select([1, 0])
    assert both.items == (TWO, ONE) and both.tokens_N.tolist() == [6, 9, 1, 3, 4]
    assert batch.flat(batch.logprobs_BT, [1, 0]).tolist() == both.logprobs_BT[both.sampled_BT].tolist()


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8).filter(any), min_size=1, max_size=5))
def test_numbers_of_tokens_go_back_to_their_tokens(masks: list[list[bool]]) -> None:
    items = [trajectory(range(len(mask) + 1), "0" + "".join(str(int(x)) for x in mask)) for mask in masks]
    batch = Trajectories.of(items)
    x_BT = batch.spread(batch.tokens_N)
    assert torch.equal(x_BT, batch.ids_BT * batch.sampled_BT)
    (read_BT,) = Passes(micro_tokens=10).read(batch, lambda part: (part.tokens_N,))
    assert torch.equal(read_BT, x_BT)


def test_rewards_on_the_way_stand_at_their_tokens() -> None:
    batch = Trajectories.of([ONE, trajectory([5, 6, 7, 8, 9], "01001", step_rewards={1: 0.5, 4: -1.0})])
    assert batch.step_rewards_BT.tolist() == [[0] * 5, [0, 0.5, 0, 0, -1]]


@pytest.mark.parametrize(
    ("ids", "mask", "given", "what"),
    [
        ([1, 2], "00", {}, "no token was sampled: the mask is nowhere true\n  expected: at least one sampled token"),
        ([1, 2], "011", {}, "a mask of 3 for 2 tokens\n  expected: one for each token"),
        ([1, 2], "10", {}, "the first token counts as sampled\n  expected: a token before the first sampled one"),
        ([1, 2], "01", {"logprobs": ()}, "0 log-probabilities for 1 sampled tokens\n  expected: one for each"),
        ([1, 2], "01", {"weight_versions": (1, 2)}, "2 weight versions for 1 sampled tokens\n  expected: one for each"),
        ([1, 2], "01", {"step_rewards": {0: 1.0}}, "a reward at token 0\n  expected: the position of a sampled token"),
        ([1, 2], "01", {"step_rewards": {2: 1.0}}, "a reward at token 2\n  expected: the position of a sampled token"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(ids: list[int], mask: str, given: Any, what: str) -> None:
    with pytest.raises(UserError) as caught:
        trajectory(ids, mask, **given)
    assert caught.value.text() == f"trajectory, sample 1 of prompt q3: {what}"


def test_a_row_without_an_id_is_called_by_its_number() -> None:
    assert trajectory([1, 2], "01", row={}).name == "sample 1 of prompt 3"
