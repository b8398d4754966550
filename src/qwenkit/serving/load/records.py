"""What came of one request, and when. Times are seconds of one clock, `time.perf_counter`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

CUT = "cut at the end"
"""The error of a request that was open when the test ended: nobody's fault."""
_SHOWN = 300


@dataclass(eq=False)
class RequestRecord:
    """One request, from when it was due to its end."""

    number: int
    client: int | None
    """Who asked; None where requests arrive at a rate."""
    due: float
    """When it was to be sent: waits count from here, also those that the client itself is to blame for."""
    sent: float = 0.0
    ended: float = 0.0
    times: array[float] = field(default_factory=lambda: array("d"))
    """When each chunk came that brought some of the answer."""
    status: int | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    """As the server's `usage` says; None: it says nothing."""
    finish_reason: str | None = None
    error: str | None = None
    """The kind of what went wrong: one of few words, so that errors can be counted."""
    detail: str = ""
    retry_after: float | None = None

    def fail(self, kind: str, detail: str = "") -> None:
        """Write down what went wrong; the first error counts."""
        if self.error is None:
            self.error, self.detail = kind, detail[:_SHOWN]

    @property
    def first_token(self) -> float | None:
        """Return the seconds until the first token; None: none came."""
        return self.times[0] - self.due if self.times else None

    @property
    def latency(self) -> float:
        """Return the seconds until the last token, or until the end where none came."""
        return (self.times[-1] if self.times else self.ended) - self.due

    @property
    def gaps(self) -> list[float]:
        """Return the seconds between one chunk and the next."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:])]

    @property
    def tokens(self) -> int:
        """Return the tokens of the answer: by the server's `usage`, or its chunks."""
        return len(self.times) if self.answer_tokens is None else self.answer_tokens

    @property
    def seconds_per_token(self) -> float | None:
        """Return the mean time of a token after the first one; None where there is no second one."""
        if len(self.times) < 2 or self.tokens < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.tokens - 1)
