"""From logits to tokens: the sampler against a rule over whole rows, and what it stores of log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.sequence import Request, Sequence
from qwenkit.inference.token_counts import TokenCounts
from qwenkit.model import Transformer
from qwenkit.prompt import Prompt
from qwenkit.rng import uniform

from .conftest import GREEDY, Bytes, full_forward

PROMPT = (9, 8, 7)


def _sequence(params: SamplingParams, answer: list[int], rng_id: int = 0, eos_id: int | None = None) -> Sequence:
    """A sample with an answer so far, as the engine makes it."""
    request = Request(rng_id, f"prompt {rng_id}", Prompt(PROMPT), params, 100, frozenset(params.stop_token_ids or ()))
    request.eos_id = eos_id
    sequence = Sequence(request, 0, None, TokenCounts(PROMPT))
    request.sequences.append(sequence)
    for id in answer:
        sequence.append(id, 0.0)
    sequence.finish_reason = None
    return sequence


def _logits(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 4


def _over_whole_rows(sequence: Sequence, logits_V: Tensor, vocabulary: int) -> int:
    """The next token by plain definitions, each over the whole row, with a sort and a distribution of all tokens."""
    params, ids, size = sequence.params, sequence.ids, len(logits_V)
    logits_V = torch.where(torch.arange(size) < vocabulary, logits_V, float("-inf"))
    for id, bias in dict(params.logit_bias or ()).items():
        logits_V[id] += bias
    if len(ids) < (params.min_tokens or 0):
        logits_V[list(sequence.request.stop_ids)] = float("-inf")
    counts_V = torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=size)
    is_penalized_V = torch.zeros(size, dtype=torch.bool)
    is_penalized_V[[*PROMPT, *ids]] = True
    penalty = torch.tensor(params.repetition_penalty)
    weaker_V = torch.where(logits_V < 0, logits_V * penalty, logits_V / penalty)
    logits_V = torch.where(is_penalized_V, weaker_V, logits_V)
    logits_V = logits_V - params.frequency_penalty * counts_V - params.presence_penalty * (counts_V > 0)
    if not params.temperature:
        return int(logits_V.argmax())
    scores_V = logits_V / torch.tensor(params.temperature)
    rising_V, order_V = scores_V.sort(dim=-1, stable=True)
    top_k = size if params.top_k in (0, -1) else min(params.top_k or 0, size)
    rising_V = rising_V.masked_fill(rising_V < rising_V[size - top_k], float("-inf"))
    low_V = rising_V.softmax(-1).cumsum(-1) <= 1 - params.top_p
    low_V[-1] = False
    scores_V = torch.empty(size).scatter(0, order_V, rising_V.masked_fill(low_V & (params.top_p < 1), float("-inf")))
    probs_V = scores_V.softmax(-1)
    probs_V = probs_V.where(probs_V >= params.min_p * probs_V.max(), torch.tensor(0.0))
    sums_V = probs_V.double().cumsum(-1)
    point = float(uniform(0, *np.array([sequence.draw_counters]).T)[0]) * sums_V[-1]
    return int(torch.minimum(torch.searchsorted(sums_V, point, right=True), torch.searchsorted(sums_V, sums_V[-1])))


PARAMS = st.fixed_dictionaries({
    "temperature": st.sampled_from([0, 0.5, 1.0, 1.7]),
    "top_k": st.sampled_from([0, 1, 5, 40]),
    "top_p": st.sampled_from([1.0, 0.9, 0.35]),
    "min_p": st.sampled_from([0.0, 0.05, 0.3]),
    "repetition_penalty": st.sampled_from([1.0, 1.3, 0.8]),
    "frequency_penalty": st.sampled_from([0.0, 0.7, -0.4]),
    "presence_penalty": st.sampled_from([0.0, 1.1]),
    "logit_bias": st.sampled_from([{}, {3: 5.0, 8: -3.0, 910: 9.0}]),
    "min_tokens": st.sampled_from([0, 4]),
    "stop_token_ids": st.sampled_from([[], [1, 2, 3]]),
})  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(PARAMS, min_size=1, max_size=4), st.lists(st.integers(0, 899), max_size=6))
def test_tokens_are_those_of_a_rule_over_whole_rows(
    seed: int, given_params: list[dict[str, Any]], answer: list[int]
) -> None:
    """Each row with its own settings, behind some that the others do not see."""
    params = [SamplingParams.plain(seed=seed, **values) for values in given_params]
    logits_BV = _logits(len(params), 920, seed)
    wanted = [_over_whole_rows(_sequence(each, answer, row), logits_BV[row].clone(), 900)
              for row, each in enumerate(params)]  # fmt: skip
    sequences = [_sequence(each, answer, row) for row, each in enumerate(params)]
    before = logits_BV.clone()
    Sampler(900).append_tokens(sequences, logits_BV)
    assert [sequence.ids[-1] for sequence in sequences] == wanted
    assert torch.equal(logits_BV, before)
    logprobs = before.log_softmax(-1)[range(len(params)), wanted]
    assert [sequence.logprobs[-1] for sequence in sequences] == pytest.approx(logprobs.tolist(), abs=1e-5)


def test_a_step_read_at_once_is_the_step_read_bit_by_bit() -> None:
    """Rows of all kinds, one that is not finite, one whose few candidates do not suffice, and a change of logits."""
    plain = SamplingParams.plain(max_tokens=9, logprobs=2, ignore_eos=True)
    kinds = ({"temperature": 0}, {"temperature": 0.8}, {"top_k": 9}, {"top_p": 0.999}, {"min_p": 0.1}, {})
    asked = [replace(plain, **each) for each in kinds]  # type: ignore[arg-type]
    logits_BV = _logits(6, 6000)
    logits_BV[3], logits_BV[5, 17] = 0.0, float("nan")
    found = []
    for at_once, bias in ((False, None), (True, None), (True, {5: 90.0})):
        sampler = Sampler(5900)
        sampler.at_once = at_once
        sequences = [_sequence(params, [3], rng_id=row) for row, params in enumerate(asked)]
        for sequence in sequences:
            sequence.token_counts = None
        if bias is not None:
            sequences[0].request.params = replace(asked[0], logit_bias=bias)
        sampler.append_tokens(sequences, logits_BV.clone())
        found.append([(s.ids, s.logprobs, s.top_logprobs, s.finish_reason) for s in sequences])
    assert found[0] == found[1] and found[0][5][3] == "not finite" and len(found[0][3][0]) == 2
    assert found[2][1:] == found[0][1:] and found[2][0][0] == [3, 5]


def test_a_row_that_is_not_finite_ends_alone() -> None:
    logits_BV = _logits(3, 50)
    logits_BV[1, 7] = float("nan")
    sequences = [_sequence(SamplingParams.plain(temperature=0), [], row) for row in range(3)]
    Sampler(50).append_tokens(sequences, logits_BV)
    assert [sequence.finish_reason for sequence in sequences] == [None, "not finite", None]
    assert [sequence.ids for sequence in sequences] == [[int(logits_BV[0].argmax())], [], [int(logits_BV[2].argmax())]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_come(temperature: float) -> None:
    params = SamplingParams.plain(temperature=temperature, allowed_token_ids=[4, 11])
    logits_BV = _logits(2, 50)
    for seed in range(20):
        sequences = [_sequence(params, [], seed), _sequence(SamplingParams.plain(temperature=0), [])]
        Sampler(50).append_tokens(sequences, logits_BV)
        assert sequences[0].ids[0] in ((4, 11) if temperature else (int(logits_BV[0, [4, 11]].argmax()) * 7 + 4,))
        assert sequences[1].ids == [int(logits_BV[1].argmax())]


def test_where_no_token_may_follow_the_request_ends() -> None:
    params = SamplingParams.plain(temperature=1.0, allowed_token_ids=[4], stop_token_ids=[4], min_tokens=2)
    sequences = [_sequence(params, []), _sequence(SamplingParams.plain(temperature=0), [])]
    Sampler(50).append_tokens(sequences, _logits(2, 50))
    assert [sequence.finish_reason for sequence in sequences] == ["error", None] and len(sequences[1].ids) == 1
    assert str(sequences[0].request.error) == (
        "prompt 0: no token may follow\n  hint: what is asked for forbids every token at this point"
    )


def test_such_a_request_raises_its_error_and_leaves_the_others(model: Transformer) -> None:
    engine = Engine(model)
    stuck = SamplingParams.plain(temperature=0, allowed_token_ids=[4], stop_token_ids=[4], min_tokens=2, n=2)
    first, second = engine.submit([1, 2], stuck), engine.submit([1, 2], GREEDY)
    deltas = [delta for _ in range(30) if engine.has_work for delta in engine.step()]
    errors = [delta.error for delta in deltas if delta.handle == first and delta.error]
    assert [str(error).splitlines()[0] for error in errors] == ["request 0: no token may follow"]
    outputs = [delta.output for delta in deltas if delta.handle == second and delta.output]
    assert outputs[0].ids == full_forward(model, [1, 2], 20)


def test_bad_words_do_not_come(model: Transformer) -> None:
    """A word of one token never, one of several never as a whole: its last token is what is forbidden."""
    engine = Engine(model, Bytes())
    letters = SamplingParams.plain(temperature=0, max_tokens=60, allowed_token_ids=list(range(97, 123)))
    free = engine.generate([[*PROMPT]], letters)[0].text or ""
    words = [free[3], next(free[i : i + 2] for i in range(60) if free[3] not in free[i : i + 2])]
    (output,) = engine.generate([[*PROMPT]], replace(letters, bad_words=words))
    assert output.text and len(output.text) == 60 and words[1][1] in output.text
    assert not any(word in output.text for word in words)


def test_bad_words_need_a_tokenizer(model: Transformer) -> None:
    with pytest.raises(UserError) as caught:
        Engine(model).generate([[1]], SamplingParams(bad_words="no"))
    assert (
        str(caught.value) == "bad words needs a tokenizer\n  expected: Engine(model, tok)\n  hint: or hand in token ids"
    )


def test_the_most_likely_tokens_of_each_position(model: Transformer) -> None:
    """Those of the model's own distribution, whatever is done to it; in samples and in deltas."""
    engine = Engine(model, Bytes())
    params = SamplingParams.plain(temperature=0, max_tokens=6, logprobs=3, logit_bias={5: 100}, ignore_eos=True)
    (output,) = engine.generate([[*PROMPT]], params)
    logits_TV = model(torch.tensor([[*PROMPT, *output.ids]]))[0, len(PROMPT) - 1 : -1].detach()
    logprobs_TV = logits_TV.float().log_softmax(-1)
    assert output.ids == [5] * 6 and output.top_logprobs is not None
    for row, pairs, wanted in zip(logprobs_TV, output.top_logprobs, logprobs_TV.topk(3).indices.tolist(), strict=True):
        assert [id for id, _ in pairs] == wanted
        assert [value for _, value in pairs] == pytest.approx(row[wanted].tolist(), abs=1e-5)
    engine.submit([*PROMPT], params)
    deltas = [delta for _ in range(9) if engine.has_work for delta in engine.step()]
    assert [pairs for delta in deltas for pairs in delta.top_logprobs or ()] == output.top_logprobs
    for plain in (True, 1, 0):
        (output,) = engine.generate([[*PROMPT]], SamplingParams.plain(temperature=0, max_tokens=2, logprobs=plain))
        assert output.logprobs is not None and output.top_logprobs is None
