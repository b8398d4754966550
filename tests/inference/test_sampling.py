"""The arithmetic of sampling against plain definitions, and against the rule that sorts the whole vocabulary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from qwenkit.errors import UserError
from qwenkit.inference import SamplingParams
from qwenkit.inference.generation_config import sampling_defaults
from qwenkit.inference.sampling import (
    Limits,
    Truncation,
    draw,
    draw_at_once,
    force,
    frequency_presence_penalty,
    remaining,
    repetition_penalty,
    sample,
    truncate,
)
from qwenkit.model.logprobs import selected_logprobs
from qwenkit.records import read_json

GOLDEN = Path(__file__).parent / "golden"


def _probs(seed: int, rows: int = 5, size: int = 200) -> torch.Tensor:
    return (torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 2).softmax(-1)


def _same(rows: int, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Truncation:
    """The same limits for every row."""
    top_p_B = torch.full((rows,), top_p, dtype=torch.float64)
    return Truncation(torch.full((rows,), top_k), top_p_B, torch.full((rows,), min_p))


def _truncate(scores: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> torch.Tensor:
    return truncate(scores, _same(len(scores), top_k, top_p, min_p))


def _by_sorting_all(scores: torch.Tensor, truncation: Truncation) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule as a sort of the whole vocabulary: the scores that remain, and true [B] for rows where rounding may
    decide: a sum of top-p, or a share of min-p, within float32's errors of its limit."""
    size, (top_k, top_p, min_p) = scores.shape[-1], truncation
    count = torch.where(top_k > 0, top_k.clamp(max=size), size)
    rising, order = scores.sort(dim=-1, stable=True)
    rising = rising.masked_fill(rising < rising.gather(1, size - count[:, None]), float("-inf"))
    sums = rising.softmax(-1).cumsum(-1)
    low = (sums <= (1 - top_p).to(sums.dtype)[:, None]) & (top_p < 1)[:, None]
    low[:, -1] = False
    kept = torch.empty_like(scores).scatter(1, order, rising.masked_fill(low, float("-inf")))
    probs = kept.softmax(-1)
    shares = probs / probs.amax(-1, keepdim=True)
    near = ((sums - (1 - top_p)[:, None]).abs() < size * 2.0**-24).any(-1) & (top_p < 1)
    near |= ((shares - min_p[:, None]).abs() < 2.0**-20).any(-1) & (min_p > 0)
    return kept.masked_fill(probs < min_p[:, None] * probs.amax(-1, keepdim=True), float("-inf")), near


LIMITS = st.tuples(st.integers(-1, 6000), st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
                   st.one_of(st.just(0.0), st.floats(0.0, 1.0)))  # fmt: skip


