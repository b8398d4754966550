"""Requests from many threads get what `generate` gives, whatever the schedule. The engine is a real one."""

from __future__ import annotations

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import Stopped, UserError
from qwenkit.inference import Conversation, Delta, Engine, EngineLoop, Output, RequestAborted, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.platform import torch_threads

from .conftest import GREEDY, SHAPE, Bytes, alone
from .fake_engine import LIMIT

MODEL = init_weights(Transformer(ModelConfig(**SHAPE)), seed=0, std=0.3).eval()  # type: ignore[arg-type]
WARM = SamplingParams.plain(max_tokens=12, temperature=1.5, seed=3)
ASKED: list[tuple[Any, SamplingParams]] = [
    ("once upon", WARM),
    ("once upon a time", replace(WARM, n=3)),
    ([5, 6, 7], GREEDY),
    (Conversation([{"role": "user", "content": "hi"}]), WARM),
    ("short", replace(WARM, max_tokens=1)),
    ("none", replace(WARM, max_tokens=0)),
]
"""The number of a request is also that of its draws."""


with torch_threads(1):
    ALONE = [alone(MODEL, number, *ASKED[number]) for number in range(len(ASKED))]


def check(deltas: list[Delta], output: Output, number: int) -> None:
    """The output is that of the request alone, and the deltas add up to it; the last one holds it."""
    assert output.samples == ALONE[number].samples and output.prompt_ids == ALONE[number].prompt_ids
    assert deltas[-1].output is output and all(delta.output is None for delta in deltas[:-1])
    for index, sample in enumerate(output.samples):
        own = [delta for delta in deltas if delta.sample == index]
        assert [id for delta in own for id in delta.ids] == sample.ids
        assert "".join(delta.text or "" for delta in own) == sample.text
        assert [x for delta in own for x in delta.logprobs or ()] == sample.logprobs


def consume(loop: EngineLoop, seed: int) -> int:
    """Ask six times at random, and read, abort or forget; return how many were read to their end."""
    rng, read = random.Random(seed), 0
    for _ in range(6):
        number = rng.randrange(len(ASKED))
        handle = loop.submit(*ASKED[number], rng_id=number, timeout=LIMIT)
        match rng.randrange(4):
            case 0:
                for _ in range(rng.randrange(4)):
                    handle.next(LIMIT)
                handle.abort()
            case 1:
                del handle
            case _:
                check(list(handle), handle.result(LIMIT), number)
                read += 1
    return read


@pytest.mark.parametrize("max_batch", [2, 64])
def test_eight_threads_submit_read_abort_and_forget(max_batch: int) -> None:
    engine = Engine(MODEL, Bytes(), max_batch=max_batch)
    with EngineLoop(engine, max_undelivered=2) as loop, ThreadPoolExecutor(8) as pool:
        read = sum(pool.map(lambda seed: consume(loop, seed), range(8)))
        assert loop.drain(LIMIT)
        stats = loop.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.completed >= read > 8 and stats.completed + stats.failed == 48
    assert not engine.has_work or engine.step() == []
    assert engine.generate([ASKED[0][0]], WARM, rng_ids=[0])[0].samples == ALONE[0].samples, "it is ours again"


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, len(ASKED) - 1)),
        st.tuples(st.sampled_from(["next", "abort", "forget", "result", "generate"]), st.integers(0, 5)),
    ),
    min_size=3, max_size=14,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(ACTIONS, st.sampled_from([1, 3, 64]), st.sampled_from([1, 8]))
def test_any_schedule_gives_every_request_its_own_answer(
    actions: list[tuple[str, int]], max_batch: int, max_undelivered: int
) -> None:
    engine = Engine(MODEL, Bytes(), max_batch=max_batch)
    asked: list[tuple[int, Any, list[Delta]]] = []
    with EngineLoop(engine, max_undelivered=max_undelivered) as loop:
        for action, number in actions:
            if action == "submit":
                asked.append((number, loop.submit(*ASKED[number], rng_id=number), []))
            elif action == "generate":
                (output,) = loop.call(lambda: engine.generate([ASKED[0][0]], WARM, rng_ids=[0]), timeout=LIMIT)
                assert output.samples == ALONE[0].samples
            elif asked:
                index = number % len(asked)
                of, handle, deltas = asked[index]
                if action == "next":
                    deltas += [delta] if (delta := handle.next(LIMIT)) is not None else []
                elif action == "result":
                    assert handle.result(LIMIT).samples == ALONE[of].samples
                else:
                    del asked[index]
                    if action == "abort":
                        handle.abort()
        assert len(asked) == len({handle.number for _, handle, _ in asked})
        for number, handle, deltas in asked:
            deltas += list(handle)
            check(deltas, handle.result(LIMIT), number)
        assert loop.drain(LIMIT)
    assert engine.runner.cache is not None and not engine._requests.are_unfinished


