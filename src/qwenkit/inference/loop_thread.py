"""The thread that owns an engine: it takes what other threads ask, steps while there is work, and sleeps otherwise.

    thread = LoopThread(engine, max_waiting=256, stall_timeout=600)
    thread.open(number, queue, timeout, deadline)       # any thread; `queue` gets the deltas
    thread.enqueue(number, request)                     # any thread
    thread.release(number)                              # any thread, finalizers too
    future = thread.ask(function, when_idle=False)
    thread.stop(timeout=30)

Only this thread calls the engine, but for `prepare`; where another one is inside by mistake, this one waits. Others
reach it through the inbox, a queue of functions that it runs between two steps. `SimpleQueue` lets a finalizer put
something in at any moment, also one that runs in the middle of another `put`; so what a finalizer calls (`release`,
`quit`) takes no lock. A call that needs an idle engine and all that comes after it wait in `turns.py`; requests and
calls (`loop_calls.py`) that wait are bounded, each by `max_waiting`.

The thread is a daemon that is stopped when the interpreter ends. After a fork the child has no such thread, and every
use of the loop there is refused.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from qwenkit.errors import QwenkitError, UserError
from qwenkit.inference.delta_queue import DeltaQueue, Watcher, wake_all
from qwenkit.inference.loop_calls import Calls
from qwenkit.inference.loop_errors import EngineBusy, EngineStopped, EngineTimeout, RequestAborted, stopped_by
from qwenkit.inference.loop_stats import Counts, LoopState, LoopStats, TokenRate
from qwenkit.inference.one_thread import ThreadInside
from qwenkit.inference.outputs import Delta
from qwenkit.inference.request_handle import POLL_SECONDS
from qwenkit.inference.sequence import Request
from qwenkit.inference.stepping_engine import SteppingEngine
from qwenkit.inference.turns import Turns

T = TypeVar("T")

_IDLE_SECONDS = 60.0
_EXIT_SECONDS = 10.0
_INSIDE_SECONDS = 0.005  # between two looks whether another thread is still inside the engine
_AT_ONCE = 1000  # of what was asked is done before the next step
_THREADS: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@dataclass(eq=False)
class _Pending:
    """A request that has not ended."""

    number: int
    queue: DeltaQueue
    timeout: float
    """The seconds that it has."""
    deadline: float
    """When they are over, by the monotonic clock."""
    since: float
    """When it came."""
    handle: int | None = None
    """The engine's number of it, from when it is queued."""