def _scores(seed: int, size: int, steps: int, rows: int = 4) -> torch.Tensor:
    """Scores of float32, or with few different values, as logits of bfloat16 have; some cannot come."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, size, generator=generator) * 3
    scores[:, ::7] = float("-inf") if seed % 3 == 0 else scores[:, ::7]
    return (scores * steps).round() / steps if steps else scores


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([40, 3000]), st.sampled_from([0, 1, 8]), LIMITS, LIMITS)
@example(seed=0, size=3000, steps=8, one=(20, 0.8, 0.0), other=(0, 0.999, 0.01))
def test_partial_selection_keeps_what_a_sort_keeps(
    seed: int, size: int, steps: int, one: tuple[int, float, float], other: tuple[int, float, float]
) -> None:
    scores = _scores(seed, size, steps)
    columns = zip(zip(one, other, one, other), (torch.long, torch.float64, torch.float32))
    truncation = Truncation(*(torch.tensor(column, dtype=dtype) for column, dtype in columns))
    wanted, near = _by_sorting_all(scores, truncation)
    kept = truncate(scores, truncation)
    assert torch.equal(kept[~near], wanted[~near])
    sizes = (kept.isfinite().sum(-1) - wanted.isfinite().sum(-1)).abs()
    assert bool((sizes <= 1)[near & (torch.tensor(steps) == 0)].all())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([40, 5000]),
    st.sampled_from([0, 1, 8]),
    st.lists(LIMITS, min_size=4, max_size=4),
)
@example(seed=0, size=5000, steps=0, limits=[(20, 0.8, 0.0), (0, 1.0, 0.0), (-1, 0.9, 0.1), (300, 1.0, 0.0)])
def test_draws_at_once_are_the_same_where_they_are_certain(
    seed: int, size: int, steps: int, limits: list[tuple[int, float, float]]
) -> None:
    scores = _scores(seed, size, steps)
    columns = zip(zip(*limits), (torch.long, torch.float64, torch.float32))
    truncation = Truncation(*(torch.tensor(column, dtype=dtype) for column, dtype in columns))
    uniform = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids, sure = draw_at_once(scores, truncation, uniform, [Limits(*limit) for limit in limits])
    assert torch.equal(ids[sure], draw(scores, truncation, uniform)[sure])
    assert bool(((ids >= 0) & (ids < size)).all()) and (size > 40 or bool(sure.all()))


def test_few_candidates_are_certain_where_they_hold_the_mass() -> None:
    """Without equal scores at the edge top-k is certain, and so is top-p where few tokens have nearly all of it."""
    scores = _scores(1, 5000, 0) * 4
    for limits, certain in ((Limits(50, 0.9, 0.0), True), (Limits(0, 0.9, 0.0), True), (Limits(0, 0.5, 0.01), True)):
        uniform = torch.full((4,), 0.5, dtype=torch.float64)
        ids, sure = draw_at_once(scores, _same(4, *limits), uniform, [limits] * 4)
        assert bool(sure.all()) == certain
        assert torch.equal(ids, draw(scores, _same(4, *limits), uniform))
    flat = torch.zeros(4, 5000)
    for limits in (Limits(50, 1.0, 0.0), Limits(0, 0.9, 0.0)):
        assert not draw_at_once(flat, _same(4, *limits), uniform, [limits] * 4)[1].any()


def test_rows_without_a_distribution_give_a_token_and_no_error() -> None:
    scores, uniform = torch.full((2, 5000), float("nan")), torch.tensor([0.0, 0.999]).double()
    for limits in (Limits(0, 1.0, 0.0), Limits(20, 0.8, 0.0), Limits(400, 0.8, 0.1)):
        ids, _ = draw_at_once(scores, _same(2, *limits), uniform, [limits] * 2)
        assert bool(((ids >= 0) & (ids < 5000)).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 8]), LIMITS, st.integers(1, 40))
def test_what_remains_does_not_depend_on_how_many_are_looked_at(
    seed: int, steps: int, limits: tuple[int, float, float], first: int
) -> None:
    scores, results = _scores(seed, 2000, steps), []
    for count in (first, 256, 2000):
        kept = torch.full_like(scores, float("-inf"))
        for rows, ids, values, stays in remaining(scores, _same(4, *limits), torch.arange(4), first=count):
            values = torch.where(stays, values, float("-inf"))
            kept[rows] = kept[rows].scatter_reduce(1, ids, values, "amax")  # the ends of short rows name id 0
        results.append(kept)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 8]), LIMITS, st.floats(0, 1, exclude_max=True))
def test_the_draw_is_that_over_the_whole_vocabulary(
    seed: int, steps: int, limits: tuple[int, float, float], uniform: float
) -> None:
    """Except within float32's rounding of the probabilities around an edge of the distribution."""
    scores, truncation = _scores(seed, 3000, steps, rows=3), _same(3, *limits)
    uniform_B = torch.full((3,), uniform, dtype=torch.float64)
    probs = truncate(scores, truncation).softmax(-1)
    wanted, tokens = sample(probs, uniform_B), draw(scores, truncation, uniform_B)
    sums = probs.double().cumsum(-1)
    near = ((sums / sums[:, -1:] - uniform).abs() < 3000 * 2.0**-24).any(-1)
    assert torch.equal(tokens[~near], wanted[~near])
    assert bool((probs[range(3), tokens] > 0).all())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.0), st.integers(-1, 250))
