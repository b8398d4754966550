"""The figures of a run, from records whose times are known."""

from __future__ import annotations

from array import array

import pytest

from qwenkit.serving.load.measures import Evenness, Goodput, Objectives, Percentiles, fairness, jain_index, summarize
from qwenkit.serving.load.records import CUT, RequestRecord


def record(due: float, *times: float, client: int | None = None, error: str | None = None, status: int | None = 200,
           prompt: int | None = None, answer: int | None = None) -> RequestRecord:  # fmt: skip
    made = RequestRecord(0, client, due, due + 0.125, (times or (due,))[-1] + 0.25, array("d", times), status)
    made.prompt_tokens, made.answer_tokens = prompt, answer
    if error:
        made.fail(error, f"what was told of {error}")
    return made


def test_one_request() -> None:
    one = record(10, 11, 11.5, 13, answer=5)
    assert (one.first_token, one.latency, one.gaps, one.tokens) == (1, 3, [0.5, 1.5], 5)
    assert one.seconds_per_token == 2 / 4  # five tokens in three chunks
    assert record(10, 11, 13).seconds_per_token == 2 and record(10, 11).seconds_per_token is None
    assert (record(10).first_token, record(10).latency, record(10).seconds_per_token) == (None, 0.25, None)


def test_percentiles() -> None:
    values = Percentiles.of(float(number) for number in range(101))
    assert values == Percentiles(101, 50, 50, 95, 99, 100) and Percentiles.of([]) is None
    assert Percentiles.of([1.0, 2.0]) == Percentiles(2, 1.5, 1.5, pytest.approx(1.95), pytest.approx(1.99), 2)


def test_rates_and_counts() -> None:
    records = [
        record(0, 1, 2, prompt=10, answer=4),
        record(1, 2, 3, 5.75),
        record(1, error="HTTP 429", status=429),
        record(1, 2, error="connection lost"),
        record(2, error="HTTP 429", status=429),
        record(3, 4, error=CUT),
        record(3, status=200),
    ]
    report = summarize(records, unsent=2)
    assert (report.seconds, report.requests, report.finished, report.cut, report.unsent) == (6, 7, 3, 1, 2)
    assert report.errors == {"HTTP 429": 2, "connection lost": 1} and (report.failed, report.rejected) == (3, 2)
    assert list(report.errors) == ["HTTP 429", "connection lost"]
    assert report.examples == {kind: f"what was told of {kind}" for kind in report.errors}
    assert report.statuses == {"200": 5, "429": 2} and report.empty == 1
    assert (report.prompt_tokens, report.answer_tokens, report.tokens_by_usage) == (10, 7, 1)
    assert report.tokens_per_chunk == 7 / 5
    assert (report.requests_per_second, report.tokens_per_second) == (3 / 6, 7 / 6)
    assert report.total_tokens_per_second == 17 / 6
    assert report.first_token == Percentiles.of([1.0, 1.0])
    assert report.inter_token == Percentiles.of([1.0, 1.0, 2.75])
    assert report.per_token == Percentiles.of([1 / 3, 1.875])
    assert report.latency == Percentiles.of([2, 4.75, 0.25])
    assert report.goodput is None and report.fairness is None


def test_goodput_is_what_keeps_to_every_objective() -> None:
    records = [
        record(0, 1, 2),  # 1 s, then 1 s a token
        record(0, 3, 3.5),  # late
        record(0, 1, 4),  # slow
        record(0, 1),  # of one token: no time between tokens
        record(0, 1, 2, error="connection lost"),
        record(0),  # no token
        record(0, 1, 2, error=CUT),
    ]
    report = summarize(records, both := Objectives(2, 1.5))
    assert report.goodput == Goodput(both, 2, 2 / 6, 2 / 4.25, 3 / 4.25)
    for objectives, count in ((Objectives(2, None), 3), (Objectives(None, 1.5), 3), (Objectives(), 4)):
        assert (goodput := summarize(records, objectives).goodput) and goodput.requests == count


def test_jains_index() -> None:
    assert jain_index([3, 3, 3]) == 1 and jain_index([5, 0, 0, 0]) == 0.25 and jain_index([0, 0]) == 1
    assert jain_index([1, 3]) == 16 / 20
    assert Evenness.of([1, 3]).ratio == 1 / 3 and Evenness.of([0.0, 0.0]).ratio == 1


def test_fairness_over_clients() -> None:
    fair = fairness([record(0, 1, client=0), record(1, 4, client=0), record(0, 6, client=1)])
    assert fair and (fair.clients, fair.finished, fair.waits) == (2, Evenness.of([2, 1]), Evenness.of([2, 6]))


def test_a_client_that_was_never_answered_counts() -> None:
    fair = fairness([record(0, 1, client=0), record(0, client=1, error="HTTP 429", status=429)])
    assert fair and fair.finished == Evenness.of([1, 0]) and fair.waits is None
    assert fairness([record(0, 1, client=0)]) is None and fairness([record(0, 1), record(0, 1)]) is None


def test_nothing_at_all() -> None:
    report = summarize([], Objectives(1, 1))
    assert (report.seconds, report.requests, report.tokens_per_second, report.first_token) == (0, 0, 0, None)
    assert report.goodput and report.goodput.share == 0
