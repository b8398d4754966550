"""One thread that owns an engine, and requests from any other: what servers and agents embed.

    with EngineLoop(Engine(path, tok)) as loop:
        handle = loop.submit(Conversation(messages), SamplingParams(max_tokens=64), rng_id=7, timeout=60)
        for delta in handle:                                 # from the same thread or another
            print(delta.text, end="")
        output = handle.result()
        loop.call(lambda: engine.update_weights(state), when_idle=True, timeout=60)
        loop.stats().tokens_per_second
        loop.drain(timeout=30)                               # no more requests; those that are there end

    handle = await loop.asubmit("Once", params)              # from a coroutine, of any event loop
    async for delta in handle: ...

`submit` renders and encodes on the caller's thread; all requests then grow together, one step of the engine after the
other. What a request gets is what `engine.generate` gives for the same prompt, parameters and `rng_id`, whatever else
runs, within the limits that `engine.py` names.

Everything is bounded: `max_waiting` requests may be without their first token, more are refused (`EngineBusy`). A
consumer that does not take its deltas gets them merged. A handle that nobody refers to any more aborts its request.
Every wait ends: with its own limit, with the request's, or when no step has come to its end for `stall_timeout`
seconds. A fault of one request is its own; a fault of the engine ends all requests with it, and no further one is taken
(`EngineStopped`): a model that ran out of memory in the middle of a step is not trusted again.

Caveats: `torch.set_num_threads` holds for the thread that calls it; the loop computes with what held where it was
made. The engine belongs to the loop until `stop`: reach it by `call`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, TypeVar, Unpack, cast

from qwenkit.inference.argument_checks import integer
from qwenkit.inference.delta_queue import DeltaQueue
from qwenkit.inference.loop_errors import EngineTimeout
from qwenkit.inference.loop_stats import LoopStats
from qwenkit.inference.loop_thread import LoopThread
from qwenkit.inference.request_handle import SECONDS, TIMEOUT, RequestHandle
from qwenkit.inference.requests import Conversation, PromptLike
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.inference.stepping_engine import AdaptingEngine, SteppingEngine

T = TypeVar("T")

_COUNT = integer(1)
_DRAIN_SECONDS = 0.05  # between two looks whether all requests have ended


class PrepareOptions(TypedDict, total=False):
    """Further arguments of the engine's `prepare`, which says what they mean."""

    sample: int
    first_draw: int
    priority: int
    cache_salt: str | None
    adapter: str | None


