"""Random schedules: whatever the steps, the cuts, the company, the places and what is found, a request gets the same.

Ids and bits of log-probabilities are those of the request alone; and the log-probabilities are those of one forward
pass over prompt and answer: a sum over `terms` products of numbers around 1 in float32, in each of two layers, differs
by at most about terms * eps per layer, which softmax does not enlarge.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from qwenkit.inference import Delta, Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension

from .conftest import SHAPE

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
EXTENDED = replace(CONFIG, extension=ContextExtension(seq_length=16, dynamic_ntk=True, logn=True), windows=(40, None))
HEADS = ([3] * 70, [(5 * i) % 256 for i in range(50)], [])


def make(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=0, std=0.3).eval()


def make_requests(draw: random.Random, count: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts, many of which begin alike, and settings of all kinds."""
    requests = []
    for number in range(count):
        prompt = [*draw.choice(HEADS), *(draw.randrange(256) for _ in range(draw.randrange(1, 30)))]
        settings: dict[str, Any] = {"temperature": draw.choice([0.0, 1.0]), "max_tokens": draw.randrange(1, 40)}
        settings |= draw.choice([{}, {"top_p": 0.8}, {"top_k": 20}, {"repetition_penalty": 1.3}, {"n": 3}])
        requests.append((prompt, SamplingParams.plain(seed=number, logprobs=True, ignore_eos=True, **settings)))
    return requests


def played(engine: Engine, requests: list[Any], draw: random.Random, aborts: bool) -> dict[int, list[Any]]:
    """Submit at random times, abort some, step to the end; the samples by the number of the request."""
    handles: dict[int, int] = {}
    waiting = list(range(len(requests)))
    draw.shuffle(waiting)
    deltas: list[Delta] = []
    for _ in range(4000):
        while waiting and draw.random() < 0.5:
            number = waiting.pop()
            handle = engine.submit(*requests[number], rng_id=number, priority=draw.randrange(2))
            handles[handle] = number
        if aborts and handles and draw.random() < 0.05:
            engine.abort(draw.choice(list(handles)))
        deltas += engine.step()
        if not waiting and not engine.has_work:
            break
    assert not engine.has_work and engine.stats().kv_tokens_used == 0
    return {handles[d.handle]: d.output.samples for d in deltas if d.output is not None}


SETTINGS: dict[str, dict[str, Any]] = {
    "plenty": {},
    "one token a step": {"step_tokens": 1, "max_batch": 3},
    "few tokens": {"step_tokens": 13, "max_batch": 5},
    "few blocks": {"kv_tokens": 176, "max_batch": 8},
    "few of both": {"kv_tokens": 160, "step_tokens": 40, "max_batch": 6},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [CONFIG, EXTENDED], ids=["plain", "extended"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["auto", "int8_per_token_head"])
def test_bits_are_those_of_the_request_alone(name: str, config: ModelConfig, kind: str, seed: int) -> None:
    draw = random.Random(seed)
    model, requests = make(config), make_requests(draw, 12)
    engine = Engine(model, None, kv_cache=kind, **SETTINGS[name])
    samples = played(engine, requests, draw, aborts=seed == 2)
    assert samples and (seed == 2 or len(samples) == 12)
    for number, found in samples.items():
        alone = Engine(model, None, kv_cache=kind).generate([requests[number][0]], [requests[number][1]], [number])[0]
        assert [(s.ids, s.logprobs) for s in found] == [(s.ids, s.logprobs) for s in alone.samples]
    stats = engine.stats()
    assert stats.prompt_tokens_found > 0 and stats.prompt_tokens_computed > 0
    assert (stats.preemptions > 0) == ("few blocks" in name or "both" in name)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("invariant", [True, False])
def test_log_probabilities_are_those_of_one_forward_pass(name: str, invariant: bool) -> None:
    model, draw = make(CONFIG), random.Random(5)
    requests = make_requests(draw, 10)
    engine = Engine(model, None, invariant=invariant, **SETTINGS[name])
    for number, samples in played(engine, requests, draw, aborts=False).items():
        prompt = requests[number][0]
        for sample in samples:
            with torch.no_grad():
                logprobs = model(torch.tensor([[*prompt, *sample.ids]])).log_softmax(-1)[0, len(prompt) - 1 : -1]
            wanted = logprobs.gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
            assert sample.logprobs == pytest.approx(wanted, abs=1e-4)


def test_scores_are_read_behind_what_they_share() -> None:
    """Four choices behind one beginning, which is read once: the numbers are those of each text alone, to the bit."""
    model, shots = make(CONFIG), [(5 * i) % 256 for i in range(100)]
    prompts = [[*shots, question, 7] for question in range(5) for _ in range(4)]
    choices = [[choice, choice + 1] for _ in range(5) for choice in range(4)]
    engine = Engine(model, None)
    found = engine.score(prompts, choices)
    assert found == [Engine(model, None).score([p], [c])[0] for p, c in zip(prompts, choices)]
    with torch.no_grad():
        for prompt, choice, scores in zip(prompts, choices, found):
            logprobs = model(torch.tensor([[*prompt, *choice]])).log_softmax(-1)[0, len(prompt) - 1 : -1]
            assert scores == pytest.approx(logprobs.gather(1, torch.tensor(choice)[:, None])[:, 0].tolist(), abs=1e-4)
    stats = engine.stats()
    assert stats.prompt_tokens_computed < 103 + 20 * 16 and stats.prompt_tokens_asked == 20 * 103


def test_what_was_found_is_told() -> None:
    model, engine_prompt = make(CONFIG), [3] * 50
    engine, params = Engine(model, None), SamplingParams.plain(max_tokens=3)
    first, second = (engine.generate([engine_prompt], params)[0] for _ in range(2))
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 48) and first.ids == second.ids
    other = engine.submit(engine_prompt, params, cache_salt="another user")
    (output,) = [d.output for _ in range(3) for d in engine.step() if d.output is not None]
    assert (output.request, output.num_cached_tokens) == (other, 0)
    engine.update_weights()
    assert engine.generate([engine_prompt], params)[0].num_cached_tokens == 0