def test_new_weights_come_between_the_requests() -> None:
    """Those that were there before end under the old weights, those behind them wait for the new ones."""
    model = copy.deepcopy(MODEL)
    engine = Engine(model, Bytes())
    other = init_weights(Transformer(model.config), seed=9, std=0.3).eval()
    with EngineLoop(engine) as loop:
        with pytest.raises(UserError, match="new weights while requests are pending"):
            running = loop.submit([1, 2], replace(GREEDY, max_tokens=150))
            assert running.next(LIMIT) is not None
            loop.call(engine.update_weights, timeout=LIMIT)
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(
                loop.call, lambda: engine.update_weights(other.state_dict()), timeout=LIMIT, when_idle=True
            )
            before = running.result(LIMIT)
            done.result(LIMIT)
        after = loop.submit([1, 2], replace(GREEDY, max_tokens=150)).result(LIMIT)
    assert (before.version, after.version) == (0, 1)
    for output, owner in ((before, MODEL), (after, other)):
        (wanted,) = Engine(owner, Bytes()).generate([[1, 2]], replace(GREEDY, max_tokens=150))
        assert output.ids == wanted.ids


def test_a_fault_of_one_request_is_its_own() -> None:
    broken = copy.deepcopy(MODEL)
    with torch.no_grad():
        broken.model.embed_tokens.weight[260] = float("nan")
    with EngineLoop(Engine(broken, Bytes())) as loop:
        good, bad = loop.submit([1, 2, 3], GREEDY), loop.submit([4, 260], replace(GREEDY, n=2))
        for ask in (bad.result, lambda limit: list(bad)):
            with pytest.raises(Stopped) as caught:
                ask(LIMIT)
            assert str(caught.value).startswith("request 1, sample 0, position 2: the model's logits are NaN or inf")
        for prompt, words in (([9**9], "request: token id 387420489 is not in the model"), ([], "request: empty")):
            with pytest.raises(UserError) as refused:
                loop.submit(prompt)
            assert str(refused.value).startswith(words)
        assert good.result(LIMIT).ids == Engine(MODEL, Bytes()).generate([[1, 2, 3]], GREEDY)[0].ids
        assert loop.stats().state == "running"


def test_another_configuration_refuses_what_was_prepared_under_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(copy.deepcopy(MODEL), Bytes())
    request = engine.prepare("one", replace(WARM, max_tokens=180))
    engine.reconfigure(replace(MODEL.config, max_position_embeddings=100))
    monkeypatch.setattr(engine, "prepare", lambda *_, **__: request)
    with EngineLoop(engine) as loop, pytest.raises(UserError) as caught:
        loop.submit("one").result(LIMIT)
    assert str(caught.value) == "request: prepared under another configuration\n  hint: prepare it again"


def test_the_loop_computes_with_the_threads_of_where_it_was_made() -> None:
    with torch_threads(2), EngineLoop(Engine(MODEL, Bytes())) as loop:
        assert loop.call(torch.get_num_threads, timeout=LIMIT) == 2
    with EngineLoop(Engine(MODEL, Bytes())) as loop:
        assert loop.call(torch.get_num_threads, timeout=LIMIT) == 1


def test_a_later_turn_goes_on_with_the_draws() -> None:
    (whole,) = Engine(MODEL, Bytes()).generate([[1, 2, 3]], replace(WARM, ignore_eos=True), [7])
    with EngineLoop(Engine(MODEL, Bytes())) as loop:
        begun = [1, 2, 3, *whole.ids[:5]]
        rest = loop.submit(begun, replace(WARM, max_tokens=7, ignore_eos=True), 7, first_draw=5)
        assert rest.result(LIMIT).ids == whole.ids[5:]


def test_two_consumers_of_one_request_share_its_deltas() -> None:
    with EngineLoop(Engine(MODEL, Bytes())) as loop:
        handle = loop.submit("once", replace(GREEDY, max_tokens=100))
        shares: list[list[Delta]] = [[], []]
        threads = [threading.Thread(target=lambda own=own: own.extend(handle)) for own in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sum(len(delta.ids) for own in shares for delta in own) == 100
        gone = loop.submit("once", replace(GREEDY, max_tokens=100))
        gone.abort()
        with pytest.raises(RequestAborted):
            gone.result(LIMIT)
