"""What a client may take: requests at a time and a minute, tokens a minute.

    usage = Usage(clock=time.monotonic)
    with usage.open(client):                     # Refused, with the seconds to wait, where it has too many
        usage.charge(client, prompt_tokens)      # what a request takes is known bit by bit
        usage.charge(client, generated_tokens)

A minute's allowance is a bucket that fills steadily and holds what a minute gives. A request is let in where there is
something in the bucket of tokens, and takes what it takes: the bucket may go below nothing, and the next request waits
until it is filled again. So the rate is kept over time, and no request has to guess how long its answer will be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qwenkit.serving.keys import Client
from qwenkit.serving.refusals import Refusal, Refused

MINUTE = 60.0


def too_many(what: str, seconds: float, hint: str | None = None) -> Refused:
    """Return the refusal of a client that has asked too much for now; in `seconds` it may ask again."""
    wait = max(1, math.ceil(seconds))
    return Refused(Refusal("rate_limited", what, hint=hint or f"ask again in {wait} s", code="rate_limit_exceeded",
                           retry_after=wait))  # fmt: skip


class Bucket:
    """A token bucket: it fills with `per_minute` a minute and holds as much."""

    def __init__(self, per_minute: int, now: float) -> None:
        """Make a full bucket at a time in seconds."""
        self.per_minute, self._level, self._at = per_minute, float(per_minute), now

    def seconds_until(self, wanted: float, now: float) -> float:
        """Return how long it takes until the bucket holds `wanted`; 0: it does."""
        self._fill(now)
        return max(0.0, (wanted - self._level) * MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Take something out, also more than there is."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(float(self.per_minute), self._level + (now - self._at) * self.per_minute / MINUTE)
        self._at = now


@dataclass
class _Account:
    """What a client takes at present."""

    requests: Bucket | None
    tokens: Bucket | None
    open: int = 0


class Usage:
    """The accounts of all clients. Only the server's event loop uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets; `clock` gives seconds."""
        self._clock, self._accounts = clock, dict[str, _Account]()

    def _account(self, client: Client) -> _Account:
        account, limits = self._accounts.get(client.name), client.allowance
        if account is None:
            account = _Account(self._bucket(limits.requests_per_minute), self._bucket(limits.tokens_per_minute))
            self._accounts[client.name] = account
        return account

    def _bucket(self, per_minute: int | None) -> Bucket | None:
        return None if per_minute is None else Bucket(per_minute, self._clock())

    @contextmanager
    def open(self, client: Client) -> Iterator[None]:
        """Count a request as open inside the `with` block; raises `Refused` where the client may not ask now."""
        account, now = self._account(client), self._clock()
        most = client.allowance.open_requests
        if most is not None and account.open >= most:
            raise too_many(f"{account.open} requests of this key are open", 1, hint="wait for their answers")
        if account.requests and (seconds := account.requests.seconds_until(1, now)):
            raise too_many(f"{account.requests.per_minute} requests a minute are asked", seconds)
        if account.tokens and (seconds := account.tokens.seconds_until(1, now)):
            raise too_many(f"{account.tokens.per_minute} tokens a minute are used", seconds)
        if account.requests:
            account.requests.take(1, now)
        account.open += 1
        try:
            yield
        finally:
            account.open -= 1

    def charge(self, client: Client, tokens: int) -> None:
        """Count tokens of a prompt or an answer."""
        account = self._account(client)
        if account.tokens and tokens:
            account.tokens.take(tokens, self._clock())

    def open_requests(self, client: Client) -> int:
        """Return how many requests of a client are open."""
        return self._account(client).open
