"""Requests that are prepared on one thread and queued on another, and where their draws begin."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.inference import Conversation, Delta, Engine, SamplingParams
from qwenkit.model import Transformer

from .conftest import Bytes, completed

WARM = SamplingParams.plain(max_tokens=20, temperature=1.5, seed=3)


def _all_deltas(engine: Engine) -> list[Delta]:
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    return deltas


def test_a_request_may_be_prepared_on_any_thread_while_the_engine_steps(model: Transformer) -> None:
    """Nothing of the engine changes; handle, label and draws come with the place in the queue."""
    engine, alone = Engine(model, Bytes()), Engine(model, Bytes())
    conversation = Conversation([{"role": "user", "content": "hi"}])
    asked: list[Any] = ["one", [5, 6, 7], conversation, "two", conversation]
    running = engine.submit("zero", WARM)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(engine.prepare, prompt, WARM) for prompt in asked]
        deltas = engine.step()
        requests = [future.result() for future in futures]
    assert [request.handle for request in requests] == [-1] * 5
    handles = [engine.enqueue(request) for request in reversed(requests)]
    assert (running, handles) == (0, [1, 2, 3, 4, 5])
    assert [request.label for request in reversed(requests)] == [f"request {handle}" for handle in handles]
    assert [257 in request.stop_ids for request in requests] == [False, False, True, False, True]
    for prompt in ["zero", *reversed(asked)]:
        alone.submit(prompt, WARM)
    assert completed([*deltas, *_all_deltas(engine)]) == completed(_all_deltas(alone))


def test_a_prepared_request_is_queued_once_and_under_its_configuration(model: Transformer) -> None:
    engine = Engine(copy.deepcopy(model), Bytes())
    with pytest.raises(UserError) as caught:
        engine.prepare(Conversation("hi"), WARM)  # type: ignore[arg-type]
    assert str(caught.value).startswith("request = 'hi'\n")
    request = engine.prepare("one", replace(WARM, max_tokens=180))
    engine.reconfigure(replace(model.config, max_position_embeddings=100))
    with pytest.raises(UserError) as caught:
        engine.enqueue(request)
    assert str(caught.value) == "request: prepared under another configuration\n  hint: prepare it again"
    request = engine.prepare("one", WARM)
    engine.enqueue(request)
    with pytest.raises(UserError) as caught:
        engine.enqueue(request)
    assert str(caught.value) == "request 0 was queued already\n  expected: a new one, made by `prepare`"
    assert len(completed(_all_deltas(engine))) == 1 and not engine.has_work


def test_a_later_turn_goes_on_with_the_draws(model: Transformer) -> None:
    """Where the answer so far is the end of the prompt, its turn is what one longer answer would have been."""
    engine = Engine(model, Bytes())
    params = replace(WARM, n=3, max_tokens=12, ignore_eos=True)
    (whole,) = engine.generate([[1, 2, 3]], params, [7])
    begun, single = replace(params, max_tokens=5), replace(params, n=1, max_tokens=7)
    (turn,) = engine.generate([[1, 2, 3]], begun, [7])
    for number, sample in enumerate(turn.samples):
        engine.submit([1, 2, 3, *sample.ids], single, 7, sample=number, first_draw=len(sample.ids))
    rests = completed(_all_deltas(engine)).values()
    assert [[*a.ids, *b] for a, b in zip(turn.samples, rests, strict=True)] == [s.ids for s in whole.samples]
    (rest,) = engine.generate([[1, 2, 3, *turn.ids]], single, [7], [5])
    assert [*turn.ids, *rest.ids] == whole.ids
    for name in ("sample", "first_draw"):
        with pytest.raises(UserError) as caught:
            engine.submit([1], single, **{name: -1})
        assert str(caught.value) == f"{name} = -1\n  expected: an integer, 0 or more"
    with pytest.raises(UserError, match=r"first_draws\[0\] = 'a'"):
        engine.generate([[1]], single, [7], ["a"])  # type: ignore[list-item]


def test_what_one_request_may_take_of_an_engine_is_bounded(model: Transformer) -> None:
    engine = Engine(model, Bytes())
    with pytest.raises(UserError) as caught:
        engine.submit("one", replace(WARM, n=129))
    assert str(caught.value) == (
        "request 0: n = 129\n  expected: at most 128 answers of a request\n"
        "  hint: ask several times, or use Engine.generate"
    )
    assert len(engine.prepare("one", replace(WARM, n=128)).sequences) == 128
    assert len(engine.generate([[1]], replace(WARM, n=129, max_tokens=1))[0].samples) == 129
    with pytest.raises(UserError) as caught:
        engine.prepare("one", WARM, cache_salt="a" * 1001)
    assert str(caught.value).endswith("  expected: a string of at most 1000 characters; or None")


def test_a_second_thread_inside_an_engine_is_told_of_the_loop(model: Transformer) -> None:
    engine, inside, go_on = Engine(model, Bytes()), threading.Event(), threading.Event()
    states = engine.runner.forward.states

    def slow(*given: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return states(*given)

    engine.runner.forward.states = slow  # type: ignore[method-assign]
    asks: list[Any] = [
        engine.step, engine.update_weights, engine.release_cache, lambda: engine.reconfigure(model.config),
        lambda: engine.abort(0),
        lambda: engine.submit([1]), lambda: engine.generate([[1]], WARM), lambda: engine.score([[1, 2]]),
        lambda: list(engine.stream([1], WARM)), engine.release_cache,
    ]  # fmt: skip
    refused, table = engine.prepare("one", WARM), engine._requests._requests
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.generate, ["zero"], WARM)
        assert inside.wait(60)
        for ask in asks:
            with pytest.raises(UserError) as caught:
                ask()
            assert str(caught.value) == (
                "another thread is inside this engine\n  expected: one thread at a time\n"
                "  hint: EngineLoop(engine) takes requests from any thread"
            )
        assert engine.stats().running >= 0 and engine.prepare("one", WARM).handle == -1  # which any thread may ask
        with pytest.raises(UserError):
            engine.enqueue(refused)
        assert engine._requests._requests is table, "a refused call leaves alone what the other thread works with"
        go_on.set()
        outputs = running.result()
    assert outputs[0].samples == engine.generate(["zero"], WARM)[0].samples
    handles = engine.submit("another", WARM), engine.enqueue(refused)  # what was refused is as it was
    done = completed(_all_deltas(engine))
    assert done[handles[1]] == engine.generate(["one"], WARM, [handles[1]])[0].ids
    engine.update_weights()
