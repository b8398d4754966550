"""The sampler against plain definitions, one row at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.inference import SamplingParams
from qwenkit.inference.params import folder_defaults
from qwenkit.inference.sampling import draw, own_logprobs, penalise, truncate


def _probs(seed: int, rows: int = 5, size: int = 200) -> torch.Tensor:
    return (torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 2).softmax(-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.0), st.integers(-1, 250))
def test_truncate_keeps_the_smallest_set_that_has_the_mass(seed: int, top_p: float, top_k: int) -> None:
    probs = _probs(seed)
    kept = truncate(probs, torch.full((5,), top_k), torch.full((5,), top_p))
    for row, result in zip(probs, kept):
        order = row.argsort(descending=True)[: top_k if top_k > 0 else None]
        share = (row[order] / row[order].sum()).double()
        before = share.cumsum(0) - share
        wanted = set(order[before < top_p].tolist()) | {int(order[0])}
        edge = set(order[(before - top_p).abs() < 1e-5].tolist())  # float32 sums may differ on the very edge
        assert set(result.nonzero()[:, 0].tolist()) ^ wanted <= edge


def test_each_row_has_its_own_settings() -> None:
    probs = _probs(0, rows=3)
    kept = truncate(probs, torch.tensor([0, 3, 0]), torch.tensor([1.0, 1.0, 0.5]))
    assert torch.equal(kept[0], probs[0]) and (kept[1] > 0).sum() == 3 and 0 < (kept[2] > 0).sum() < 200


def test_draw_follows_the_distribution_and_never_takes_what_has_none() -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    points = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    assert [int(draw(probs, point[None])) for point in points] == [1, 1, 3, 3, 4, 4]


def test_penalty_lowers_seen_tokens_only() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise(logits, seen, torch.tensor([2.0])).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_own_logprobs_are_log_softmax() -> None:
    logits, ids = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 8, 8])
    assert torch.allclose(own_logprobs(logits, ids), logits.log_softmax(-1)[range(4), ids], atol=1e-6)


def test_params_take_the_folders_values_only_where_asked() -> None:
    folder = folder_defaults({"top_p": 0.8, "repetition_penalty": 1.1, "max_new_tokens": 7, "do_sample": True})
    settled = SamplingParams(top_p=0.5).resolved(folder)
    assert (settled.top_p, settled.repetition_penalty, settled.max_tokens, settled.temperature) == (0.5, 1.1, 7, 1.0)
    plain = SamplingParams.plain(max_tokens=3).resolved(folder)
    assert (plain.top_p, plain.repetition_penalty, plain.max_tokens) == (1.0, 1.0, 3)
    assert folder_defaults({"do_sample": False})["temperature"] == 0.0


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -2}, {"max_tokens": -1},
            {"repetition_penalty": -0.5}, {"stop": [""]}]
)  # fmt: skip
def test_senseless_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        SamplingParams(**bad).resolved({})  # type: ignore[arg-type]
