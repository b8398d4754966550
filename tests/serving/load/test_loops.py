"""Who asks when, with senders in this process: closed and open loops, their ends, and what errors do."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from qwenkit.serving.load.loops import LoadPlan, LoadRun, Progress
from qwenkit.serving.load.records import CUT, RequestRecord
from qwenkit.serving.load.requests import Lengths, LoadRequest, made_requests

LIMIT = 30.0
REQUESTS = made_requests(0, Lengths(2, 2), Lengths(3, 3))


class Sender:
    """Answers after some time, and keeps how many were open at a time."""

    def __init__(self, seconds: float = 0.002, error: str | None = None, status: int = 200,
                 retry_after: float | None = None) -> None:  # fmt: skip
        self.seconds, self.error, self.status, self.retry_after = seconds, error, status, retry_after
        self.open = self.most = 0
        self.asked: list[LoadRequest] = []

    async def __call__(self, request: LoadRequest, record: RequestRecord) -> None:
        record.sent = time.perf_counter()
        self.asked.append(request)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.open -= 1
        record.status = self.status
        if self.error is None:
            record.times.append(time.perf_counter())
        else:
            record.retry_after = self.retry_after
            record.fail(self.error)


def run(sender: Sender, stop_after: float | None = None, **plan: Any) -> tuple[LoadRun, list[RequestRecord], float]:
    """Run a plan, and end it early where that is asked; the run, its records and its seconds."""
    made = LoadRun(LoadPlan(**plan), REQUESTS, sender)

    async def measure() -> list[RequestRecord]:
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, made.stop)
        return await asyncio.wait_for(made.run(), LIMIT)

    start = time.perf_counter()
    return made, asyncio.run(measure()), time.perf_counter() - start


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    sender = Sender()
    _, records, _ = run(sender, clients=3, requests=20)
    assert [record.number for record in records] == list(range(20)) and sender.most == 3
    assert {record.client for record in records} == {0, 1, 2} and not any(record.error for record in records)
    assert sorted(sender.asked, key=str) == sorted((REQUESTS(number) for number in range(20)), key=str)


def test_a_duration_ends_the_asking_and_lets_open_requests_end() -> None:
    _, records, _ = run(Sender(0.05), clients=2, duration=0.12)
    assert records and not any(record.error for record in records)


def test_open_requests_are_cut_after_the_drain() -> None:
    _, records, _ = run(Sender(LIMIT), clients=2, duration=0.05, drain=0.05)
    assert [record.error for record in records] == [CUT, CUT] and all(record.ended for record in records)


def test_stop_ends_it_now() -> None:
    made, records, _ = run(Sender(LIMIT), stop_after=0.05, clients=2, requests=100)
    assert made.stopped and [record.error for record in records] == [CUT, CUT]


def test_arrivals_do_not_wait_for_answers() -> None:
    sender = Sender(0.3)
    _, records, _ = run(sender, rate=200, requests=40, seed=5)
    assert sender.most == 40 and {record.client for record in records} == {None}
    dues = [record.due for record in records]
    assert dues == sorted(dues) and all(record.sent >= record.due for record in records)


def test_arrivals_are_a_poisson_process_of_the_seed() -> None:
    """Mean and deviation of an exponential distribution: 1/rate each, within five of their standard errors."""
    gaps: list[list[float]] = []
    for _ in range(2):
        _, records, _ = run(Sender(0.0), rate=5000.0, requests=2000, seed=1, most_open=5000)
        gaps.append([later.due - earlier.due for earlier, later in itertools.pairwise(records)])
    assert max(abs(one - other) for one, other in zip(*gaps)) < 1e-6
    mean = sum(gaps[0]) / len(gaps[0])
    deviation = (sum((gap - mean) ** 2 for gap in gaps[0]) / len(gaps[0])) ** 0.5
    error = (1 / 5000) / len(gaps[0]) ** 0.5
    assert abs(mean - 1 / 5000) < 5 * error and abs(deviation - 1 / 5000) < 5 * 2**0.5 * error


def test_arrivals_beyond_what_may_be_open_are_counted() -> None:
    made, records, _ = run(Sender(0.2), rate=1000, requests=30, most_open=4)
    assert len(records) + made.unsent == 30 and len(records) >= 4 and made.unsent > 0


def test_a_run_in_which_nothing_is_answered_ends_early() -> None:
    made, records, _ = run(Sender(0.0, "HTTP 404", 404, retry_after=0.0), clients=8, duration=LIMIT)
    assert made.hopeless and 20 <= len(records) <= 28


def test_a_busy_server_is_asked_again_when_it_said() -> None:
    sender = Sender(0.0, "HTTP 429", 429, retry_after=0.2)
    made, records, _ = run(sender, clients=1, duration=0.5)
    assert not made.hopeless and 2 <= len(records) <= 3
    assert all(later.due - earlier.ended >= 0.2 for earlier, later in itertools.pairwise(records))


def test_progress_and_cost() -> None:
    told: list[Progress] = []
    made = LoadRun(LoadPlan(clients=2, requests=60), REQUESTS, Sender(0.05), told.append)
    asyncio.run(asyncio.wait_for(made.run(), LIMIT))
    assert told and told[0].left is not None and 0 < told[0].ended <= 60 and told[0].open <= 2
    cost = made.cost()
    assert cost.lag and cost.lag.count >= 10 and cost.late and cost.late.count == 60 and cost.cpu_share >= 0
