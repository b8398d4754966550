"""A request on an engine's loop, as its consumer sees it: from a thread, or from a coroutine.

    for delta in handle: ...                            async for delta in handle: ...
    output = handle.result()                            output = await handle.aresult()
    delta = handle.next(timeout=5)                      delta = await handle.anext(timeout=5)
    with handle: ...  # aborts what is left             async with handle: ...
    handle.abort()

After the last delta the iteration ends, or raises the error of a request that has one. A handle that nobody refers to
any more aborts its request.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from qwenkit.inference.argument_checks import number, optional
from qwenkit.inference.delta_queue import DeltaQueue
from qwenkit.inference.loop_errors import EngineTimeout, RequestAborted
from qwenkit.inference.sequence import Delta, Output

POLL_SECONDS = 1.0
"""How long a wait lasts before it looks whether somebody is still there to end it."""
SECONDS = number("seconds, more than 0", lambda value: 0 < value < float("inf"))
TIMEOUT = optional(SECONDS)


class Patience:
    """The time that a wait has left."""

    def __init__(self, timeout: float | None, deadline: float) -> None:
        """Begin to wait, `timeout` seconds at most (None: as long as the engine works). At `deadline`, by the monotonic
        clock, somebody looks at the request again."""
        self.timeout: float | None = TIMEOUT.parse(timeout, "timeout")
        self._end = time.monotonic() + (math.inf if self.timeout is None else self.timeout)
        self._deadline = deadline

    def next_wait(self) -> float:
        """Return how many seconds to wait now, at most `POLL_SECONDS`; raises `EngineTimeout` at the end."""
        now = time.monotonic()
        if now >= self._end:
            raise EngineTimeout(f"nothing came within {self.timeout:g} s", hint="wait longer, or abort the request")
        return min(POLL_SECONDS, self._end - now, max(0.0, self._deadline - now))


class RequestOwner(Protocol):
    """What a handle needs of the loop that runs its request."""

    def check(self, number: int) -> None:
        """Raise an error where waiting for the request makes no sense; end it where its time is over."""
        ...

    def release(self, number: int) -> None:
        """Stop computing the request, if it is not done. Takes no lock and never waits."""
        ...


class RequestHandle:
    """One request. Any thread may use it; each delta is given out once."""

    def __init__(
        self, owner: RequestOwner, number: int, queue: DeltaQueue, deadline: float = math.inf, loop: object = None
    ) -> None:
        """Made by `EngineLoop.submit`. The handle keeps `loop` alive, which stops when nobody refers to it."""
        self.number = number
        """The loop's number of the request, in the order of `submit`."""
        self._owner, self._queue, self._deadline, self._loop = owner, queue, deadline, loop

    @property
    def has_ended(self) -> bool:
        """Return whether the request is complete, failed or aborted; deltas may still wait to be taken."""
        return self._queue.has_ended

    def abort(self) -> None:
        """Stop the request: no delta comes any more, and who waits for one gets `RequestAborted`. Nothing happens to a
        request that has ended, but deltas that were not taken are dropped."""
        self._queue.close(RequestAborted("the request was aborted", where=f"request {self.number}"), discard=True)
        self._owner.release(self.number)

    # ---- from a thread ----------------------------------------------------------------------------------------------

    def next(self, timeout: float | None = None) -> Delta | None:
        """Return the next delta, or None after the last. Raises the request's error after its last delta, and
        `EngineTimeout` where none has come within `timeout` seconds."""
        patience = Patience(timeout, self._deadline)
        while True:
            delta, ended = self._queue.take()
            if delta is not None or ended:
                return delta if delta is not None else self._end()
            self._owner.check(self.number)
            self._queue.wait(patience.next_wait())

    def result(self, timeout: float | None = None) -> Output:
        """Return the output when the request is complete, or raise its error; the deltas stay to be taken. Raises
        `EngineTimeout` where it is not complete within `timeout` seconds."""
        patience = Patience(timeout, self._deadline)
        while not self._queue.has_ended:
            self._owner.check(self.number)
            self._queue.wait(patience.next_wait(), for_end=True)
        return self._queue.result()

    def __iter__(self) -> Iterator[Delta]:
        """Return the handle, which is its own iterator."""
        return self

    def __next__(self) -> Delta:
        """Return the next delta when it comes."""
        delta = self.next()
        if delta is None:
            raise StopIteration
        return delta

    def __enter__(self) -> Self:
        """Return the handle; leaving the block aborts what is left of the request."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Abort the request, if it has not ended."""
        if not self.has_ended:
            self.abort()

    # ---- from a coroutine -------------------------------------------------------------------------------------------

    async def anext(self, timeout: float | None = None) -> Delta | None:
        """Return what `next` returns, without blocking the event loop. A coroutine that is cancelled here loses no
        delta, and the request goes on."""
        patience = Patience(timeout, self._deadline)
        while True:
            delta, ended = self._queue.take()
            if delta is not None or ended:
                return delta if delta is not None else self._end()
            self._owner.check(self.number)
            await self._watch(patience.next_wait())

    async def aresult(self, timeout: float | None = None) -> Output:
        """Return what `result` returns, without blocking the event loop."""
        patience = Patience(timeout, self._deadline)
        while not self._queue.has_ended:
            self._owner.check(self.number)
            await self._watch(patience.next_wait(), for_end=True)
        return self._queue.result()

    def __aiter__(self) -> Self:
        """Return the handle, which is its own iterator."""
        return self

    async def __anext__(self) -> Delta:
        """Return the next delta when it comes."""
        delta = await self.anext()
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def __aenter__(self) -> Self:
        """Return the handle; leaving the block aborts what is left of the request."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Abort the request, if it has not ended."""
        self.__exit__(kind, error, at)

    async def _watch(self, seconds: float, for_end: bool = False) -> None:
        future = self._queue.watch(asyncio.get_running_loop(), for_end)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            self._queue.unwatch(future)

    def _end(self) -> None:
        """Raise the error of a request that has one."""
        self._queue.result()
