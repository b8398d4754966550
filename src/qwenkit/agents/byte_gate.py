"""A gate between a socket that a kernel serves and this process's ZeroMQ, which lets so many bytes through at a time.

    gate = ByteGate(descriptor, place, most=32 << 20)
    connection.connect(f"ipc://{place}")
    gate.release(count)                             # so much was taken

ZeroMQ bounds the size of a part and the number of messages that wait, and not the parts of one message: a kernel that
sends parts without end would fill this process's memory. Here it waits once `most` bytes are ahead of what was taken.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading

_CHUNK = 1 << 16
_LOOK_SECONDS = 0.05  # how long nothing may happen before the gate looks whether it is closed, or may go on


class ByteGate:
    """Moves bytes both ways on a thread of its own; only those from the kernel are counted."""

    def __init__(self, descriptor: int, place: str, most: int) -> None:
        """Listen at `place`, in a folder of this process alone, for one connection to the socket of a descriptor."""
        self._most, self._ahead = most, 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._kernel = socket.socket(socket.AF_UNIX)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(place)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, args=(descriptor,), name="qwenkit-gate", daemon=True)
        self._thread.start()

    def release(self, count: int) -> None:
        """Let as many bytes more come."""
        with self._lock:
            self._ahead = max(0, self._ahead - count)

    def close(self) -> None:
        """End both connections."""
        self._closed.set()
        for connection in (self._listener, self._kernel):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self, descriptor: int) -> None:
        with contextlib.suppress(OSError), self._listener, self._kernel:
            while not self._connects(f"/proc/self/fd/{descriptor}"):
                self._closed.wait(0.005)
            own, _ = self._listener.accept()
            with own:
                self._move(own)

    def _connects(self, place: str) -> bool:
        """Connect to the kernel; False where its socket has its name and does not listen yet."""
        if self._closed.is_set():
            raise OSError("the gate is closed")
        try:
            self._kernel.connect(place)
        except ConnectionRefusedError:
            return False
        return True

    def _move(self, own: socket.socket) -> None:
        """Move bytes until one side ends."""
        other = {own: self._kernel, self._kernel: own}
        while not self._closed.is_set():
            sides = [own, self._kernel] if self._ahead < self._most else [own]
            for side in _ready(sides, select.POLLIN):
                data = side.recv(_CHUNK)
                if not data:
                    return
                if side is self._kernel:
                    with self._lock:
                        self._ahead += len(data)
                self._send(other[side], data)

    def _send(self, side: socket.socket, data: bytes) -> None:
        """Send all of it, however long the other side takes, until the gate is closed."""
        rest = memoryview(data)
        while rest and not self._closed.is_set():
            if _ready([side], select.POLLOUT):
                rest = rest[side.send(rest, socket.MSG_DONTWAIT) :]


def _ready(sides: list[socket.socket], event: int) -> list[socket.socket]:
    """Return those of some sockets that are ready within a short time. (`select` knows no descriptor above 1,023.)"""
    poller, by_number = select.poll(), {side.fileno(): side for side in sides}
    for number in by_number:
        poller.register(number, event)
    return [by_number[number] for number, _ in poller.poll(1000 * _LOOK_SECONDS)]
