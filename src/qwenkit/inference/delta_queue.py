"""The deltas of one request between the thread that makes them and whoever takes them.

    queue = DeltaQueue(max_undelivered=16)
    queue.put(delta)                        # on the engine's thread; never waits
    delta, ended = queue.take()             # on the consumer's: the next delta, or None
    queue.wait(seconds)                     # until there is something to take
    await queue.watch(event_loop)           # the same for a coroutine

A consumer that is slow, or never comes, costs a bounded number of objects: where more than `max_undelivered` deltas
wait, those of each answer are merged into one. So nothing is lost, and the deltas still add up to the answers. What was
merged grows in place: an answer that nobody takes costs time and memory in proportion to its length.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterable
from copy import copy
from dataclasses import fields, replace
from io import StringIO
from typing import Any, NamedTuple

from qwenkit.errors import QwenkitError
from qwenkit.inference.outputs import Delta, Output

_NAMES = tuple(field.name for field in fields(Delta))


class MergedDelta:
    """Deltas of one answer as one, which grows in place: another one costs no more than its own length."""

    def __init__(self, first: Delta) -> None:
        """Begin with a delta, which stays as it is."""
        self.sample = first.sample
        self._lists: dict[str, list[Any]] = {}
        self._text: StringIO | None = None
        self._others: dict[str, Any] = {}
        self.add(first)

    def add(self, delta: Delta) -> None:
        """Add the next delta: lists and the text grow, of all else the later value counts."""
        self._last = delta
        for name in _NAMES:
            value = getattr(delta, name)
            if isinstance(value, list):
                self._lists.setdefault(name, []).extend(value)
            elif name == "text" and value is not None:
                self._text = self._text or StringIO(newline="")
                self._text.write(value)
            elif value is not None:
                self._others[name] = value

    def delta(self) -> Delta:
        """Return them as a delta; this one must not grow any more."""
        text = None if self._text is None else self._text.getvalue()
        return replace(self._last, **self._others, **self._lists, text=text)


class Watcher(NamedTuple):
    """A coroutine that waits, by its event loop."""

    event_loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    for_end: bool


class DeltaQueue:
    """What one request has got and nobody has taken yet, and how it has ended."""

    def __init__(self, max_undelivered: int) -> None:
        """Start empty; more than `max_undelivered` deltas are merged into one for each answer."""
        self._max_undelivered, self._merge_above = max_undelivered, max_undelivered
        self._lock = threading.RLock()  # a finalizer may come back here while it is taken
        self._changed, self._finished = threading.Condition(self._lock), threading.Condition(self._lock)
        self._deltas: deque[Delta | MergedDelta] = deque()
        self._watchers: dict[int, Watcher] = {}
        self._output: Output | None = None
        self._error: QwenkitError | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether no more deltas will be put in; some may still wait to be taken."""
        return self._output is not None or self._error is not None

    @property
    def error(self) -> QwenkitError | None:
        """Return the error that the request has ended with, if it has."""
        return self._error

    def result(self) -> Output:
        """Return the output of a request that has ended, or raise its error."""
        if self._error is not None:
            raise copy(self._error) from self._error.__cause__  # a traceback of its own for everyone who asks
        assert self._output is not None, "the request has not ended"
        return self._output

    def put(self, delta: Delta) -> None:
        """Add a delta; the last one of a request ends it. After the end nothing is added."""
        wake_all(self.add(delta))

    def add(self, delta: Delta) -> list[Watcher]:
        """Do what `put` does, and return the coroutines that wait for it, so that those of many requests are woken
        together."""
        with self._lock:
            if self.has_ended:
                return []
            self._deltas.append(delta)
            if len(self._deltas) > self._merge_above:
                self._deltas = deque(merged(self._deltas))
                self._merge_above = max(self._max_undelivered, 2 * len(self._deltas))
            self._output, self._error = delta.output or self._output, delta.error or self._error
            return self._notify()

    def close(self, error: QwenkitError, discard: bool = False) -> None:
        """End the request with an error, if it has not ended; `discard` also drops what was not taken."""
        with self._lock:
            if discard:
                self._deltas.clear()
            if not self.has_ended:
                self._error = error
            woken = self._notify()
        wake_all(woken)

    def take(self) -> tuple[Delta | None, bool]:
        """Return the next delta or None, and whether there is none because the request has ended."""
        with self._lock:
            delta = self._deltas.popleft() if self._deltas else None
            return delta.delta() if isinstance(delta, MergedDelta) else delta, delta is None and self.has_ended

    def wait(self, seconds: float, for_end: bool = False) -> None:
        """Wait until there is something to take, or only for the end; at most so long."""
        with self._lock:
            if not self._is_ready(for_end):
                (self._finished if for_end else self._changed).wait(max(0.0, seconds))

    def watch(self, event_loop: asyncio.AbstractEventLoop, for_end: bool = False) -> asyncio.Future[None]:
        """Return a future of this event loop that is done when there is something to take, or at the end."""
        future: asyncio.Future[None] = event_loop.create_future()
        with self._lock:
            if self._is_ready(for_end):
                future.set_result(None)
            else:
                self._watchers[id(future)] = Watcher(event_loop, future, for_end)
        return future

    def unwatch(self, future: asyncio.Future[None]) -> None:
        """Forget a future that nobody awaits any more. Takes no lock: it also runs where a coroutine is collected."""
        self._watchers.pop(id(future), None)

    def _is_ready(self, for_end: bool) -> bool:
        return self.has_ended or (bool(self._deltas) and not for_end)

    def _notify(self) -> list[Watcher]:
        """Wake the threads that wait for what has happened, and return the coroutines that do; the lock is taken."""
        self._changed.notify_all()
        if self.has_ended:
            self._finished.notify_all()
        watchers = [self._watchers.get(key) for key in list(self._watchers)]
        ready = [watcher for watcher in watchers if watcher is not None and self._is_ready(watcher.for_end)]
        for watcher in ready:
            self.unwatch(watcher.future)
        return ready


def wake_all(watchers: Iterable[Watcher]) -> None:
    """Wake coroutines, those of one event loop by one call: each writes to a pipe, and meanwhile the thread that makes
    deltas loses the interpreter to the ones that it wakes. Without a lock: those of a closed event loop may be
    collected when they are forgotten here."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for watcher in watchers:
        futures.setdefault(watcher.event_loop, []).append(watcher.future)
    for event_loop, own in futures.items():
        with contextlib.suppress(RuntimeError):  # that event loop is closed: nobody waits there
            event_loop.call_soon_threadsafe(_wake, own)


def _wake(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def merged(deltas: Iterable[Delta | MergedDelta]) -> list[MergedDelta]:
    """Return one for each answer that is among them, in the order of their last ones. One that was merged before is
    the first of its answer, and grows."""
    by_sample: dict[int, MergedDelta] = {}
    for delta in deltas:
        earlier = by_sample.pop(delta.sample, None)
        if isinstance(delta, MergedDelta):
            assert earlier is None, "all deltas of an answer are merged at a time"
            by_sample[delta.sample] = delta
        elif earlier is None:
            by_sample[delta.sample] = MergedDelta(delta)
        else:
            earlier.add(delta)
            by_sample[delta.sample] = earlier
    return list(by_sample.values())
