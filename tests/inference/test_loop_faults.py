"""An engine's loop at its limits: full, late, stuck, broken, abandoned. The engine is one without a model."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.inference import (
    EngineBusy,
    EngineLoop,
    EngineStopped,
    EngineTimeout,
    RequestAborted,
    SamplingParams,
)
from qwenkit.inference.one_thread import OneThread
from qwenkit.inference.sequence import Request
from tests.conftest import ROOT

from .fake_engine import LIMIT, FakeEngine


def of_length(count: int, n: int = 1) -> SamplingParams:
    return SamplingParams.plain(max_tokens=count, n=n)


def test_only_the_loops_thread_touches_the_engine() -> None:
    engine = FakeEngine()
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(5))
        assert [delta.ids for delta in handle] == [[0], [1], [2], [3], [4]]
        assert handle.result(LIMIT).ids == [0, 1, 2, 3, 4] and handle.next(LIMIT) is None
        assert loop.call(threading.get_ident, timeout=LIMIT) in engine.threads
    assert len(engine.threads) == 1 and threading.get_ident() not in engine.threads


def test_arguments_of_prepare_go_to_the_engine() -> None:
    engine = FakeEngine()
    with EngineLoop(engine) as loop:
        loop.submit([1], sample=2, priority=-1)
        asyncio.run(loop.asubmit([1], first_draw=5, cache_salt="mine"))
    assert engine.options == [{"sample": 2, "priority": -1}, {"first_draw": 5, "cache_salt": "mine"}]


def test_a_full_queue_refuses_and_every_end_of_a_request_frees_its_place() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine, max_waiting=2) as loop:
        first, second = loop.submit([1]), loop.submit([2])
        with pytest.raises(EngineBusy) as caught:
            loop.submit([3])
        assert str(caught.value) == "2 requests wait already\n  hint: ask again later"
        second.abort()
        engine.allow(1)
        assert first.next(LIMIT) is not None  # it runs now, and waits no more
        with pytest.raises(UserError) as refused:
            loop.submit([13])
        assert str(refused.value) == "prompt: unlucky"
        engine.allow(1)
        loop.call(list, timeout=LIMIT)  # what was asked before is done
        queued = [loop.submit([n]) for n in (4, 14)]
        engine.allow(20)
        with pytest.raises(UserError) as failed:
            queued[1].result(LIMIT)
        assert str(failed.value) == "request: unlucky, too"
        assert [handle.result(LIMIT).ids for handle in (first, queued[0])] == [[0, 1, 2]] * 2
        assert loop.drain(LIMIT)
        stats = loop.stats()
    assert (stats.state, stats.running, stats.waiting) == ("draining", 0, 0)
    assert (stats.completed, stats.failed, stats.engine) == (2, 2, None), "one aborted, one not queued"
    assert (stats.aborted, stats.timed_out, stats.refused) == (1, 0, 1)
    assert stats.first_tokens == 2 and stats.first_token_seconds > 0
    assert stats.prompt_tokens in (2, 3), "the aborted one may have been queued"
    assert stats.generated_tokens >= 6 and stats.tokens_per_second > 0


def test_a_consumer_that_never_reads_costs_a_bounded_number_of_deltas() -> None:
    engine = FakeEngine()
    with EngineLoop(engine, max_undelivered=4) as loop:
        handle = loop.submit([1], of_length(400, n=3))
        output = handle.result(LIMIT)
        assert len(handle._queue._deltas) <= 2 * 3
        deltas = list(handle)
    for number, sample in enumerate(output.samples):
        own = [delta for delta in deltas if delta.sample == number]
        assert [id for delta in own for id in delta.ids] == sample.ids == list(range(400))
        assert "".join(delta.text or "" for delta in own) == sample.text
        assert [x for delta in own for x in delta.logprobs or ()] == sample.logprobs
    assert deltas[-1].output is output


def test_after_an_abort_no_delta_comes() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(100))
        engine.allow(3)
        assert handle.next(LIMIT) is not None
        loop.abort(handle)
        for wait in (handle.next, handle.result):
            with pytest.raises(RequestAborted) as caught:
                wait(LIMIT)
            assert str(caught.value) == "request 0: the request was aborted"
        engine.allow(1)
        engine.wait_for(lambda: engine.aborted == [0])
        handle.abort()  # again, to no effect
        engine.allow(10)
        assert loop.submit([2]).result(LIMIT).ids == [0, 1, 2]


@pytest.mark.parametrize("way", ["forgotten", "in a cycle", "left by an error"])
def test_a_handle_that_nobody_has_any_more_aborts_its_request(way: str) -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(100))
        engine.wait_for(lambda: bool(engine.requests))
        if way == "left by an error":
            with pytest.raises(ZeroDivisionError), handle:
                raise ZeroDivisionError
        elif way == "in a cycle":
            handle.itself = handle  # type: ignore[attr-defined]
        del handle
        gc.collect()
        engine.allow(2)
        engine.wait_for(lambda: engine.aborted == [0])
        assert loop.drain(LIMIT)


def test_a_request_has_its_time_and_a_wait_has_its_own() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(2))
        for wait in (handle.next, handle.result):
            with pytest.raises(EngineTimeout) as caught:
                wait(0.01)
            assert str(caught.value) == "nothing came within 0.01 s\n  hint: wait longer, or abort the request"
            assert isinstance(caught.value, TimeoutError)
        late = loop.submit([2], of_length(100), timeout=0.02)
        with pytest.raises(EngineTimeout) as caught:
            late.result(LIMIT)
        assert str(caught.value) == "request 1: not complete within 0.02 s"
        forgotten = loop.submit([3], of_length(100), timeout=0.02)  # nobody waits for it
        time.sleep(0.03)
        engine.allow(10)
        assert handle.result(LIMIT).ids == [0, 1], "its own time is not over"
        assert loop.drain(LIMIT)
        with pytest.raises(EngineTimeout):
            forgotten.result(LIMIT)
    assert not engine.requests


def test_a_fault_of_the_engine_ends_everything_with_its_reason() -> None:
    engine = FakeEngine(free=False)
    fault = MemoryError()

    def fail() -> None:
        raise fault

    with EngineLoop(engine) as loop:
        handles = [loop.submit([n], of_length(10)) for n in range(3)]
        engine.allow(1)
        assert all(handle.next(LIMIT) is not None for handle in handles)
        engine.before_step = fail
        engine.allow(1)
        words = "the engine has failed: there is not enough memory\n  hint: make a new engine"
        asked = [*(handle.result for handle in handles), *(handle.next for handle in handles)]
        for ask in [*asked, lambda limit: loop.submit([1]), lambda limit: loop.call(list, timeout=limit)]:
            with pytest.raises(EngineStopped) as caught:
                ask(LIMIT)
            assert str(caught.value) == words and caught.value.__cause__ is fault
        stats = loop.stats()
        assert (stats.state, stats.error, stats.running, stats.waiting, stats.failed) == (
            "failed", "the engine has failed: there is not enough memory", 0, 0, 3
        )  # fmt: skip
        assert loop.drain(LIMIT) and loop.stop(LIMIT)


def test_a_thread_that_is_inside_the_engine_by_mistake_costs_no_request() -> None:
    """Wherever the loop meets it: where it steps, queues or aborts."""
    engine, alone = FakeEngine(), OneThread()
    met: list[str] = []

    def guarded(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            try:
                with alone:
                    return ask(*given)
            except UserError:
                met.append(name)
                raise

        return call

    for name in ("step", "enqueue", "abort"):
        setattr(engine, name, guarded(name, getattr(engine, name)))

    def meets(name: str) -> None:
        while name not in met:
            time.sleep(0.001)

    with EngineLoop(engine) as loop:
        with alone:
            handle = loop.submit([1], of_length(1000))
            meets("enqueue")
        assert handle.next(LIMIT) is not None
        other = loop.submit([2], of_length(10**6))
        assert other.next(LIMIT) is not None
        while True:  # from outside, between two steps
            with contextlib.suppress(UserError), alone:
                meets("step")
                break
        assert handle.result(LIMIT).ids == list(range(1000))
        while True:
            with contextlib.suppress(UserError), alone:
                other.abort()
                break
        assert loop.submit([3], of_length(2)).result(LIMIT).ids == [0, 1]
        assert loop.stats().state == "running"
    assert engine.aborted == [1]


@pytest.mark.parametrize(("text", "words"), [("one\ntwo", "one"), ("", "an internal error")])
def test_a_bug_where_a_request_is_queued_is_a_fault_of_the_engine(text: str, words: str) -> None:
    engine = FakeEngine()

    def enqueue(request: object) -> int:
        raise AssertionError(text)

    engine.enqueue = enqueue  # type: ignore[method-assign]
    with EngineLoop(engine) as loop, pytest.raises(EngineStopped) as caught:
        loop.submit([1]).result(LIMIT)
    assert str(caught.value) == f"the engine has failed: {words}\n  hint: make a new engine"


def test_where_a_step_never_ends_no_wait_does_either_way() -> None:
    """Waits end when the step has stood still too long; where it goes on after all, so does the loop."""
    engine = FakeEngine(free=False)
    with EngineLoop(engine, stall_timeout=0.05) as loop:
        handle = loop.submit([1], of_length(2))
        words = "the engine's present step has not ended for 0.05 s"
        for ask in (handle.result, handle.next, lambda limit: loop.submit([2])):
            with pytest.raises(EngineStopped, match=f"^{words}$"):
                ask(LIMIT)
        assert loop.stats().state == "stalled" and not loop.drain(LIMIT)
        with pytest.raises(EngineTimeout, match=r"^the call did not begin within 0.01 s$"):
            loop.call(list, timeout=0.01)
        engine.allow(10)
        engine.wait_for(lambda: engine.steps == 2)
        assert handle.result(LIMIT).ids == [0, 1]


def test_a_loop_that_is_stopped_ends_all_requests_and_gives_the_engine_back() -> None:
    engine = FakeEngine(free=False)
    loop = EngineLoop(engine)
    handles = [loop.submit([n], of_length(100)) for n in range(3)]
    engine.wait_for(lambda: len(engine.requests) == 3)
    engine.allow(2)
    assert handles[0].next(LIMIT) is not None
    assert not loop.stop(0.01), "its step has not ended"
    for handle in handles[1:]:
        with pytest.raises(EngineStopped) as caught:
            handle.result(LIMIT)
        assert str(caught.value) == "the engine's loop was stopped, and its present step has not ended"
    engine.allow(1)
    assert loop.stop(LIMIT) and loop.stop(LIMIT)
    with pytest.raises(EngineStopped, match=r"^the engine's loop was stopped$"):
        loop.submit([1])
    with pytest.raises(EngineStopped, match=r"^the engine's loop was stopped$"):
        loop.call(list, timeout=LIMIT)
    assert loop.stats().state == "stopped" and loop._thread._inbox.empty()


def test_leaving_the_block_stops_what_runs() -> None:
    engine = FakeEngine()
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(10**9))
        assert handle.next(LIMIT) is not None
    with pytest.raises(EngineStopped, match=r"^the engine's loop was stopped$"):
        handle.result(LIMIT)
    assert engine.aborted == [0] and not engine.requests


def test_a_loop_that_nobody_has_any_more_stops() -> None:
    loop = EngineLoop(FakeEngine())
    thread, gone = loop._thread._thread, weakref.ref(loop)
    handle = loop.submit([1], of_length(10**9))
    del loop
    gc.collect()
    assert gone() is not None and handle.next(LIMIT) is not None, "a handle keeps it"
    del handle
    gc.collect()
    thread.join(LIMIT)
    assert gone() is None and not thread.is_alive()


def test_calls_run_between_steps_and_what_they_raise_is_the_callers() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        handle = loop.submit([1], of_length(3))
        engine.allow(3)
        assert loop.call(lambda: 5, timeout=LIMIT) == 5
        with pytest.raises(ZeroDivisionError):
            loop.call(lambda: 1 // 0, timeout=LIMIT)
        with pytest.raises(TimeoutError, match=r"^own$"):
            loop.call(lambda: (_ for _ in ()).throw(TimeoutError("own")), timeout=LIMIT)
        with pytest.raises(UserError) as caught:
            loop.call(lambda: loop.call(list, timeout=LIMIT), timeout=LIMIT)
        assert str(caught.value) == (
            "the engine's own thread would wait for itself\n  hint: call the engine itself there"
        )
        assert handle.result(LIMIT).ids == [0, 1, 2]


def test_a_call_that_needs_an_idle_engine_comes_between_the_requests() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        before = loop.submit([1], of_length(3))
        calls: list[int] = []
        caller = threading.Thread(target=lambda: loop.call(lambda: calls.append(engine.steps),
                                                           timeout=LIMIT, when_idle=True))  # fmt: skip
        assert engine.in_step.wait(LIMIT)
        caller.start()
        while loop._thread._inbox.empty():
            time.sleep(0.001)
        after = loop.submit([2], of_length(3))
        engine.allow(6)
        assert [handle.result(LIMIT).ids for handle in (before, after)] == [[0, 1, 2]] * 2
        caller.join(LIMIT)
        assert calls == [3]


def test_calls_and_requests_take_turns_in_the_order_in_which_they_came() -> None:
    """A call that needs an idle engine overtakes no request that was held back behind an earlier one."""
    engine, order = FakeEngine(free=False), []
    enqueue = engine.enqueue

    def noted(request: Request) -> int:
        order.append(f"request {request.prompt.ids[0]}")
        return enqueue(request)

    def when_idle(name: str) -> concurrent.futures.Future[None]:
        return loop._thread.ask(lambda: order.append(name), when_idle=True)

    engine.enqueue = noted  # type: ignore[method-assign]
    with EngineLoop(engine) as loop:
        handles, calls = [loop.submit([0], of_length(2))], [when_idle("call 1")]
        handles, calls = [*handles, loop.submit([1], of_length(2))], [*calls, when_idle("call 2"), when_idle("call 3")]
        handles += [loop.submit([2], of_length(2)), loop.submit([3], of_length(2))]
        engine.allow(6)
        assert [handle.result(LIMIT).ids for handle in handles] == [[0, 1]] * 4
        assert all(call.result(LIMIT) is None for call in calls)
    assert order == ["request 0", "call 1", "request 1", "call 2", "call 3", "request 2", "request 3"]


def test_what_a_call_holds_back_is_bounded_and_gone_when_it_is_given_up() -> None:
    engine, seen = FakeEngine(), weakref.WeakSet[Request]()
    prepare = engine.prepare

    def noted(*given: object, **options: object) -> Request:
        request = prepare(*given, **options)  # type: ignore[arg-type]
        seen.add(request)
        return request

    engine.prepare = noted  # type: ignore[method-assign]
    with EngineLoop(engine, max_waiting=4) as loop:
        running = loop.submit([0], of_length(10**9))
        assert running.next(LIMIT) is not None
        call = loop._thread.ask(list, when_idle=True)
        for _ in range(50):
            loop.submit([1]).abort()
            loop.call(list, timeout=LIMIT)
        assert len(loop._thread._turns) == 1 and len(seen) == 1, "only the one that runs"
        held = [loop.submit([2], timeout=0.02 if number == 3 else None) for number in range(4)]
        with pytest.raises(EngineBusy) as caught:
            loop.submit([3])
        assert str(caught.value) == "4 requests wait already\n  hint: ask again later"
        engine.wait_for(lambda: held[3].has_ended)  # nobody waits for it, and it is not queued yet
        assert loop.stats().timed_out == 1 and loop.stats().refused == 1
        running.abort()
        assert call.result(LIMIT) == [] and [handle.result(LIMIT).ids for handle in held[:3]] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("when_idle", [False, True])
def test_calls_that_wait_are_bounded_and_gone_when_they_are_given_up(when_idle: bool) -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine, max_waiting=3) as loop:
        running = loop.submit([0], of_length(100))
        assert engine.in_step.wait(LIMIT)
        waiting = [loop._thread.ask(list, when_idle) for _ in range(3)]
        for ask in (lambda: loop.call(list, timeout=1), lambda: asyncio.run(loop.acall(list, timeout=1))):
            with pytest.raises(EngineBusy) as caught:
                ask()
            assert str(caught.value) == "3 calls wait already\n  hint: ask again later"
        assert all(future.cancel() for future in waiting)
        engine.allow(1)
        engine.wait_for(lambda: engine.steps == 1)
        assert engine.in_step.wait(LIMIT)
        assert not loop._thread._turns and not loop._thread._calls
        running.abort()
        engine.allow(1)
        assert loop.call(lambda: 5, timeout=LIMIT, when_idle=when_idle) == 5


def test_a_call_that_was_given_up_holds_nobody_back() -> None:
    engine = FakeEngine(free=False)
    with EngineLoop(engine) as loop:
        before, calls = loop.submit([1], of_length(3)), []
        with pytest.raises(EngineTimeout, match=r"^the call did not begin within 0.01 s$"):
            loop.call(lambda: calls.append(1), timeout=0.01, when_idle=True)
        after = loop.submit([2], of_length(1))
        engine.allow(2)
        assert after.result(LIMIT).ids == [0] and not before.has_ended
        engine.allow(5)
        assert before.result(LIMIT).ids == [0, 1, 2] and calls == []


def test_a_call_that_runs_too_long_is_said_to_run() -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert end.wait(LIMIT)

    with EngineLoop(FakeEngine()) as loop:
        with pytest.raises(EngineTimeout, match=r"^the call has not ended, and still runs, within 1 s$"):
            loop.call(wait, timeout=1)
        assert begun.is_set()
        end.set()


def test_an_idle_loop_sleeps() -> None:
    engine = FakeEngine()
    with EngineLoop(engine) as loop:
        loop.submit([1]).result(LIMIT)
        loop.call(list, timeout=LIMIT)
        time.sleep(0.05)
        before = engine.polls
        time.sleep(0.2)
        assert engine.polls == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_waiting": 0}, "max_waiting = 0\n  expected: an integer, 1 or more"),
        ({"max_undelivered": "a"}, "max_undelivered = 'a'\n  expected: an integer, 1 or more"),
        ({"stall_timeout": 0}, "stall_timeout = 0\n  expected: seconds, more than 0"),
    ],
)
def test_arguments_of_a_loop(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        EngineLoop(FakeEngine(), **given)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_time_is_a_number_of_seconds() -> None:
    with EngineLoop(FakeEngine()) as loop:
        handle = loop.submit([1])
        for wait in (lambda t: loop.submit([1], timeout=t), handle.next, handle.result):
            with pytest.raises(UserError) as caught:
                wait(-1)
            assert str(caught.value) == "timeout = -1\n  expected: seconds, more than 0; or None"
        for wait in (loop.drain, loop.stop, lambda t: loop.call(list, timeout=t)):
            with pytest.raises(UserError) as caught:
                wait(float("nan"))
            assert str(caught.value) == "timeout = nan\n  expected: seconds, more than 0"


SCRIPT = """
import os, sys
from qwenkit.inference import EngineLoop, SamplingParams, loop_thread
from tests.inference.fake_engine import FakeEngine

loop_thread._EXIT_SECONDS = 0.2
idle = EngineLoop(FakeEngine())
engine = FakeEngine(free=False)             # a step that never ends
loop = EngineLoop(engine)
handle = loop.submit([1], SamplingParams.plain(max_tokens=5))
engine.in_step.wait(60)
child = os.fork()
if not child:
    for ask in (lambda: loop.submit([1]), lambda: handle.next(60), lambda: loop.call(list, timeout=60), loop.stats):
        try:
            ask()
        except Exception as error:
            print("child:", str(error).splitlines()[0], flush=True)
    del handle
    print("child:", loop.stop(60), flush=True)
    sys.exit(7)
print("parent:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
try:
    print("ready", flush=True)
    handle.result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_a_fork_ctrl_c_and_the_end_of_the_interpreter() -> None:
    """The child is refused everything and ends; the parent's wait is interrupted; both end with loops running."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines: list[str] = []
        while not lines or lines[-1] not in ("ready", ""):
            lines.append(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    refused = "child: this process was forked from the one that runs the engine"
    assert lines == [refused] * 4 + ["child: True", "parent: 7", "ready"], err
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