def test_truncate_keeps_the_smallest_set_that_has_the_mass(seed: int, top_p: float, top_k: int) -> None:
    probs = _probs(seed)
    kept = _truncate(probs.log(), top_k, top_p).softmax(-1)
    for row, result in zip(probs, kept):
        order = row.argsort(descending=True)[: top_k if top_k > 0 else None]
        share = (row[order] / row[order].sum()).double()
        before = share.cumsum(0) - share
        wanted = set(order[before < top_p].tolist()) | {int(order[0])}
        edge = set(order[(before - top_p).abs() < 1e-5].tolist())  # float32 sums may differ on the very edge
        assert set(result.nonzero()[:, 0].tolist()) ^ wanted <= edge


def test_each_row_has_its_own_settings() -> None:
    scores = _probs(0, rows=4).log()
    kept = truncate(scores, Truncation(torch.tensor([0, 3, 0, 0]), torch.tensor([1.0, 1.0, 0.5, 1.0]).double(),
                                       torch.tensor([0.0, 0.0, 0.0, 0.2])))  # fmt: skip
    assert torch.equal(kept[0], scores[0]) and kept[1].isfinite().sum() == 3 and 0 < kept[2].isfinite().sum() < 200
    assert torch.equal(kept[3].isfinite(), scores[3] >= scores[3].max() + torch.tensor(0.2).log())


def test_equals_at_the_edge_of_top_k_stay() -> None:
    assert _truncate(torch.tensor([[1.0, 2.0, 2.0, 3.0, 0.0]]), top_k=2).isfinite().tolist() == [
        [False, *[True] * 3, False]
    ]


def _golden() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "expected.safetensors")


def _numbered(expected: dict[str, torch.Tensor], name: str) -> list[tuple[float, torch.Tensor]]:
    """(value, scores) of every case of one setting."""
    found = [(re.fullmatch(rf"{name}_([\d.]+?)(\.ties)?", key), key) for key in expected]
    return [(float(match[1]), expected[key]) for match, key in found if match]


