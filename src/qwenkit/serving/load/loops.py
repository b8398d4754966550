"""Who asks when. Closed loop: each of a number of clients asks again when it was answered, so a slow server is asked
less. Open loop: requests arrive at a rate, whatever the server does, as those of many people do.

    run = LoadRun(LoadPlan(clients=16, duration=30), requests, send)
    records = await run.run()                    # `run.stop()` ends it early
    summarize(records, unsent=run.unsent, client=run.cost())

`send` is whatever answers a request into its record: `sender.HttpSender` over HTTP, or an engine in this process.

Arrivals are a Poisson process. A request's wait begins when it is due, not when this process found time to send it.
After an error a client waits as long as the server's `Retry-After` says, else a second, so that errors are not counted
by the thousand. A run in which nothing is answered ends after some errors.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qwenkit.rng import derive_seed, uniform
from qwenkit.serving.load.measures import REJECTED, ClientCost, Percentiles
from qwenkit.serving.load.records import CUT, RequestRecord
from qwenkit.serving.load.requests import LoadRequest, Requests

_TICK, _TELL = 0.05, 1.0
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_HOPELESS = 20


class Sender(Protocol):
    """What answers a request."""

    async def __call__(self, request: LoadRequest, record: RequestRecord) -> None:
        """Ask, and write into the record what comes; raises nothing but a cancellation, and ends."""
        ...


@dataclass(frozen=True)
class LoadPlan:
    """Who asks, and how long."""

    clients: int = 8
    rate: float | None = None
    """Arrivals a second; None: a closed loop of `clients`."""
    requests: int | None = None
    duration: float | None = None
    """Seconds in which requests are sent. One of the two is given, or both: then what comes first ends it."""
    drain: float = 30.0
    """Seconds that open requests have after `duration`; then they are cut."""
    most_open: int = 1024
    """Requests that may be open at a rate; more arrivals are counted, not sent."""
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    seconds: float
    ended: int
    open: int
    errors: int
    tokens: int
    left: float | None
    """Seconds until its end, at the present speed."""


class LoadRun:
    """One run."""

    def __init__(self, plan: LoadPlan, requests: Requests, send: Sender,
                 progress: Callable[[Progress], None] = lambda progress: None) -> None:  # fmt: skip
        """Take what is asked, whom, and whom to tell each second how far it is."""
        self.plan, self.unsent, self.stopped = plan, 0, False
        self._requests, self._send, self._progress = requests, send, progress
        self._records: list[RequestRecord] = []
        self._open: set[asyncio.Task[None]] = set()
        self._number = self._errors = self._tokens = self._ended = self._answered = 0
        self._lags = array("d")
        self._start = self._end = self._cpu = 0.0
        self._stop: asyncio.Event | None = None

    async def run(self) -> list[RequestRecord]:
        """Ask until the plan's end; return the records in the order in which they were due."""
        self._stop, self._cpu, self._start = asyncio.Event(), time.process_time(), time.perf_counter()
        ticking = asyncio.create_task(self._tick())
        asking = asyncio.create_task(self._closed() if self.plan.rate is None else self._arrivals(self.plan.rate))
        stop = asyncio.create_task(self._stop.wait())
        try:
            limit = None if self.plan.duration is None else self.plan.duration + self.plan.drain
            await asyncio.wait((asking, stop), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
        finally:
            for task in (asking, stop, ticking, *self._open):
                task.cancel()
            await asyncio.gather(asking, stop, ticking, *self._open, return_exceptions=True)
            self._end, self._cpu = time.perf_counter(), time.process_time() - self._cpu
        return self._records

    def stop(self) -> None:
        """End the run now; requests that are open are cut."""
        self.stopped = True
        if self._stop is not None:
            self._stop.set()

    @property
    def hopeless(self) -> bool:
        """Return whether so many requests have failed, and none was answered, that more would tell nothing new."""
        return not self._answered and self._errors >= max(_HOPELESS, self.plan.clients)

    def cost(self) -> ClientCost:
        """Return what the run took of this process."""
        late = Percentiles.of(record.sent - record.due for record in self._records if record.sent)
        return ClientCost(self._cpu / max(1e-9, self._end - self._start), Percentiles.of(self._lags), late)

    # ---- who asks ---------------------------------------------------------------------------------------------------

    async def _closed(self) -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(self.plan.clients):
                group.create_task(self._client(client))

    async def _client(self, client: int) -> None:
        """Ask again and again, one request at a time."""
        while (number := self._next()) is not None:
            record = await self._one(number, client, time.perf_counter())
            if record.error is not None:
                await self._pause(record.retry_after)

    async def _pause(self, retry_after: float | None) -> None:
        """Wait after an error, not beyond the end."""
        seconds = min(_LONGEST_PAUSE, _PAUSE if retry_after is None else max(0.1, retry_after))
        if self.plan.duration is not None:
            seconds = min(seconds, self._start + self.plan.duration - time.perf_counter())
        await asyncio.sleep(max(0.0, seconds))

    async def _arrivals(self, rate: float) -> None:
        """Send requests when they are due, whatever became of the others; then wait for those that are open."""
        due, seed = self._start, derive_seed(self.plan.seed, "arrivals")
        while (number := self._next()) is not None:
            due += -math.log1p(-float(uniform(seed, number))) / rate
            if self.plan.duration is not None and due > self._start + self.plan.duration:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(self._open) >= self.plan.most_open:
                self.unsent += 1
                continue
            task = asyncio.create_task(self._alone(number, due))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        if self._open:
            await asyncio.wait(self._open)

    async def _alone(self, number: int, due: float) -> None:
        await self._one(number, None, due)

    def _next(self) -> int | None:
        """Return the number of the next request, None after the last one."""
        if self.hopeless or self._is_over() or self._number == self.plan.requests:
            return None
        self._number += 1
        return self._number - 1

    def _is_over(self) -> bool:
        return self.plan.duration is not None and time.perf_counter() - self._start >= self.plan.duration

    async def _one(self, number: int, client: int | None, due: float) -> RequestRecord:
        record = RequestRecord(number, client, due)
        self._records.append(record)
        try:
            await self._send(self._requests(number), record)
        except asyncio.CancelledError:
            record.fail(CUT)
            raise
        finally:
            record.ended = time.perf_counter()
            self._ended += 1
            self._errors += record.error not in (None, CUT) and record.status != REJECTED
            self._answered += record.error is None
            self._tokens += record.tokens
        return record

    # ---- the clock --------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Measure by how much this process is late, and tell how far it is."""
        last = due = time.perf_counter()
        while True:
            due += _TICK
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            self._lags.append(now - due)
            due = max(due, now - _TICK)
            if now >= last + _TELL:
                last = now
                self._progress(self._now(now - self._start))

    def _now(self, seconds: float) -> Progress:
        left = []
        if self.plan.duration is not None:
            left.append(max(0.0, self.plan.duration - seconds))
        if self.plan.requests is not None and self._ended:
            left.append((self.plan.requests - self._ended) * seconds / self._ended)
        opened = self._number - self.unsent - self._ended
        return Progress(seconds, self._ended, opened, self._errors, self._tokens, min(left, default=None))
