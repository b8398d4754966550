"""One connection: uvicorn's protocol of HTTP/1.1, with the waits bounded that it leaves open.

A client may connect and send nothing, or a header field every minute; it may ask and take nothing of the answer. Each
holds a connection, a descriptor and some memory for as long as it likes. Here a connection without a complete request
is closed after `idle_seconds`, and one that takes nothing although something waits for it after `send_seconds`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwenkit.serving.settings import Limits


class BoundedConnection(H11Protocol):
    """A connection whose waits end."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **more: Any) -> None:
        """Begin without timers; the arguments are uvicorn's."""
        super().__init__(*args, **more)
        self._idle: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request within the time."""
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._idle, self._unread = _cancelled(self._idle), _cancelled(self._unread)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time of a request runs from its first byte to its last header field."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._idle = _cancelled(self._idle)
        else:
            self._expect_request()

    def pause_writing(self) -> None:
        """The client takes less than there is: it has a while to take some."""
        super().pause_writing()
        self._unread = _cancelled(self._unread)
        self._unread = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken what waited."""
        self._unread = _cancelled(self._unread)
        super().resume_writing()

    def _expect_request(self) -> None:
        if self._idle is None:
            self._idle = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one; return None, which stands for no timer."""
    if timer is not None:
        timer.cancel()
