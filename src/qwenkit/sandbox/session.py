"""The host's side of the conversation with a supervisor: its start, a request, the outputs, the answer, its end.

Every wait has a limit, and what comes back is bounded, whatever the other side does."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.errors import UserError

GRACE = 15.0
"""Seconds beyond a program's own limit until the sandbox itself is ended: its processes must have ended, and the files
must have come, by then."""
DRAIN = 1 << 20
"""Bytes of output that are read beyond its limit before the program is ended, so that its end can be shown."""
_CHUNK, _HEAD = 1 << 16, 8


_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The environment of a supervisor."""


class SandboxError(UserError):
    """The sandbox could not be set up or did not answer; the program was not run, or was ended."""


class Clipped:
    """The front and the end of a stream of bytes, and how many lie between them."""

    def __init__(self, limit: int) -> None:
        """Keep `limit` bytes at most: half of it from the front, the other half from the end."""
        self.front_room, self.end_room = limit - limit // 2, limit // 2
        self.front, self.end, self.total = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        """Take what comes next."""
        self.total += len(data)
        room = self.front_room - len(self.front)
        self.front += data[:room]
        if len(data) > room:
            self.end += data[max(room, 0) :]
            if len(self.end) > 2 * self.end_room + _CHUNK:
                del self.end[: len(self.end) - self.end_room]

    def value(self) -> tuple[bytes, int]:
        """Return (front and end, bytes that are left out between them)."""
        end = self.end[len(self.end) - self.end_room :] if len(self.end) > self.end_room else self.end
        omitted = self.total - len(self.front) - len(end)
        return bytes(self.front + end), omitted


@dataclass
class Answer:
    """What a supervisor says of a program, as it was said."""

    code: int = 0
    cause: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failed: str = ""
    """Why the program did not begin; "" where it did."""
    omitted: int = 0
    oversized: bool = False
    """Whether a file has reached the limit of its size: what was to be written beyond it is not there."""
    files: dict[str, bytes] = field(default_factory=dict)


