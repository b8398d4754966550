"""What belongs to one thread says so to a second one.

    alone = OneThread()
    with alone: ...          # raises `ThreadInside` while another thread is in here

A check and no lock: nobody waits, and it costs about a microsecond a step.
"""

from __future__ import annotations

import threading
from types import TracebackType

from qwenkit.errors import UserError


class ThreadInside(UserError):
    """Another thread is inside; it may be out soon."""


class OneThread:
    """Which thread is inside, if one is.

    The same thread may enter again: after an interrupt it may not have left. So nobody counts how often, and the first
    exit is out; nothing enters twice on purpose."""

    def __init__(self) -> None:
        """Start with nobody inside."""
        self._inside: int | None = None

    def __enter__(self) -> None:
        """Enter; raises `ThreadInside` while another thread is inside. Between the look and the assignment nothing is
        called, so no other thread comes between them."""
        own = threading.get_ident()
        inside = self._inside
        if inside is not None and inside != own:
            raise ThreadInside("another thread is inside this engine", expected="one thread at a time",
                               hint="EngineLoop(engine) takes requests from any thread")  # fmt: skip
        self._inside = own

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave."""
        self._inside = None