def _plain_top_p(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Hugging Face's words for it, with a stable sort: which of equals stay is then no affair of the processor's."""
    ascending, order = scores.sort(dim=-1, stable=True)
    out = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    out[:, -1] = False
    return scores.masked_fill(torch.zeros_like(out).scatter(1, order, out), float("-inf"))


def test_the_official_truncation() -> None:
    """Bit for bit. Which of several equals stay at the edge of top-p depends there on how the processor sorts: their
    number is the official one, and they are those of a stable sort."""
    given, expected = _golden()
    assert [len(_numbered(expected, name)) for name in ("top_p", "top_k")] == [14, 3]
    for value, scores in _numbered(expected, "top_k"):
        assert torch.equal(_truncate(given["logits"], top_k=int(value)), scores)
    for value, scores in _numbered(expected, "top_p"):
        own = given["ties_logits" if len(scores) == 1 else "logits"]
        assert torch.equal(_truncate(own, top_p=value), _plain_top_p(own, value))
        assert torch.equal(_truncate(own, top_p=value).sort().values, scores.sort().values)
        assert len(scores) == 1 or torch.equal(_truncate(own, top_p=value), scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.99), st.integers(0, 300), st.sampled_from([1, 4, 64]))
def test_many_equals_are_those_of_hugging_face(seed: int, top_p: float, top_k: int, steps: int) -> None:
    """As in bfloat16, where whole groups of tokens have one score."""
    scores = (torch.randn(4, 500, generator=torch.Generator().manual_seed(seed)) * 2 * steps).round() / steps
    least = scores.topk(top_k or 500).values[:, -1:]
    wanted = _plain_top_p(scores.masked_fill(scores < least, float("-inf")), top_p)
    assert torch.equal(_truncate(scores, top_k, top_p), wanted)


def test_the_official_penalty_and_temperature() -> None:
    given, expected = _golden()
    seen = torch.zeros(given["logits"].shape, dtype=torch.bool).scatter(1, given["prev_ids"], True)
    for value, scores in _numbered(expected, "rep"):
        weaker = repetition_penalty(given["logits"], torch.tensor(value))
        assert torch.equal(torch.where(seen, weaker, given["logits"]), scores)
    for value, scores in _numbered(expected, "temperature"):
        assert torch.equal(given["logits"] / torch.full((4, 1), value), scores)


def test_the_official_chain() -> None:
    """Penalty, stop sequences, temperature, top-k, top-p: the same distribution at the end."""
    (given, expected), chain = _golden(), read_json(GOLDEN / "chain.json")
    seen = torch.zeros(given["logits"].shape, dtype=torch.bool).scatter(1, given["prev_ids"], True)
    scores = torch.where(seen, repetition_penalty(given["logits"], torch.tensor(chain["rep"])), given["logits"])
    texts = [tuple(row) for row in given["prev_ids"].tolist()]
    stops = [tuple(stop) for stop in chain["stop_words_ids"] if stop != [chain["eos_token_id"]]]
    at_stop = [row for row, text in enumerate(texts) if any(text[-len(stop) :] == stop for stop in stops)]
    forced = (expected["chain.after_stop"][:, chain["eos_token_id"]] == 2**15).nonzero()[:, 0].tolist()
    assert at_stop == forced == [1, 2]
    for row in at_stop:
        force(scores[row], chain["eos_token_id"])
    scores = _truncate(scores / chain["temperature"], chain["top_k"], chain["top_p"])
    torch.testing.assert_close(scores.softmax(-1), expected["chain.final"].softmax(-1), atol=1e-7, rtol=0)


def test_draw_follows_the_distribution_and_never_takes_what_has_none() -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    points = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    assert [int(sample(probs, point[None])) for point in points] == [1, 1, 3, 3, 4, 4]


def test_penalties_of_tokens_that_have_come() -> None:
    assert repetition_penalty(torch.tensor([2.0, -2.0]), torch.tensor(2.0)).tolist() == [1.0, -4.0]
    penalized = frequency_presence_penalty(torch.tensor([2.0, -2.0, 1.0]), torch.tensor([0, 1, 3]), 0.5, 0.25)
    assert penalized.tolist() == [2.0, -2.75, -0.75]


def test_selected_logprobs_are_log_softmax() -> None:
    logits, ids = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 8, 8])
    assert torch.allclose(selected_logprobs(logits, ids), logits.log_softmax(-1)[range(4), ids], atol=1e-6)


def test_params_take_the_folders_values_only_where_asked() -> None:
    folder = sampling_defaults({"top_p": 0.8, "repetition_penalty": 1.1, "max_new_tokens": 7, "do_sample": True})
    settled = SamplingParams(top_p=0.5).with_defaults(folder)
    assert (settled.top_p, settled.repetition_penalty, settled.max_tokens, settled.temperature) == (0.5, 1.1, 7, 1.0)
    plain = SamplingParams.plain(max_tokens=3).with_defaults(folder)
    assert (plain.top_p, plain.repetition_penalty, plain.max_tokens) == (1.0, 1.0, 3)
    assert sampling_defaults({"do_sample": False})["temperature"] == 0.0


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -2}, {"max_tokens": -1},
            {"repetition_penalty": -0.5}, {"stop": [""]}]
)  # fmt: skip
def test_senseless_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        SamplingParams(**bad).with_defaults({})  # type: ignore[arg-type]