class Session:
    """A supervisor and the socket to it."""

    def __init__(self, make_command: Callable[[int], Sequence[str]], code: bytes, pass_fds: Sequence[int]) -> None:
        """Start a supervisor by a command that is made for the descriptor of its socket; it is sent its `code`."""
        self.code = code
        self.socket, child = socket.socketpair()
        command = make_command(child.fileno())
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, close_fds=True,
                pass_fds=(child.fileno(), *pass_fds), cwd="/", env=_ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.socket.close()
            raise SandboxError(f"the sandbox cannot be started ({error.strerror})", where=command[0]) from error
        finally:
            child.close()

    def ask(self, request: Mapping[str, object], content: Sequence[bytes], descriptors: Sequence[int]) -> None:
        """Send a request, the program's input and outputs, and the content of its files."""
        table = marshal.dumps(dict(request))
        self.socket.settimeout(GRACE)
        with contextlib.suppress(OSError):  # `talk` then finds that nobody answers
            if self.code:
                self.socket.sendall(self.code)
                self.code = b""
            socket.send_fds(self.socket, [len(table).to_bytes(8, "big")], list(descriptors))
            for part in (table, *content):
                self.socket.sendall(part)

    def talk(self, stdin: bytes, output_bytes: int, most_bytes: int, send: Callable[[list[int]], None],
             deadline: float) -> Talk:  # fmt: skip
        """Make the program's input and outputs, hand the far ends to `send`, and move bytes until all is there."""
        pipes = [os.pipe() for _ in range(3)]
        talk = Talk(self.socket, stdin, output_bytes, most_bytes, pipes[0][1], (pipes[1][0], pipes[2][0]))
        far = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            send(far)
        finally:
            for fd in far:
                os.close(fd)
        with talk:
            talk.converse(deadline)
        return talk

    def end(self) -> str:
        """End the supervisor, whose end ends all that it started, and return what it wrote to standard error.

        A second call does nothing."""
        if self.socket.fileno() < 0:
            return ""
        self.socket.close()
        if self.process.poll() is None:
            self._wait()
        stream = self.process.stderr
        assert stream is not None
        with stream, contextlib.suppress(OSError):
            os.set_blocking(stream.fileno(), False)
            return os.read(stream.fileno(), _CHUNK).decode("utf-8", "replace").strip()
        return ""

    def _wait(self) -> None:
        """Wait for the supervisor's end, and kill it where that does not come. (`Popen.wait` with a limit sleeps.)"""
        end = os.pidfd_open(self.process.pid)
        try:
            if not select.select([end], [], [], GRACE)[0]:
                for pid in [*_children(self.process.pid), self.process.pid]:  # bubblewrap's own child is the supervisor
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        finally:
            os.close(end)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Talk:
    """One program's input, outputs and answer."""

    def __init__(self, connection: socket.socket, stdin: bytes, output_bytes: int, most_bytes: int,
                 input_fd: int, output_fds: tuple[int, int]) -> None:  # fmt: skip
        """Prepare to feed `stdin`, to keep `output_bytes` of each output, and `most_bytes` of the answer."""
        self.connection, self.stdin = connection, memoryview(stdin)
        self.outputs = (Clipped(output_bytes), Clipped(output_bytes))
        self.limit, self.most_bytes = output_bytes, most_bytes
        self.answer, self.stopped, self.late = bytearray(), False, False
        self.open = {input_fd, *output_fds}
        self.input_fd, self.clipped = input_fd, dict(zip(output_fds, self.outputs))
        self.selector = selectors.DefaultSelector()

    def __enter__(self) -> Talk:
        """Start to listen."""
        self.connection.setblocking(False)
        self.selector.register(self.connection, selectors.EVENT_READ)
        for fd in self.open:
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_WRITE if fd == self.input_fd else selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is still open."""
        for fd in list(self.open):
            self._close(fd)
        self.selector.close()

    def _close(self, fd: int) -> None:
        """Close an end of a pipe."""
        self.selector.unregister(fd)
        self.open.discard(fd)
        os.close(fd)

    def converse(self, deadline: float) -> None:
        """Move bytes until the answer and both outputs have ended, or time is over (then `late` is set)."""
        complete = False
        while not complete or self.open & self.clipped.keys():
            left = deadline - time.monotonic()
            if left <= 0:
                self.late = not complete
                return
            for key, _ in self.selector.select(left):
                if key.fileobj is self.connection:
                    complete = self._hear()
                elif key.fd == self.input_fd:
                    self._feed(key.fd)
                else:
                    self._read(key.fd)
            if complete and self.input_fd in self.open:
                self._close(self.input_fd)

    def _hear(self) -> bool:
        """Read more of the answer; return whether it is complete, or as much as is taken."""
        try:
            data = self.connection.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.answer += data
        size = int.from_bytes(self.answer[:8], "big") if len(self.answer) >= 8 else self.most_bytes
        complete = not data or len(self.answer) >= 8 + size or len(self.answer) > self.most_bytes
        if complete:
            self.selector.unregister(self.connection)
        return complete

    def _read(self, fd: int) -> None:
        """Read more of an output, and end the program where it writes far too much."""
        data = os.read(fd, _CHUNK)
        if not data:
            self._close(fd)
            return
        clipped = self.clipped[fd]
        clipped.add(data)
        if clipped.total > self.limit + DRAIN and not self.stopped:
            self.stopped = True
            with contextlib.suppress(OSError):
                self.connection.send(b"s")

    def _feed(self, fd: int) -> None:
        """Write more of standard input; after the last of it, close it."""
        try:
            if self.stdin:
                self.stdin = self.stdin[os.write(fd, self.stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # the program does not read it
            self.stdin = self.stdin[:0]
        if not self.stdin:
            self._close(fd)


def parse(answer: bytes) -> Answer | None:
    """Return an answer (its length, then lines) as values; None where it is not complete or not one."""
    parsed, at = Answer(), _HEAD
    try:
        while True:
            end = answer.index(b"\n", at)
            word, *rest = answer[at:end].decode("utf-8", "replace").split(" ")
            at = end + 1
            if word == "end":
                return parsed
            if word == "file":
                name, size = int(rest[0]), int(rest[1])
                if name < 0 or size < 0 or at + name + size > len(answer):
                    return None
                parsed.files[os.fsdecode(answer[at : at + name])] = bytes(answer[at + name : at + name + size])
                at += name + size
            else:
                _take(parsed, word, rest)
    except (ValueError, IndexError):
        return None


def _take(parsed: Answer, word: str, rest: list[str]) -> None:
    """Take one line of an answer; raises `ValueError` for what is not one."""
    if word == "result":
        parsed.code, parsed.cause = int(rest[0]), rest[1].strip("-")
        parsed.seconds, parsed.cpu_seconds = float(rest[2]), float(rest[3])
    elif word == "failed":
        parsed.failed = " ".join(rest)
    elif word == "broken":
        raise SandboxError("the sandbox broke: " + " ".join(rest))
    elif word == "omitted":
        parsed.omitted = int(rest[0])
    elif word == "oversized":
        parsed.oversized = True
    else:
        raise ValueError(word)
