"""One connection: uvicorn's protocol of HTTP/1.1, with the waits and sizes bounded that it leaves open.

A client may connect and send nothing, or a header field every minute; it may ask and take nothing of the answer. Each
holds a connection, a descriptor and some memory for as long as it likes. Here a connection without a complete request
is closed after `idle_seconds`, and one that takes nothing although something waits for it after `send_seconds`. A
connection beyond `connections` is told so and closed at once, whether it asks something or not, and so is one whose
first line and header fields are larger than `header_bytes`, in however many packets they come.
"""

from __future__ import annotations

import asyncio
import json
import resource
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwenkit.serving.settings import Limits

OTHER_DESCRIPTORS = 128
"""What files, libraries and threads of the process may need besides connections."""


class BoundedConnection(H11Protocol):
    """A connection whose waits end."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **more: Any) -> None:
        """Begin without timers; the arguments are uvicorn's."""
        super().__init__(*args, **more)
        self._idle: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        """Bytes of a request whose header fields are not complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request within the time."""
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > self.limits.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open", "too_many_connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._idle, self._unread = _cancelled(self._idle), _cancelled(self._unread)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time of a request runs from its first byte to its last header field."""
        while data and not self.transport.is_closing():
            reads_head = self.conn.their_state is h11.IDLE
            room = self.limits.header_bytes - self._head_bytes if reads_head else len(data)
            if room <= 0:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the header fields are too large", "header_too_large"
                )
                return
            part, data = data[:room], data[room:]
            super().data_received(part)
            self._head_bytes = self._head_bytes + len(part) if self.conn.their_state is h11.IDLE else 0
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

    def _refuse(self, status: HTTPStatus, what: str, code: str) -> None:
        """Answer what no application is asked any more, in OpenAI's form, and close the connection."""
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        error = {"message": what, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        later = "Retry-After: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n{later}Connection: close"
        self.transport.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _expect_request(self) -> None:
        if self._idle is None:
            self._idle = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one; return None, which stands for no timer."""
    if timer is not None:
        timer.cancel()


def reserve_descriptors(connections: int, accepted: int) -> int:
    """Have the system allow so many connections, those that are accepted at a time before one is refused, and what else
    the process needs; return how many connections there may be: fewer where the system does not allow that.

    A process without a descriptor left cannot refuse a connection: it tries to accept it again and again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, connections + accepted + OTHER_DESCRIPTORS)
    wanted = min(connections + accepted + OTHER_DESCRIPTORS, most)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(connections, max(wanted - accepted - OTHER_DESCRIPTORS, wanted // 2))
