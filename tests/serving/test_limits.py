"""What a client may take in a minute and at a time, with a clock of the test's own."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from qwenkit.serving.keys import Allowance, Client
from qwenkit.serving.limits import Bucket, Usage
from qwenkit.serving.refusals import Refused


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def usage(**allowance: int) -> tuple[Usage, Client, Clock]:
    clock = Clock()
    return Usage(clock), Client("a", Allowance(**allowance)), clock


def ask(usage: Usage, client: Client) -> None:
    with usage.open(client):
        pass


def test_requests_a_minute_come_back_steadily() -> None:
    all, client, clock = usage(requests_per_minute=3)
    for _ in range(3):
        ask(all, client)
    with pytest.raises(Refused) as caught:
        ask(all, client)
    refusal = caught.value.refusal
    assert (refusal.kind, refusal.what, refusal.retry_after) == ("rate_limited", "3 requests a minute are asked", 20)
    clock.now += 20
    ask(all, client)
    with pytest.raises(Refused):
        ask(all, client)


def test_tokens_a_minute_may_be_overdrawn_once_and_are_paid_back() -> None:
    all, client, clock = usage(tokens_per_minute=60)
    with all.open(client):
        all.charge(client, 30)
        all.charge(client, 90)
    with pytest.raises(Refused) as caught:
        ask(all, client)
    assert caught.value.refusal.retry_after == 61  # 60 below nothing, and one more
    clock.now += 61
    ask(all, client)


def test_open_requests_end_however_they_end() -> None:
    all, client, _ = usage(open_requests=2)
    with ExitStack() as stack:
        stack.enter_context(all.open(client))
        stack.enter_context(all.open(client))
        with pytest.raises(Refused) as caught:
            ask(all, client)
        assert caught.value.refusal.what == "2 requests of this key are open"
    with pytest.raises(ZeroDivisionError), all.open(client):
        raise ZeroDivisionError
    assert all.open_requests(client) == 0


def test_clients_do_not_share() -> None:
    all, client, _ = usage(requests_per_minute=1)
    ask(all, client)
    ask(all, Client("b", client.allowance))


def test_a_bucket_never_holds_more_than_a_minute() -> None:
    bucket = Bucket(10, now=0)
    bucket.take(4, now=3600)
    assert bucket.seconds_until(6, now=3600) == 0
    assert bucket.seconds_until(10, now=3600) == pytest.approx(24)
