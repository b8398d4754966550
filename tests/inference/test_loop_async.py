"""The same loop from coroutines: nothing blocks the event loop, nothing is lost when somebody gives up."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.inference import EngineBusy, EngineLoop, EngineStopped, EngineTimeout, RequestAborted, SamplingParams
from qwenkit.inference.sequence import Request

from .fake_engine import LIMIT, FakeEngine
from .test_engine_loop import ALONE, ASKED, MODEL, Bytes, Engine, check


def of_length(count: int) -> SamplingParams:
    return SamplingParams.plain(max_tokens=count)


async def ask_all(loop: EngineLoop) -> None:
    """Ask every kind of request at once, and read each to its end."""

    async def ask(number: int) -> None:
        handle = await loop.asubmit(*ASKED[number], rng_id=number)
        deltas = [delta async for delta in handle]
        check(deltas, await handle.aresult(LIMIT), number)

    await asyncio.gather(*(ask(number) for number in range(len(ASKED))))


def test_two_event_loops_and_a_thread_share_an_engine() -> None:
    with EngineLoop(Engine(MODEL, Bytes()), max_undelivered=2) as loop, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(asyncio.run, ask_all(loop)) for _ in range(2)]
        output = loop.submit(*ASKED[1], rng_id=1).result(LIMIT)
        for future in futures:
            future.result(LIMIT)
    assert output.samples == ALONE[1].samples


def test_the_event_loop_goes_on_while_a_prompt_is_encoded_and_while_a_step_runs() -> None:
    """The prompt is ready, and the steps are allowed, only by a coroutine of the same event loop."""
    engine, ready = FakeEngine(free=False), threading.Event()
    prepare = engine.prepare

    def slow(*given: Any, **options: Any) -> Request:
        assert ready.wait(LIMIT)
        return prepare(*given, **options)

    engine.prepare = slow  # type: ignore[method-assign]

    async def main(loop: EngineLoop) -> None:
        asking = asyncio.create_task(loop.asubmit([1], of_length(3)))
        await asyncio.sleep(0)
        ready.set()
        handle = await asyncio.wait_for(asking, LIMIT)
        reading = asyncio.create_task(handle.aresult(LIMIT))
        await asyncio.sleep(0)
        engine.allow(3)
        assert (await reading).ids == [0, 1, 2]
        assert [delta.ids async for delta in handle] == [[0], [1], [2]] and await handle.anext() is None

    with EngineLoop(engine) as loop:
        asyncio.run(main(loop))


def test_errors_come_to_the_coroutine() -> None:
    engine = FakeEngine(free=False)

    async def main(loop: EngineLoop) -> None:
        handle = await loop.asubmit([1], of_length(3))
        with pytest.raises(EngineBusy):
            await loop.asubmit([2])
        for wait in (handle.anext, handle.aresult):
            with pytest.raises(EngineTimeout):
                await wait(0.01)
        engine.allow(1)
        assert await handle.anext(LIMIT) is not None
        with pytest.raises(UserError, match="unlucky"):
            await loop.asubmit([13])
        late = await loop.asubmit([2], of_length(100), timeout=0.02)
        with pytest.raises(EngineTimeout, match=r"^request \d: not complete within 0.02 s$"):
            await late.aresult()
        async with handle:
            pass
        with pytest.raises(RequestAborted):
            _ = [delta async for delta in handle]
        loop.stop(0.01)
        with pytest.raises(EngineStopped):
            await loop.asubmit([1])
        engine.allow(9)

    with EngineLoop(engine, max_waiting=1) as loop:
        asyncio.run(main(loop))


def test_a_wait_that_is_given_up_loses_no_delta() -> None:
    engine = FakeEngine(free=False)

    async def main(loop: EngineLoop) -> None:
        handle = await loop.asubmit([1], of_length(3))
        for _ in range(3):
            waiting = asyncio.create_task(handle.anext(LIMIT))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert handle._queue._watchers == {}
        engine.allow(3)
        assert [delta.ids async for delta in handle] == [[0], [1], [2]]

    with EngineLoop(engine) as loop:
        asyncio.run(main(loop))


@pytest.mark.parametrize("way", ["cancelled", "event loop closed"])
def test_a_consumer_that_went_away_aborts_its_request(way: str) -> None:
    engine = FakeEngine(free=False)

    async def read(loop: EngineLoop) -> None:
        async for _ in await loop.asubmit([1], of_length(100)):
            pass

    with EngineLoop(engine) as loop:
        event_loop = asyncio.new_event_loop()
        task = event_loop.create_task(read(loop))
        event_loop.run_until_complete(asyncio.wait((task,), timeout=0.1))
        engine.wait_for(lambda: bool(engine.requests))
        if way == "cancelled":
            task.cancel()
            event_loop.run_until_complete(asyncio.wait((task,), timeout=LIMIT))
        event_loop.run_until_complete(event_loop.shutdown_default_executor())
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        event_loop.close()
        del task, event_loop
        gc.collect()
        engine.allow(1)  # the delta that nobody waits for
        engine.allow(1)
        for _ in range(100):
            gc.collect()
            if engine.aborted:
                break
            engine.allow(1)
            with engine.changed:
                engine.changed.wait(0.1)
        assert engine.aborted == [0]


def test_calls_from_coroutines() -> None:
    engine = FakeEngine(free=False)

    async def main(loop: EngineLoop) -> None:
        assert await loop.acall(lambda: 5, timeout=LIMIT) == 5
        with pytest.raises(ZeroDivisionError):
            await loop.acall(lambda: 1 // 0, timeout=LIMIT)
        handle, calls = await loop.asubmit([1], of_length(1)), []
        assert await asyncio.to_thread(engine.in_step.wait, LIMIT)
        with pytest.raises(EngineTimeout, match=r"^the call did not begin within 0.01 s$"):
            await loop.acall(lambda: calls.append(1), timeout=0.01)
        given_up = asyncio.create_task(loop.acall(lambda: calls.append(2), timeout=LIMIT))
        await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        engine.allow(1)
        assert (await handle.aresult(LIMIT)).ids == [0]
        await loop.acall(list, timeout=LIMIT)
        assert calls == []

    with EngineLoop(engine) as loop:
        asyncio.run(main(loop))


def test_a_full_queue_refuses_before_anything_is_encoded() -> None:
    """Hundreds of clients must not wait behind each other's prompts to hear that there is no place for them."""
    engine, ready, encoded = FakeEngine(), threading.Event(), []
    prepare = engine.prepare

    def slow(prompt: Any, *given: Any, **options: Any) -> Request:
        encoded.append(prompt)
        assert ready.wait(LIMIT)
        return prepare(prompt, *given, **options)

    engine.prepare = slow  # type: ignore[method-assign]

    async def main(loop: EngineLoop) -> None:
        asked = [asyncio.create_task(loop.asubmit([number])) for number in range(50)]
        await asyncio.sleep(0)
        refused = [task for task in asked if task.done()]
        assert len(refused) == 47 and all(isinstance(task.exception(), EngineBusy) for task in refused)
        ready.set()
        handles = [await task for task in asked if task not in refused]
        assert [(await handle.aresult(LIMIT)).ids for handle in handles] == [[0, 1, 2]] * 3

    with EngineLoop(engine, max_waiting=3) as loop:
        asyncio.run(main(loop))
    assert len(encoded) == 3


def test_a_coroutine_waits_until_all_have_ended() -> None:
    engine = FakeEngine(free=False)

    async def main(loop: EngineLoop) -> None:
        handle = await loop.asubmit([1], of_length(2))
        assert not await loop.adrain(0.01) and loop.stats().state == "draining"
        with pytest.raises(EngineStopped, match="takes no more requests"):
            await loop.asubmit([1])
        draining = asyncio.create_task(loop.adrain(LIMIT))
        await asyncio.sleep(0)
        engine.allow(2)
        assert await draining and handle.has_ended

    with EngineLoop(engine) as loop:
        asyncio.run(main(loop))
