"""One bad call leaves the engine as it was, and calls that interleave get what each would have got alone."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from qwenkit.errors import Stopped, UserError
from qwenkit.inference import Engine, Output, Sample, SamplingParams
from qwenkit.inference.paged_cache import PagedPass
from qwenkit.model import Transformer

from .conftest import GREEDY, Bytes, completed, full_forward, make_prompts

BROKEN = 260  # a token that is never drawn; its embedding is NaN in the model `damaged`
WARM = SamplingParams.plain(max_tokens=40, ignore_eos=True, temperature=1.5, seed=3)
CHAT = [[{"role": "user", "content": "hi"}]]


@pytest.fixture(name="damaged", scope="module")
def _damaged(model: Transformer) -> Transformer:
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.model.embed_tokens.weight[BROKEN] = float("nan")
    return damaged


def _alone(model: Transformer, prompt: list[int]) -> list[int]:
    """What an engine without a history answers."""
    return Engine(model, Bytes()).generate([prompt], GREEDY)[0].ids


def _drain(engine: Engine, count: int) -> dict[int, list[int]]:
    """Step until that many submitted requests are complete."""
    done: dict[int, list[int]] = {}
    while len(done) < count:
        done.update(completed(engine.step()))
    return done


def _failing(work: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A function that is interrupted once, at its call number `at`."""
    calls = itertools.count()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return work(*args, **kwargs)

    return wrapped


def _samples(outputs: list[Output]) -> list[list[Sample]]:
    return [output.samples for output in outputs]


FOUR = SamplingParams.plain(n=4, max_tokens=9, ignore_eos=True)
CALLS: dict[str, Callable[[Engine], Any]] = {
    "generate": lambda engine: _samples(engine.generate(["one", "two", "three"], GREEDY)),
    "samples": lambda engine: _samples(engine.generate(["one"], FOUR)),
    "chat": lambda engine: _samples(engine.chat(CHAT, GREEDY)),
    "stream": lambda engine: list(engine.stream("one", GREEDY)),
    "score": lambda engine: engine.score(["one"], ["two"]),
}


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_leaves_the_others_as_they_were(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    """In the first pass over its prompts and later; with rows of others that run, and with some that wait."""
    at = 0 if name == "score" else at
    prompts = make_prompts(4)
    engine = Engine(model, Bytes(), max_batch=3)
    handles = [engine.submit(prompt, GREEDY) for prompt in prompts[:2]]
    engine.step()
    handles += [engine.submit(prompt, GREEDY) for prompt in prompts[2:]]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine.runner.forward, "states", _failing(engine.runner.forward.states, at))
        CALLS[name](engine)
    assert _drain(engine, 4) == {handle: _alone(model, prompt) for handle, prompt in zip(handles, prompts, strict=True)}
    assert CALLS[name](engine) == CALLS[name](Engine(model, Bytes()))
    engine.update_weights()


