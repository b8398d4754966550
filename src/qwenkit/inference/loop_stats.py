"""Figures of an engine's loop, as `EngineLoop.stats` returns them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from qwenkit.errors import QwenkitError
from qwenkit.inference.loop_errors import EngineTimeout, RequestAborted

RATE_SECONDS = 10.0
"""The time over which the rate of tokens is taken."""

LoopState = Literal["running", "draining", "stalled", "stopped", "failed"]
"""Whether requests are taken (`running`) and why they are not: they come to their end (`draining`), no step has come to
its end for too long (`stalled`), the loop was stopped, or the engine has failed."""


@dataclass(frozen=True)
class LoopStats:
    """What a loop does now, and what it has done since it began."""

    state: LoopState
    error: str | None
    """What has failed, where the state is `failed`."""
    running: int
    """Requests that have got a token and will get more."""
    waiting: int
    """Requests that have got none yet: they are being encoded, queued, or their prompts are being read."""
    waiting_seconds: float
    """How long the first of those that wait has waited."""
    completed: int
    """Requests that have got their output."""
    failed: int
    """Requests that have ended with an error; those of the next two are among them."""
    aborted: int
    timed_out: int
    refused: int
    """Requests that found the queue full (`EngineBusy`); they are in no other figure."""
    prompt_tokens: int
    """Tokens of all prompts that were queued."""
    generated_tokens: int
    tokens_per_second: float
    """Generated tokens a second, over the last `RATE_SECONDS`."""
    first_tokens: int
    """Requests that have got a token, or an end without one."""
    first_token_seconds: float
    """How long they waited for it together, in seconds, from `submit` on."""
    engine: object | None
    """What the engine says of itself (`stats`), such as the figures of its cache; None where it says nothing."""


@dataclass
class Counts:
    """What a loop has counted since it began: fields of `LoopStats`."""

    completed: int = 0
    failed: int = 0
    aborted: int = 0
    timed_out: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0

    def begin(self, seconds: float) -> None:
        """Count a first token, for which a request waited so long."""
        self.first_tokens, self.first_token_seconds = self.first_tokens + 1, self.first_token_seconds + seconds

    def end(self, error: QwenkitError | None) -> None:
        """Count a request that has ended with an error, or with its output."""
        self.completed += error is None
        self.failed += error is not None
        self.aborted += isinstance(error, RequestAborted)
        self.timed_out += isinstance(error, EngineTimeout)


class TokenRate:
    """How many tokens a second there were of late."""

    def __init__(self, start: float) -> None:
        """Begin at a time in seconds."""
        self.start, self.total = start, 0
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()

    def add(self, now: float, tokens: int) -> None:
        """Count tokens that came at a time in seconds."""
        with self._lock:
            self.total += tokens
            if (
                self._recent and now - self._recent[-1][0] < RATE_SECONDS / 100
            ):  # so there are at most about 100 entries
                time, earlier = self._recent.pop()
                self._recent.append((time, earlier + tokens))
            else:
                self._recent.append((now, tokens))
            self._forget(now)

    def rate(self, now: float) -> float:
        """Return the tokens a second over the last `RATE_SECONDS`, or since the start."""
        with self._lock:
            self._forget(now)
            seconds = min(RATE_SECONDS, now - self.start)
            return sum(tokens for _, tokens in self._recent) / seconds if seconds > 0 else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - RATE_SECONDS:
            self._recent.popleft()
