"""Figures of an engine's loop, as `EngineLoop.stats` returns them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

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
    completed: int
    """Requests that have got their output."""
    failed: int
    """Requests that have ended with an error, aborted ones included."""
    prompt_tokens: int
    """Tokens of all prompts that were queued."""
    generated_tokens: int
    tokens_per_second: float
    """Generated tokens a second, over the last `RATE_SECONDS`."""
    engine: object | None
    """What the engine says of itself (`stats`), such as the figures of its cache; None where it says nothing."""


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
