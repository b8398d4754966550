"""Log-probabilities of prompts: stored piece by piece, for texts to score and beside an answer."""

from __future__ import annotations

import pytest
import torch

from qwenkit.errors import Stopped
from qwenkit.inference import Engine, SamplingParams
from qwenkit.inference.scheduler import PromptPiece
from qwenkit.inference.scoring import record_logprobs, scored_tokens
from qwenkit.inference.sequence import Request
from qwenkit.model import Transformer

from .conftest import make_prompts

BROKEN = 260


def requested(model: Transformer, prompt: list[int], **params: object) -> Request:
    settings = SamplingParams.plain(max_tokens=1, **params)
    return Engine(model).request_factory.make_request(prompt, settings, 0, "prompt 0")


def test_log_probabilities_of_a_prompt(model: Transformer) -> None:
    """Stored piece by piece, also twice, and of several requests in one step; the first token has none."""
    prompt = torch.randint(0, 256, (9,), generator=torch.Generator().manual_seed(0)).tolist()
    h_TD = model.hidden(torch.tensor([prompt]))[0].detach()
    logprobs_TV = model.head(h_TD).log_softmax(-1).detach()
    one, four = requested(model, prompt, prompt_logprobs=True), requested(model, prompt, prompt_logprobs=4)
    for start, stop in ((0, 4), (2, 6), (4, 9), (0, 9)):
        pieces: list[PromptPiece] = [(request.sequences[0], start, stop) for request in (one, four)]
        parts = scored_tokens(pieces, at=3)
        places = [place for part in parts for place in part.places]
        states_ND = torch.cat([torch.full((3, 32), float("nan")), *[h_TD[start:stop]] * 2])
        record_logprobs(parts, model, states_ND[places])
    assert not scored_tokens([(one.sequences[0], 0, 9)], at=0), "nothing is computed twice"
    wanted = [None, *(pytest.approx(value, abs=1e-5) for value in logprobs_TV[range(8), prompt[1:]].tolist())]
    for request in (one, four):
        request.sequences[0].finish_reason = "length"
        output = request.to_output(None, 0)
        assert output.prompt_logprobs == wanted
        pairs = output.prompt_top_logprobs
        if request is one:
            assert pairs is None
        else:
            assert pairs is not None and pairs[0] is None
            assert [[id for id, _ in each or ()] for each in pairs[1:]] == logprobs_TV[:8].topk(4).indices.tolist()


def test_a_prompt_without_such_a_wish_is_not_scored(model: Transformer) -> None:
    request = requested(model, [1, 2, 3])
    assert scored_tokens([(request.sequences[0], 0, 3)], at=0) == []
    request.sequences[0].finish_reason = "length"
    assert request.to_output(None, 0).prompt_logprobs is None


def test_a_prompt_whose_states_are_not_finite_ends(model: Transformer) -> None:
    request = requested(model, [1, 2, 3], prompt_logprobs=True)
    parts = scored_tokens([(request.sequences[0], 0, 3)], at=0)
    record_logprobs(parts, model, torch.full((2, 32), float("nan")))
    assert request.sequences[0].finish_reason == "not finite"
    assert str(request.error).startswith("prompt 0, position 1: the model's logits are NaN or infinite")


def test_both_ways_to_ask_get_the_same_bits(model: Transformer) -> None:
    prompts = make_prompts(6, longest=90)
    params = SamplingParams.plain(max_tokens=2, prompt_logprobs=3)
    for step_tokens in (1024, 17):
        scored = Engine(model, step_tokens=step_tokens).score(prompts)
        outputs = Engine(model, step_tokens=step_tokens).generate(prompts, params)
        assert [output.prompt_logprobs for output in outputs] == [[None, *row] for row in scored]


def test_a_beginning_that_is_not_finite_is_never_found_again(model: Transformer) -> None:
    """Of a text to score neither: another one with the same beginning would meet numbers that are not finite. The tile
    of 64 that has the broken token is not finite as a whole."""
    broken = Transformer(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.model.embed_tokens.weight[BROKEN] = float("nan")
    engine = Engine(broken.eval(), native=False)
    prompt = [*range(1, 101), BROKEN, *range(101, 121)]
    with pytest.raises(Stopped, match="prompt 0, position 65: the model's logits are NaN or infinite"):
        engine.score([prompt])
    assert engine.stats().kv_tokens_used == 0
    pool = engine.scheduler.pool
    assert not pool._found, "not even the blocks before it"
    assert engine.score([[1, 2, 3]]) == Engine(model, native=False).score([[1, 2, 3]])
