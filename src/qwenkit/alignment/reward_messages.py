"""Messages between a training and the process of a reward, over a socket: each with the number of its question, whole
or not at all, and never later than a deadline. Whatever else is written on the socket is an error, not an answer."""

from __future__ import annotations

import socket
import struct
import time

_HEAD = struct.Struct("!QQ")
_MOST = 2**32
"""The longest message in bytes."""


class Messages:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        """Send and receive over this end."""
        self._end = end

    def send(self, number: int, message: bytes, deadline: float | None = None) -> None:
        """Send a message; raises a `TimeoutError` after the deadline, in seconds of `time.monotonic`."""
        self._limit(deadline)
        self._end.sendall(_HEAD.pack(number, len(message)) + message)

    def receive(self, number: int | None = None, deadline: float | None = None) -> tuple[int, bytes]:
        """Return the next message with its number.

        Raises an `EOFError` at the end, a `TimeoutError` after the deadline, and a `ConnectionError` where the message
        is not that of the number, or none at all."""
        asked, length = _HEAD.unpack(self._read(_HEAD.size, deadline))
        if length > _MOST or number not in (None, asked):
            raise ConnectionError("not an answer to the question")
        return asked, self._read(length, deadline)

    def _read(self, count: int, deadline: float | None) -> bytes:
        parts: list[bytes] = []
        while count:
            self._limit(deadline)
            part = self._end.recv(min(count, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _limit(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._end.settimeout(left)

    def close(self) -> None:
        """Close this end."""
        self._end.close()
