"""What may go wrong with a request that runs on an engine's loop, other than the request itself.

    EngineBusy        too many requests wait already; a server answers 429
    EngineStopped     the loop has ended, is ending, or no step comes to its end; a server answers 503
    EngineTimeout     the request, or the caller's wait, has taken longer than it may; a server answers 504
    RequestAborted    somebody has aborted the request

A fault of the request itself (a prompt that is too long, logits that are NaN) is the engine's own error.
"""

from __future__ import annotations

from qwenkit.errors import QwenkitError, Stopped


class EngineBusy(QwenkitError):
    """The queue is full: the same request may be asked again later."""

    def __init__(self, what: str, *, hint: str | None = None, seconds: float = 0.0) -> None:
        """`seconds` is how long the first one in the queue has waited: about as long the next one will."""
        super().__init__(what, hint=hint)
        self.seconds = seconds


class EngineStopped(Stopped):
    """There is no engine that would answer. `__cause__` is the fault that ended it, if it was one."""


class EngineTimeout(Stopped, TimeoutError):
    """A limit of time has passed: the request's own (`submit(timeout=...)`), or that of a wait."""


class RequestAborted(Stopped):
    """The request was aborted while somebody still waited for it."""


def stopped_by(fault: BaseException) -> EngineStopped:
    """Return the error for all who wait for an engine that has ended with a fault."""
    error = EngineStopped(f"the engine has failed: {_words(fault)}", hint="make a new engine")
    error.__cause__ = fault
    return error


def _words(fault: BaseException) -> str:
    """Return the first line of what a fault says of itself."""
    if isinstance(fault, MemoryError):
        return "there is not enough memory"
    return next(iter(str(fault).splitlines()), "") or "an internal error"
