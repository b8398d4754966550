"""From records to figures: percentiles, rates, goodput, fairness.

    report = summarize(records, Objectives(first_token=0.5, inter_token=0.1))
    report.first_token.p99, report.tokens_per_second, report.goodput.share, report.fairness.finished.jain

`docs/serving.md` ("Load") defines each figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qwenkit.serving.load.records import CUT, RequestRecord

REJECTED = 429


@dataclass(frozen=True)
class Percentiles:
    """What a number of times is like, in seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles | None:
        """Return the percentiles (between two values: in proportion), or None where there are no values."""
        array = np.fromiter(values, np.float64)
        if not array.size:
            return None
        p50, p95, p99 = (float(each) for each in np.percentile(array, (50, 95, 99)))
        return cls(array.size, float(array.mean()), p50, p95, p99, float(array.max()))


@dataclass(frozen=True)
class Objectives:
    """The most seconds that a good request may need; None: any number."""

    first_token: float | None = None
    inter_token: float | None = None

    def met(self, record: RequestRecord) -> bool:
        """Return whether a request is good: complete, its first token in time, and its others in time on average."""
        if record.error is not None or record.first_token is None:
            return False
        each = record.seconds_per_token
        return (self.first_token is None or record.first_token <= self.first_token) and (
            self.inter_token is None or each is None or each <= self.inter_token
        )


@dataclass(frozen=True)
class Goodput:
    """How much of what was asked met the objectives."""

    objectives: Objectives
    requests: int
    share: float
    """Of the requests that ended."""
    requests_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evenness:
    """How evenly something falls upon the clients."""

    jain: float
    """Jain's index: 1 where all have the same, 1 / clients where one has all."""
    least: float
    most: float

    @property
    def ratio(self) -> float:
        """Return the least over the most."""
        return self.least / self.most if self.most else 1.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Evenness:
        """Return the evenness of a value for each client."""
        return cls(jain_index(values), min(values), max(values))


def jain_index(values: Sequence[float]) -> float:
    """Return (sum of x)^2 / (n * sum of x^2), in 1/n to 1; 1 where all are 0."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


@dataclass(frozen=True)
class Fairness:
    """Whether one client was served as another; only where each asks again when it was answered."""

    clients: int
    finished: Evenness
    """Of the finished requests of each client."""
    waits: Evenness | None
    """Of the mean time to first token of each client; None where one was never answered."""


@dataclass(frozen=True)
class ClientCost:
    """What the client itself took. Where it is busy or late, the figures are its own and not the server's."""

    cpu_share: float
    """Of one core."""
    lag: Percentiles | None
    """By how many seconds its clock's ticks came too late."""
    late: Percentiles | None
    """By how many seconds requests were sent after they were due."""


@dataclass(frozen=True)
class LoadReport:
    """The figures of one run. Times are of finished requests."""

    seconds: float
    """From the first request that was due to the last end."""
    requests: int
    finished: int
    errors: Mapping[str, int]
    """By kind, the most frequent first."""
    examples: Mapping[str, str]
    """What the server said of the first error of each kind."""
    statuses: Mapping[str, int]
    cut: int
    """Requests that were open when the test ended."""
    unsent: int
    """Arrivals for which too many requests were open."""
    empty: int
    """Finished requests without a token."""
    prompt_tokens: int
    answer_tokens: int
    tokens_by_usage: int
    """Finished requests whose tokens the server has counted; those of the others are chunks."""
    tokens_per_chunk: float
    requests_per_second: float
    tokens_per_second: float
    total_tokens_per_second: float
    first_token: Percentiles | None
    inter_token: Percentiles | None
    per_token: Percentiles | None
    latency: Percentiles | None
    goodput: Goodput | None
    fairness: Fairness | None
    client: ClientCost | None = None
    finish_reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Return how many requests the server sent away for now (429)."""
        return self.statuses.get(str(REJECTED), 0)

    @property
    def failed(self) -> int:
        """Return how many requests have an error; those that the test's end has cut do not count."""
        return sum(self.errors.values())


def summarize(
    records: Sequence[RequestRecord], objectives: Objectives | None = None, unsent: int = 0,
    client: ClientCost | None = None,
) -> LoadReport:  # fmt: skip
    """Return the figures of the requests of a run that has ended."""
    good = [record for record in records if record.error is None]
    bad = [record for record in records if record.error not in (None, CUT)]
    seconds = max((r.ended for r in records), default=0.0) - min((r.due for r in records), default=0.0)
    prompts, answers = sum(record.prompt_tokens or 0 for record in good), sum(record.tokens for record in good)
    errors = Counter(str(record.error) for record in bad)
    return LoadReport(
        seconds=seconds, requests=len(records), finished=len(good), errors=dict(errors.most_common()),
        examples={str(record.error): record.detail for record in reversed(bad) if record.detail},
        statuses=dict(Counter(str(r.status) for r in records if r.status is not None).most_common()),
        cut=sum(record.error == CUT for record in records), unsent=unsent,
        empty=sum(not record.times for record in good), prompt_tokens=prompts, answer_tokens=answers,
        tokens_by_usage=sum(record.answer_tokens is not None for record in good),
        tokens_per_chunk=answers / max(1, sum(len(record.times) for record in good)),
        requests_per_second=_rate(len(good), seconds), tokens_per_second=_rate(answers, seconds),
        total_tokens_per_second=_rate(prompts + answers, seconds),
        first_token=Percentiles.of(r.first_token for r in good if r.first_token is not None),
        inter_token=Percentiles.of(gap for record in good for gap in record.gaps),
        per_token=Percentiles.of(r.seconds_per_token for r in good if r.seconds_per_token is not None),
        latency=Percentiles.of(record.latency for record in good),
        goodput=None if objectives is None else _goodput(good, len(good) + len(bad), seconds, objectives),
        fairness=fairness(records), client=client,
        finish_reasons=dict(Counter(r.finish_reason or "none" for r in good).most_common()),
    )  # fmt: skip


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _goodput(good: Sequence[RequestRecord], ended: int, seconds: float, objectives: Objectives) -> Goodput:
    met = [record for record in good if objectives.met(record)]
    return Goodput(objectives, len(met), len(met) / max(1, ended), _rate(len(met), seconds),
                   _rate(sum(record.tokens for record in met), seconds))  # fmt: skip


def fairness(records: Iterable[RequestRecord]) -> Fairness | None:
    """Return how evenly the clients were served; None for fewer than two."""
    finished: dict[int, int] = {}
    waits: dict[int, list[float]] = {}
    for record in records:
        if record.client is not None:
            finished[record.client] = finished.get(record.client, 0) + (record.error is None)
            if record.error is None and record.first_token is not None:
                waits.setdefault(record.client, []).append(record.first_token)
    if len(finished) < 2:
        return None
    means = [sum(each) / len(each) for each in waits.values()]
    even = Evenness.of(means) if len(means) == len(finished) else None
    return Fairness(len(finished), Evenness.of(list(finished.values())), even)