def test_an_interrupt_while_blocks_are_given_out_loses_nobody(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = make_prompts(5)
    limits = [3, 20, 3, 20, 20]
    engine = Engine(model, None, max_batch=4, kv_tokens=240)
    handles = [
        engine.submit(prompt, SamplingParams.plain(temperature=0, max_tokens=limit, ignore_eos=True))
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    pool = engine.scheduler.pool
    monkeypatch.setattr(pool, "_take", _failing(pool._take, at=7))
    done: dict[int, list[int]] = {}
    interrupts = 0
    while len(done) < 5:
        try:
            done.update(completed(engine.step()))
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 1
    assert done == {h: full_forward(model, p, n) for h, p, n in zip(handles, prompts, limits, strict=True)}


BAD: dict[str, Callable[[Engine], Any]] = {
    "one prompt too long": lambda engine: engine.generate(["one", [1] * 200], GREEDY),
    "a bad id": lambda engine: engine.generate([[1], [-1]], GREEDY),
    "a bad number": lambda engine: engine.generate(["one"], GREEDY, rng_ids=[2**63]),
    "a stop token that is none": lambda engine: engine.generate(["one"], [SamplingParams.plain(stop_token_ids=[264])]),
    "a bad conversation": lambda engine: engine.chat([*CHAT, 1], GREEDY),  # type: ignore[list-item]
    "a bad prompt in a stream": lambda engine: engine.stream("", GREEDY),
    "a bad prompt alone": lambda engine: engine.submit([264], GREEDY),
}


@pytest.mark.parametrize("name", BAD)
def test_a_refused_call_changes_nothing(model: Transformer, name: str) -> None:
    """Not even the draws of a request that names no number."""
    engine, untouched = Engine(model, Bytes()), Engine(model, Bytes())
    with pytest.raises(UserError):
        BAD[name](engine)
    assert engine.submit("one", WARM) == untouched.submit("one", WARM)
    assert _drain(engine, 1) == _drain(untouched, 1)


# ---- logits that are no numbers -------------------------------------------------------------------------------------


def test_a_request_without_a_next_token_is_named_and_leaves_no_trace(damaged: Transformer, model: Transformer) -> None:
    engine = Engine(damaged, Bytes())
    with pytest.raises(Stopped) as caught:
        engine.generate([[1, 2, 3], [BROKEN] * 60], SamplingParams.plain(n=2, max_tokens=5))
    assert str(caught.value) == (
        "prompt 1, sample 0, position 60: the model's logits are NaN or infinite\n"
        "  hint: look for such numbers in its weights, or compute in float32"
    )
    with pytest.raises(Stopped, match="prompt, sample 0, position 60"):
        list(engine.stream([BROKEN] * 60, GREEDY))
    with pytest.raises(Stopped, match="prompt 1, position "):
        engine.score([[1, 2], [1, BROKEN, 2]])
    for prompts in ([[1, 2, 3]], make_prompts(9)):  # in the rows, and in the company of the rows, that held NaN
        wanted = [_alone(model, prompt) for prompt in prompts]
        assert [output.ids for output in engine.generate(prompts, GREEDY)] == wanted


@pytest.mark.parametrize("params", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_never_a_token(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, value: float, params: SamplingParams
) -> None:
    """At the second token, in one place of the vocabulary."""
    engine, calls = Engine(model, None), itertools.count()
    head = engine.runner.forward.head

    def head_with_a_hole(h_ND: torch.Tensor) -> torch.Tensor:
        logits = head(h_ND)
        if next(calls) == 1:
            logits[0, 77] = value
        return logits

    monkeypatch.setattr(engine.runner.forward, "head", head_with_a_hole)
    with pytest.raises(Stopped, match="prompt 0, sample 0, position 4"):
        engine.generate([[1, 2, 3]], params)


def test_a_fault_is_told_to_the_call_whose_request_it_is(damaged: Transformer, model: Transformer) -> None:
    engine, prompts = Engine(damaged, Bytes()), make_prompts(2)
    handles = [engine.submit(prompt, GREEDY) for prompt in (prompts[0], [1, BROKEN], prompts[1])]
    stream = engine.stream([BROKEN], GREEDY)
    assert engine.generate([prompts[0]], GREEDY)[0].ids == _alone(model, prompts[0])
    deltas = engine.step()
    (fault,) = [delta for delta in deltas if delta.error is not None]
    assert (fault.handle, fault.finish_reason, fault.ids, fault.output) == (handles[1], "not finite", [], None)
    assert str(fault.error).startswith("request 1, sample 0, position 2: the model's logits are NaN or infinite")
    assert completed(deltas) == {handles[i]: _alone(model, prompts[i // 2]) for i in (0, 2)}
    with pytest.raises(Stopped, match="prompt, sample 0, position 1"):
        next(stream)
    assert engine.step() == []


# ---- calls that interleave ------------------------------------------------------------------------------------------


def _take(stream: Iterator[str], count: int) -> str:
    return "".join(itertools.islice(stream, count))


@pytest.mark.parametrize("max_batch", [1, 2, 64])
def test_streams_and_whole_calls_interleave(model: Transformer, max_batch: int) -> None:
    """What is between two pieces of a stream may well complete it."""
    stopping = SamplingParams.plain(max_tokens=60, ignore_eos=True, temperature=1.5, seed=8, stop=["xyzzy", "plugh"])

    def ask(call: Callable[[Engine], Any]) -> Any:
        return call(Engine(model, Bytes()))

    alone = {
        "a": ask(lambda engine: "".join(engine.stream("你好 hello", WARM))),
        "b": ask(lambda engine: "".join(engine.stream("once", stopping))),
        "c": ask(lambda engine: engine.generate(["two", "three"], [WARM, stopping])[1].text),
        "d": ask(lambda engine: engine.score(["two"], ["three"])),
        "e": _alone(model, [9, 8, 7]),
    }
    engine = Engine(model, Bytes(), max_batch=max_batch)
    submitted = engine.submit([9, 8, 7], GREEDY)
    a, b = engine.stream("你好 hello", WARM), engine.stream("once", stopping)
    text_a, text_b = _take(a, 3), _take(b, 2)
    text_a, scores = text_a + _take(a, 2), engine.score(["two"], ["three"])
    outputs = engine.generate(["two", "three"], [WARM, stopping])
    text_b += "".join(b)
    text_a += "".join(a)
    assert {"a": text_a, "b": text_b, "c": outputs[1].text, "d": scores} == {name: alone[name] for name in "abcd"}
    assert _drain(engine, 1) == {submitted: alone["e"]}, "a step hands out what was submitted, and nothing else"
    assert engine.step() == []


@pytest.mark.parametrize("at", [None, 0, 1])
def test_a_prompt_that_is_left_half_read_leaves_no_nan(
    model: Transformer, damaged: Transformer, monkeypatch: pytest.MonkeyPatch, at: int | None
) -> None:
    """Aborted between two steps, or after one that was interrupted in one of its two layers."""
    engine = Engine(damaged, Bytes(), step_tokens=64, native=False)
    kept = engine.submit([4, 5], GREEDY)
    broken = engine.submit([1, BROKEN, *[1] * 150], WARM)
    engine.step()
    if at is not None:
        monkeypatch.setattr(PagedPass, "attend", _failing(PagedPass.attend, at))
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    engine.abort(broken)
    innocent = engine.submit([2, 3, 4], GREEDY)
    wanted = {kept: _alone(model, [4, 5]), innocent: _alone(model, [2, 3, 4])}
    assert _drain(engine, 2) == wanted


def test_a_stream_that_nobody_reads_on_gives_its_row_back(model: Transformer) -> None:
    engine = Engine(model, Bytes(), max_batch=1)
    never_begun, left = engine.stream("one", WARM), engine.stream("two", WARM)
    next(left)
    with pytest.raises(UserError, match="are pending"):
        engine.update_weights()
    del left
    engine.update_weights()
    assert engine.generate([[1, 2, 3]], GREEDY)[0].ids == _alone(model, [1, 2, 3])
    assert "".join(never_begun) == "".join(Engine(model, Bytes()).stream("one", WARM))


def test_weights_that_do_not_fit_are_refused_whole(model: Transformer) -> None:
    own = copy.deepcopy(model)
    engine = Engine(own, Bytes())
    state = {name: torch.zeros_like(tensor) for name, tensor in own.state_dict().items()}
    del state["model.norm.weight"]
    with pytest.raises(UserError, match=r"do not fit the model: model\.norm\.weight"):
        engine.update_weights(state)
    assert engine.version == 0
    assert engine.generate([[1, 2]], GREEDY)[0].ids == _alone(model, [1, 2])
