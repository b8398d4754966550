"""The calls that wait for an engine's thread: functions to run there between two steps, each a future until it has run.

    calls = Calls(max_waiting=256)
    future = calls.open()                  # for whoever waits; `EngineBusy` where too many do
    calls.run(future, function)            # on the engine's thread
    calls.forget(future)                   # given up before that
    calls.end_all(error)                   # nobody runs them any more

When a call's turn comes, `turns.py` says; here is what becomes of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from qwenkit.errors import QwenkitError
from qwenkit.inference.loop_errors import EngineBusy


class Calls:
    """The futures of calls that have not run; at most `max_waiting` of them."""

    def __init__(self, max_waiting: int) -> None:
        """Start without calls."""
        self.max_waiting = max_waiting
        self._futures: set[Future[Any]] = set()

    def __len__(self) -> int:
        """Return how many have not run."""
        return len(self._futures)

    def open(self) -> Future[Any]:
        """Keep a place for a call and return its future. Raises `EngineBusy` where there is no place. Whoever opens
        calls from several threads holds a lock, so that no more than these get in."""
        if len(self._futures) >= self.max_waiting:
            raise EngineBusy(f"{self.max_waiting} calls wait already", hint="ask again later")
        future: Future[Any] = Future()
        self._futures.add(future)
        return future

    def run(self, future: Future[Any], function: Callable[[], Any]) -> None:
        """Run a call for whoever waits for it; what it raises is theirs."""
        if future.set_running_or_notify_cancel():
            with contextlib.suppress(InvalidStateError):  # the wait was ended meanwhile
                try:
                    result = function()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        self.forget(future)

    def forget(self, future: Future[Any]) -> None:
        """Give the place of a call back."""
        self._futures.discard(future)

    def end_all(self, error: QwenkitError) -> None:
        """Let all who wait get an error."""
        for future in list(self._futures):
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)