class EngineLoop:
    """An engine on a thread of its own; any thread may call the methods."""

    def __init__(
        self,
        engine: SteppingEngine,
        *,
        max_waiting: int = 256,
        max_undelivered: int = 16,
        stall_timeout: float = 600.0,
    ) -> None:
        """Start the thread, which owns `engine` from now on.

        `max_waiting` requests may be without their first token. Of more than `max_undelivered` deltas that a consumer
        has not taken those of each answer are merged. Where a step takes longer than `stall_timeout` seconds, waits end
        with `EngineStopped`; a step may have to read long prompts."""
        self._max_undelivered = _COUNT.parse(max_undelivered, "max_undelivered")
        self._thread = LoopThread(
            engine, _COUNT.parse(max_waiting, "max_waiting"), SECONDS.parse(stall_timeout, "stall_timeout")
        )
        self._engine, self._numbers = engine, itertools.count()
        weakref.finalize(self, self._thread.quit).atexit = False

    def submit(
        self,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None = None,
        rng_id: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[PrepareOptions],
    ) -> RequestHandle:
        """Queue a request and return its handle; `Engine.prepare` says what prompt, parameters and `options` mean.

        Its draws are made from `rng_id`; without one, from its place in the engine's queue, which depends on the other
        threads. A request that is not complete within `timeout` seconds ends with `EngineTimeout`. Raises `EngineBusy`
        where too many wait, `EngineStopped` where none is taken, and a `UserError` for what the model cannot be
        asked."""
        handle = self._open(timeout)
        self._prepare(handle.number, prompt, params, rng_id, options)
        return handle

    async def asubmit(
        self,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None = None,
        rng_id: int | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[PrepareOptions],
    ) -> RequestHandle:
        """Do what `submit` does without blocking the event loop: the prompt is encoded on a thread of its executor.
        Where too many wait it is refused before that."""
        handle = self._open(timeout)
        await asyncio.to_thread(self._prepare, handle.number, prompt, params, rng_id, options)
        return handle

    def _open(self, timeout: float | None) -> RequestHandle:
        """Keep a place for a request and return its handle."""
        seconds: float = math.inf if timeout is None else TIMEOUT.parse(timeout, "timeout")
        number, queue, deadline = next(self._numbers), DeltaQueue(self._max_undelivered), time.monotonic() + seconds
        handle = RequestHandle(self._thread, number, queue, deadline, self)
        weakref.finalize(handle, self._thread.release, number).atexit = False  # also where this is interrupted
        self._thread.open(number, queue, seconds, deadline)
        return handle

    def _prepare(
        self,
        number: int,
        prompt: PromptLike | Conversation,
        params: SamplingParams | None,
        rng_id: int | None,
        options: PrepareOptions,
    ) -> None:
        """Render and encode a request for which a place is kept, and queue it."""
        try:
            request = self._engine.prepare(prompt, params, rng_id, **options)
        except BaseException:
            self._thread.forget(number)
            raise
        self._thread.enqueue(number, request)

    def abort(self, handle: RequestHandle) -> None:
        """Stop a request: `handle.abort()`."""
        handle.abort()

    def call(self, function: Callable[[], T], *, timeout: float, when_idle: bool = False) -> T:
        """Run a function on the loop's thread between two steps and return what it returns; what it raises is raised
        here, and hurts no request. All that touches the model goes this way.

        With `when_idle` it waits until all earlier requests have ended, and later ones wait for it: new weights.
        Raises `EngineTimeout` where it has not ended within `timeout` seconds; one that has not begun by then will
        not. Raises `EngineBusy` where `max_waiting` calls wait already."""
        limit: float = SECONDS.parse(timeout, "timeout")
        future = self._thread.ask(function, when_idle)
        try:
            return future.result(limit)
        except concurrent.futures.TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended just now, or the error was its own
            raise self._late_call(future, limit) from None
        except BaseException:
            future.cancel()
            raise

    async def acall(self, function: Callable[[], T], *, timeout: float, when_idle: bool = False) -> T:
        """Do what `call` does without blocking the event loop."""
        limit: float = SECONDS.parse(timeout, "timeout")
        future = self._thread.ask(function, when_idle)
        wrapped = asyncio.wrap_future(future)
        try:
            await asyncio.wait((wrapped,), timeout=limit)
            if not wrapped.done():
                raise self._late_call(future, limit)
            return wrapped.result()
        finally:
            wrapped.cancel()  # where the wait was given up, a call that has not begun does not begin

    @property
    def _adapting(self) -> AdaptingEngine:
        """Return the engine as one that takes adapters, which `Engine` is."""
        return cast("AdaptingEngine", self._engine)

    def load_adapter(self, name: str, folder: str | Path, *, timeout: float) -> None:
        """Let requests name the adapter of a folder from now on (`Engine.load_adapter`). It is read on the caller's
        thread, while the engine steps. Raises a `UserError` as that does, and what `call` raises."""
        adapter = self._adapting.read_adapter(name, folder)
        self.call(lambda: self._adapting.load_adapter(name, adapter), timeout=timeout)

    async def aload_adapter(self, name: str, folder: str | Path, *, timeout: float) -> None:
        """Do what `load_adapter` does without blocking the event loop."""
        adapter = await asyncio.to_thread(self._adapting.read_adapter, name, folder)
        await self.acall(lambda: self._adapting.load_adapter(name, adapter), timeout=timeout)

    def unload_adapter(self, name: str, *, timeout: float) -> None:
        """Let no further request name an adapter (`Engine.unload_adapter`)."""
        self.call(lambda: self._adapting.unload_adapter(name), timeout=timeout)

    async def aunload_adapter(self, name: str, *, timeout: float) -> None:
        """Do what `unload_adapter` does without blocking the event loop."""
        await self.acall(lambda: self._adapting.unload_adapter(name), timeout=timeout)

    def stats(self) -> LoopStats:
        """Return the figures of this moment."""
        return self._thread.stats()

    def drain(self, timeout: float) -> bool:
        """Take no more requests, and wait until those that are there have ended, at most so many seconds. Return
        whether all have."""
        return self._thread.drain(SECONDS.parse(timeout, "timeout"))

    async def adrain(self, timeout: float) -> bool:
        """Do what `drain` does without blocking the event loop."""
        end = time.monotonic() + SECONDS.parse(timeout, "timeout")
        while not (ended := self._thread.drain(0.0)) and (left := end - time.monotonic()) > 0:
            if self._thread.state == "stalled":
                break
            await asyncio.sleep(min(_DRAIN_SECONDS, left))
        return ended

    def stop(self, timeout: float = 30.0) -> bool:
        """End the loop after its present step; all requests that have not ended get `EngineStopped`. The engine is then
        its maker's again. Return whether the thread has ended within `timeout` seconds."""
        return self._thread.stop(SECONDS.parse(timeout, "timeout"))

    def __enter__(self) -> Self:
        """Return the loop, which leaving the block stops."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the loop. To have its requests end before, call `drain`."""
        self.stop()

    @staticmethod
    def _late_call(future: concurrent.futures.Future[T], limit: float) -> EngineTimeout:
        """Return the error of a call that has taken too long, which does not begin any more."""
        state = "did not begin" if future.cancel() else "has not ended, and still runs,"
        return EngineTimeout(f"the call {state} within {limit:g} s")
