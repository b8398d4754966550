"""Hundreds of clients at a time who read, read slowly, give up, run late, go away: afterwards nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from qwenkit.inference import Engine, EngineBusy, EngineLoop, EngineTimeout, Output, SamplingParams
from qwenkit.inference.sequence import Request

from .conftest import Bytes
from .fake_engine import LIMIT
from .test_engine_loop import MODEL

CLIENTS = 200
PARAMS = SamplingParams.plain(max_tokens=6, temperature=1.0, seed=1, ignore_eos=True)
ENDS = ("whole", "slow", "aborted", "late", "forgotten", "cancelled", "left")


def draw_request(seed: int) -> tuple[list[int], SamplingParams]:
    draw = random.Random(seed)
    prompt = [7, 8, 9] * draw.randrange(1, 8) + [draw.randrange(256) for _ in range(draw.randrange(1, 9))]
    return prompt, replace(PARAMS, n=draw.choice([1, 1, 2]), max_tokens=draw.randrange(1, 9))


def with_patience(loop: EngineLoop, seed: int, end: str) -> Output | None:
    """A client on a thread: ask again where the queue is full; return what it has read to its end."""
    prompt, params = draw_request(seed)
    timeout = 1e-4 if end == "late" else LIMIT
    while True:
        try:
            handle = loop.submit(prompt, params, rng_id=seed, timeout=timeout, priority=seed % 3)
            break
        except EngineBusy:
            time.sleep(0.002)
    match end:
        case "aborted":
            handle.next(LIMIT)
            handle.abort()
        case "forgotten":
            del handle
        case "left":
            with handle:
                handle.next(LIMIT)
        case "slow":
            for _ in handle:
                time.sleep(0.005)
            return handle.result(LIMIT)
        case _:
            return handle.result(LIMIT)
    return None


def client(loop: EngineLoop, seed: int, end: str) -> Output | None:
    try:
        return with_patience(loop, seed, end)
    except EngineTimeout:
        assert end == "late"
        return None


async def as_coroutine(loop: EngineLoop, seed: int, end: str) -> Output | None:
    """The same client as a coroutine."""
    prompt, params = draw_request(seed)
    timeout = 1e-4 if end == "late" else LIMIT
    while True:
        try:
            handle = await loop.asubmit(prompt, params, rng_id=seed, timeout=timeout, priority=seed % 3)
            break
        except EngineBusy:
            await asyncio.sleep(0.002)
    match end:
        case "aborted":
            await handle.anext(LIMIT)
            handle.abort()
        case "left":
            async with handle:
                await handle.anext(LIMIT)
        case "slow":
            async for _ in handle:
                await asyncio.sleep(0.005)
            return await handle.aresult(LIMIT)
        case "late":
            try:
                await handle.aresult(LIMIT)
            except EngineTimeout:
                return None
        case _:
            return await handle.aresult(LIMIT)
    return None


async def all_coroutines(loop: EngineLoop, clients: list[tuple[int, str]]) -> list[Output | None]:
    tasks = [asyncio.create_task(as_coroutine(loop, seed, end)) for seed, end in clients]
    for task, (seed, end) in zip(tasks, clients):
        if end == "cancelled":
            await asyncio.sleep(seed % 3 / 1000)
            task.cancel()
    got = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LIMIT)
    for result, (_, end) in zip(got, clients):
        if isinstance(result, BaseException):
            assert isinstance(result, asyncio.CancelledError) and end == "cancelled", result
    return [result if isinstance(result, Output) else None for result in got]


def test_two_hundred_clients_leave_nothing_behind() -> None:
    threads, seen = set(threading.enumerate()), weakref.WeakSet[Request]()
    engine = Engine(MODEL, Bytes(), max_batch=16, kv_tokens=1600, step_tokens=128)
    prepare = engine.prepare

    def noted(*given: object, **options: object) -> Request:
        request = prepare(*given, **options)  # type: ignore[arg-type]
        seen.add(request)
        return request

    engine.prepare = noted  # type: ignore[method-assign]
    ends = [ENDS[number % len(ENDS)] for number in range(CLIENTS)]
    random.Random(0).shuffle(ends)
    clients = list(enumerate(ends))
    on_threads, as_tasks = clients[: CLIENTS // 4], clients[CLIENTS // 4 :]
    on_threads = [(seed, "left" if end == "cancelled" else end) for seed, end in on_threads]
    as_tasks = [(seed, "left" if end == "forgotten" else end) for seed, end in as_tasks]
    calls = 0
    with EngineLoop(engine, max_waiting=24, max_undelivered=2) as loop, ThreadPoolExecutor(len(on_threads) + 1) as pool:
        running = [pool.submit(client, loop, seed, end) for seed, end in on_threads]
        tasks = pool.submit(asyncio.run, all_coroutines(loop, as_tasks))
        while not tasks.done():
            loop.call(engine.update_weights, timeout=LIMIT, when_idle=True)
            calls += 1
            time.sleep(0.05)
        outputs = [future.result(LIMIT) for future in running] + tasks.result(LIMIT)
        gc.collect()
        assert loop.drain(LIMIT)
        stats = loop.stats()
        assert not loop._thread._turns and not loop._thread._calls and not loop._thread._by_handle
    whole = [seed for seed, end in on_threads + as_tasks if end in ("whole", "slow")]
    for (seed, end), output in zip(on_threads + as_tasks, outputs, strict=True):
        if end in ("whole", "slow"):
            assert output is not None and len(output.samples[0].ids) == draw_request(seed)[1].max_tokens
    assert stats.completed >= len(whole) and (stats.running, stats.waiting) == (0, 0)
    assert min(stats.aborted, stats.timed_out, stats.refused, calls) > 0, "all of it has happened"
    while engine.has_work:
        engine.step()
    assert engine.scheduler.pool.num_used == 0 and not engine.scheduler.waiting
    assert not engine._requests._requests and not engine._requests._undelivered and not engine._requests._delivered
    del running, tasks, outputs, output
    gc.collect()
    assert len(seen) == 0 and set(threading.enumerate()) == threads
    for seed in whole[:5]:
        prompt, params = draw_request(seed)
        (alone,) = Engine(MODEL, Bytes()).generate([prompt], params, [seed])
        assert alone.samples == engine.generate([prompt], params, [seed])[0].samples