class LoopThread:
    """The thread, what it was asked, and the requests that have not ended."""

    def __init__(self, engine: SteppingEngine, max_waiting: int, stall_timeout: float) -> None:
        """Start the thread. It computes with as many threads of torch as the one that makes it."""
        self.engine, self.max_waiting, self.stall_timeout = engine, max_waiting, stall_timeout
        self.draining = self.stopping = self.ended = False
        self.fault: BaseException | None = None
        self._lock = threading.RLock()
        self._none_left = threading.Condition(self._lock)
        self._pending: dict[int, _Pending] = {}
        self._waiting: set[int] = set()
        self._calls = Calls(max_waiting)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._by_handle: dict[int, _Pending] = {}
        self._turns = Turns()
        self._busy_since: float | None = None
        self._counts = Counts()
        self._rate = TokenRate(time.monotonic())
        self._pid, self._torch_threads = os.getpid(), torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="qwenkit-engine", daemon=True)
        _THREADS.add(self)
        self._thread.start()

    # ---- from any thread --------------------------------------------------------------------------------------------

    def open(self, number: int, queue: DeltaQueue, timeout: float, deadline: float) -> None:
        """Keep a place for a request, which has `timeout` seconds, until `deadline`.

        Raises `EngineBusy` where `max_waiting` requests have no token yet, and `EngineStopped` where none is taken any
        more."""
        self.refuse_fork()
        with self._lock:
            if error := self._refusal():
                raise error
            if len(self._waiting) >= self.max_waiting:
                self._counts.refused += 1
                raise EngineBusy(f"{self.max_waiting} requests wait already", hint="ask again later",
                                 seconds=self._waiting_seconds())  # fmt: skip
            self._pending[number] = _Pending(number, queue, timeout, deadline, time.monotonic())
            self._waiting.add(number)

    def forget(self, number: int) -> None:
        """Give the place of a request back that could not be prepared."""
        with self._lock:
            self._waiting.discard(number)
            self._pending.pop(number, None)
            self._none_left.notify_all()

    def enqueue(self, number: int, request: Request) -> None:
        """Queue a request for which a place is kept."""
        self._inbox.put(partial(self._enqueue, number, request))

    def release(self, number: int) -> None:
        """Stop computing a request, if it has not ended. Takes no lock: a finalizer may call it."""
        if not self.ended and os.getpid() == self._pid:
            self._inbox.put(partial(self._drop, number))

    def check(self, number: int) -> None:
        """Raise an error where to wait for a request makes no sense, and end it where its time is over."""
        self.refuse_waiting()
        pending = self._pending.get(number)
        if pending is not None and self._is_late(pending):
            self._end_late(pending)
            self.release(number)
        elif self._is_stalled():
            raise self._stalled()

    def ask(self, function: Callable[[], T], when_idle: bool) -> Future[T]:
        """Have a function run between two steps; with `when_idle` when all earlier requests have ended, and before any
        later one. Raises `EngineBusy` where `max_waiting` calls have not run yet."""
        self.refuse_waiting()
        with self._lock:
            if self.ended or self.stopping:
                raise self._refusal() or EngineStopped("the engine's loop was stopped")
            future: Future[T] = self._calls.open()
        self._inbox.put(partial(self._take_call, future, function, when_idle))
        future.add_done_callback(self._given_up)
        return future

    def _given_up(self, future: Future[Any]) -> None:
        """Have the thread forget a call that was cancelled."""
        if future.cancelled() and not self.ended:
            self._inbox.put(partial(self._forget_call, future))

    def drain(self, timeout: float) -> bool:
        """Take no more requests, and wait for those that are there; return whether all have ended."""
        self.refuse_waiting()
        self.draining, end = True, time.monotonic() + timeout
        with self._lock:
            while self._pending and not self._is_stalled() and (left := end - time.monotonic()) > 0:
                self._none_left.wait(min(POLL_SECONDS, left))
            return not self._pending

    def quit(self) -> None:
        """Have the thread end after its present step. Takes no lock: a finalizer may call it."""
        self.stopping = True
        if not self.ended:
            self._inbox.put(lambda: None)

    def stop(self, timeout: float) -> bool:
        """End the thread and all requests; return whether the thread has ended within the time. Where it has not, it
        ends after its present step."""
        if os.getpid() != self._pid:
            return True
        self.quit()
        if threading.current_thread() is self._thread:
            return False
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._end_all(EngineStopped("the engine's loop was stopped, and its present step has not ended"))
        return not self._thread.is_alive()

    def stats(self) -> LoopStats:
        """Return the figures of this moment."""
        self.refuse_fork()
        with self._lock:
            waiting, running = len(self._waiting), len(self._pending) - len(self._waiting)
            waiting_seconds = self._waiting_seconds()
        error = None if self.fault is None else stopped_by(self.fault).what
        engine_stats = getattr(self.engine, "stats", lambda: None)() if self.fault is None else None
        rate = self._rate.rate(time.monotonic())
        return LoopStats(
            self.state, error, running, waiting, waiting_seconds, generated_tokens=self._rate.total,
            tokens_per_second=rate, engine=engine_stats, **vars(self._counts),
        )  # fmt: skip

    def _waiting_seconds(self) -> float:
        """Return how long the first of those that wait has waited; the lock is taken."""
        since = (self._pending[number].since for number in list(self._waiting) if number in self._pending)
        return max(0.0, time.monotonic() - min(since, default=math.inf))

    @property
    def state(self) -> LoopState:
        """Return whether requests are taken, or why not."""
        if self.fault is not None:
            return "failed"
        if self.stopping or self.ended:
            return "stopped"
        return "stalled" if self._is_stalled() else "draining" if self.draining else "running"

    def refuse_fork(self) -> None:
        """Raise `EngineStopped` in a process that was forked: it has no such thread, and its locks may be held."""
        if os.getpid() != self._pid:
            raise EngineStopped("this process was forked from the one that runs the engine",
                                hint="make an engine in this process")  # fmt: skip

    def refuse_waiting(self) -> None:
        """Raise an error where waiting for the thread would never end."""
        self.refuse_fork()
        if threading.current_thread() is self._thread:
            raise UserError("the engine's own thread would wait for itself", hint="call the engine itself there")

    def _refusal(self) -> QwenkitError | None:
        """Return why no request is taken; None where one is."""
        if self.fault is not None:
            return stopped_by(self.fault)
        match self.state:
            case "running":
                return None
            case "stalled":
                return self._stalled()
            case "draining":
                return EngineStopped("the engine's loop takes no more requests")
        return EngineStopped("the engine's loop was stopped")

    def _stalled(self) -> EngineStopped:
        return EngineStopped(f"the engine's present step has not ended for {self.stall_timeout:g} s")

    def _is_stalled(self) -> bool:
        since = self._busy_since
        return since is not None and time.monotonic() - since > self.stall_timeout

    def _is_late(self, pending: _Pending) -> bool:
        return time.monotonic() >= pending.deadline

    def _end_late(self, pending: _Pending) -> None:
        error = EngineTimeout(f"not complete within {pending.timeout:g} s", where=f"request {pending.number}")
        pending.queue.close(error)

    # ---- on the thread itself ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Work until the loop is stopped, or the engine fails."""
        try:
            torch.set_num_threads(self._torch_threads)
            while not self.stopping:
                self._turn()
            for handle in list(self._by_handle):
                self._when_alone(partial(self.engine.abort, handle))
        except BaseException as fault:
            self.fault = fault
        self._busy_since, error = None, self._refusal()
        assert error is not None
        self._end_all(error)
        self._turns = Turns()
        with contextlib.suppress(Empty):  # what nobody will do any more holds requests
            while True:
                self._inbox.get_nowait()

    def _turn(self) -> None:
        """Do what was asked, then one step."""
        for function in self._arrived():
            function()
        self._end_late_ones()
        self._turns.run(lambda: not self.engine.has_work)
        if self.engine.has_work and not self.stopping:
            self._deliver(self._when_alone(self.engine.step))

    def _when_alone(self, ask: Callable[[], T]) -> T:
        """Return what the engine answers when no other thread is inside it; raises `ThreadInside` at the loop's end."""
        while True:
            try:
                return ask()
            except ThreadInside:
                if self.stopping:
                    raise
                time.sleep(_INSIDE_SECONDS)

    def _arrived(self) -> Iterator[Callable[[], None]]:
        """Yield what the inbox holds; sleep for it only where there is nothing else to do."""
        idle = not (self.engine.has_work or self._turns)
        with contextlib.suppress(Empty):
            if idle:
                self._busy_since = None
                first = self._inbox.get(timeout=_IDLE_SECONDS)
                self._busy_since = time.monotonic()
                yield first
            for _ in range(_AT_ONCE):
                self._busy_since = time.monotonic()
                yield self._inbox.get_nowait()

    def _enqueue(self, number: int, request: Request) -> None:
        pending = self._pending.get(number)
        if pending is None:  # aborted before it came here
            return
        if self._turns:
            self._turns.hold(number, partial(self._begin, pending, request))
        else:
            self._begin(pending, request)

    def _begin(self, pending: _Pending, request: Request) -> None:
        """Hand a request to the engine."""
        try:
            pending.handle = self._when_alone(partial(self.engine.enqueue, request))
        except QwenkitError as error:
            self._finish(pending, error)
            return
        self._by_handle[pending.handle] = pending
        self._counts.prompt_tokens += len(request.prompt.ids)

    def _drop(self, number: int) -> None:
        """Abort a request that nobody waits for."""
        if pending := self._pending.get(number):
            self._finish(pending, RequestAborted("the request was aborted", where=f"request {number}"))

    def _finish(self, pending: _Pending, error: QwenkitError | None = None) -> None:
        """Forget a request that has ended, or end it with an error."""
        if pending.handle is not None:
            self._by_handle.pop(pending.handle, None)
            if error is not None:
                self._when_alone(partial(self.engine.abort, pending.handle))
        self._turns.drop(pending.number)
        if error is not None:
            pending.queue.close(error)
        with self._lock:
            self._waiting.discard(pending.number)
            if self._pending.pop(pending.number, None) is not None:
                self._counts.end(pending.queue.error)
            if not self._pending:
                self._none_left.notify_all()

    def _end_late_ones(self) -> None:
        """End the requests whose time is over, those too that are not queued yet."""
        for pending in [pending for pending in list(self._pending.values()) if self._is_late(pending)]:
            self._end_late(pending)
            self._drop(pending.number)

    def _deliver(self, deltas: list[Delta]) -> None:
        """Put deltas into the queues of their requests, then wake who waits for them; ones of requests that are not the
        loop's are dropped."""
        now, watchers = time.monotonic(), list[Watcher]()
        try:
            for delta in deltas:
                pending = self._by_handle.get(delta.handle)
                if pending is None:
                    continue
                if pending.number in self._waiting:
                    self._waiting.discard(pending.number)
                    self._counts.begin(now - pending.since)
                watchers += pending.queue.add(delta)
                if delta.output is not None or delta.error is not None:
                    self._finish(pending)
        finally:
            wake_all(watchers)
        self._rate.add(now, sum(len(delta.ids) for delta in deltas))

    def _take_call(self, future: Future[T], function: Callable[[], T], when_idle: bool) -> None:
        run = partial(self._calls.run, future, function)
        if when_idle and not future.cancelled():
            self._turns.hold(future, run, when_idle=True)
        else:
            run()

    def _forget_call(self, future: Future[Any]) -> None:
        self._turns.drop(future)
        self._calls.forget(future)

    def _end_all(self, error: QwenkitError) -> None:
        """End all requests and calls with an error; none is taken any more."""
        with self._lock:
            self.stopping = self.ended = True
            pending = list(self._pending.values())
            self._counts.failed += len(pending)
            self._pending.clear()
            self._waiting.clear()
            self._none_left.notify_all()
        for request in pending:
            request.queue.close(error)
        self._calls.end_all(error)


@atexit.register
def _stop_at_exit() -> None:
    """Stop all loops before the interpreter takes away what their threads use."""
    for thread in list(_THREADS):
        thread.quit()
    for thread in list(_THREADS):
        thread.stop(_EXIT_SECONDS)
