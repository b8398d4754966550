"""The process that obeys the host: it makes the box, starts a program in it, watches its limits, ends it and all its
children, and sends back what it left.

It talks over one socket. A request is a length and a `marshal`ed table, then the bytes of the files; the host is
trusted. The answer is a length and lines of text, with the bytes of files between them: the host trusts this side less.
While a program runs, a byte from the host ends it, as does the socket's end: a host that dies leaves nothing behind."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]  (`signal` takes as long to import as all the rest)
import _socket
import marshal
import os
import resource
import select
import sys
import time

from . import folder, kernel, program
from .watch import Tree, user_tasks

FIRST_TICK, LAST_TICK = 0.008, 0.025
"""Seconds between two looks at the limits, at a program's start and later on."""
DISK_SHARE = 10
"""A count of the files may take one part in so many of the time."""


def main(fd: int, namespaced: bool) -> None:
    """Serve the requests of the host until it closes the socket."""
    connection = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    _signal.signal(
        _signal.SIGINT, _signal.SIG_IGN
    )  # no handler: the first process of a namespace is then not signalled
    if not namespaced:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        _raise_descriptors()
    tree = Tree(namespaced, not namespaced and _keep_signals_in())
    first = True
    while request := _receive(connection):
        if first:
            first = False
            if request["warm"]:
                program.warm_up(request["imports"])
        if not Supervisor(connection, tree, request).serve():
            break


def _raise_descriptors() -> None:
    """Let this process open as many files as it may: a walk through nested folders holds them open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_signals_in() -> bool:
    """Enter a domain whose signals reach its own processes alone, and return whether that is so."""
    try:
        abi = kernel.landlock_abi()
        if abi < 6:
            return False
        kernel.keep_signals_in(abi)
        os.kill(os.getppid(), 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _receive(connection: _socket.socket) -> program.Request | None:
    """Return the next request with the content of its files and its open descriptors; None at the socket's end."""
    head, descriptors = _receive_head(connection)
    if len(head) < 8:
        return None
    request = marshal.loads(_receive_all(connection, int.from_bytes(head, "big")))
    request["content"] = [(name, _receive_all(connection, size)) for name, size in request["files"]]
    request["descriptors"] = descriptors
    return request


def _receive_head(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """Return the first 8 bytes of a request, and descriptors that come with them."""
    head, descriptors = b"", []
    while len(head) < 8:
        data, extra, _, _ = connection.recvmsg(8 - len(head), _socket.CMSG_LEN(12))
        if not data:
            return b"", []
        head += data
        for _, _, body in extra:
            descriptors += [int.from_bytes(body[at : at + 4], sys.byteorder) for at in range(0, len(body), 4)]
    return head, descriptors


def _receive_all(connection: _socket.socket, size: int) -> bytes:
    """Return exactly so many bytes; raises `EOFError` where the host ends before."""
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the host has closed the socket")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Supervisor:
    """One program, from its request to the answer."""

    def __init__(self, connection: _socket.socket, tree: Tree, request: program.Request) -> None:
        """Take a request."""
        self.connection, self.tree, self.request = connection, tree, request
        self.box, self.limits, self.cause = request["box"], request["limits"], ""
        self.interval, self.counted, self.host_ended = FIRST_TICK, 0.0, False
        self.floor, self.started = (0, 0), False

    def serve(self) -> bool:
        """Run the program and send the answer; return whether another request may follow."""
        own = not self.request["mounted"]
        if own:
            os.mkdir(self.box, 0o700)
        ended = False
        try:
            answer = self._run()
            ended = self.tree.end(self.request["uid"])
            if not ended:
                answer = [b"broken the program's processes could not be ended\n"]
            elif not self.host_ended and self.started:
                answer += self._files()
            self._send(b"".join([*answer, b"end\n"]))
        except OSError as error:
            ended = ended or self.tree.end(self.request["uid"])
            self._send_failure(error)
        finally:
            folder.remove(self.box, top=own)
        return ended and not self.host_ended

    def _send_failure(self, error: OSError) -> None:
        """Tell the host what went wrong on this side, if it still listens."""
        try:
            self._send(b"broken " + _line(f"{type(error).__name__}: {error}") + b"end\n")
        except OSError:
            self.host_ended = True

    def _send(self, answer: bytes) -> None:
        """Send an answer with its length before it."""
        self.connection.sendall(len(answer).to_bytes(8, "big") + answer)

    def _run(self) -> list[bytes]:
        """Start the program, watch it until it ends or must end, and return the lines of its result."""
        request = self.request
        if request["mounted"]:
            self.floor = folder.usage(self.box, [], True)
        folder.prepare(self.box, request["uid"], request["content"])
        if request["shared"] and request["uid"] >= 0:
            os.chown(request["shared"], request["uid"], request["uid"])
        if not request["mounted"] and request["uid"] >= 0:
            os.chown(self.box, request["uid"], request["uid"])
        self._limit_tasks()
        files = request["descriptors"]
        begin = time.monotonic()
        before = _children_cpu()
        pid, failure = program.start(request, (files[0], files[1], files[2]))
        self._leave_files(files)
        self.started = not failure
        if failure:
            os.waitpid(pid, 0)
            return [b"failed ", _line(failure.decode("utf-8", "replace"))]
        code = self._watch(pid, begin + request["timeout"], before)
        end = time.monotonic()
        self._last_look()
        cpu = _children_cpu() - before
        return [f"result {code} {self.cause or '-'} {end - begin:.6f} {cpu:.6f}\n".encode()]

    def _limit_tasks(self) -> None:
        """Add what this user runs already to the limit of processes, where the kernel counts it."""
        if self.request["count_tasks"]:
            taken = user_tasks()
            rows = self.request["rlimits"]
            self.request["rlimits"] = [
                (name, soft + taken, hard + taken) if name == "RLIMIT_NPROC" else (name, soft, hard)
                for name, soft, hard in rows
            ]

    def _leave_files(self, files: list[int]) -> None:
        """Close this side's ends of the program's input and output: the host must see when they end."""
        for fd in files:
            os.close(fd)

    def _watch(self, pid: int, deadline: float, before: float) -> int:
        """Return the program's exit code (minus a signal's number) once it has ended, or must: then `cause` is set."""
        end = os.pidfd_open(pid)
        try:
            while True:
                wait = max(0.0, min(self.interval, deadline - time.monotonic()))
                ready = select.select([end, self.connection], [], [], wait)[0]
                if end in ready:
                    return self._exit_code(pid)
                if self.connection in ready:
                    word = self.connection.recv(1)
                    self.host_ended = not word
                    self.cause = "output" if word == b"s" else "stopped"
                if not self.cause:
                    self.cause = "timeout" if time.monotonic() >= deadline else self._exceeded(before)
                if self.cause:
                    return self._stop(pid)
                self.interval = min(LAST_TICK, self.interval * 1.3)
        finally:
            os.close(end)

    def _exit_code(self, pid: int) -> int:
        """Return the exit code of a process that has ended."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _stop(self, pid: int) -> int:
        """Kill the program, and return its exit code."""
        try:
            os.kill(pid, kernel.SIGKILL)
        except ProcessLookupError:
            pass
        return self._exit_code(pid)

    def _exceeded(self, before: float) -> str:
        """Return the limit that the program's processes exceed; "" where they keep all."""
        limits = self.limits
        tasks, cpu, memory = self.tree.sample()
        if tasks > limits["processes"]:
            return "processes"
        if cpu - before > limits["cpu_seconds"]:
            return "timeout"
        if memory > limits["memory_bytes"] and self.tree.memory() > limits["memory_bytes"]:
            return "memory"
        return self._disk_exceeded()

    def _disk_exceeded(self, last: bool = False) -> str:
        """Return `disk` where files take too much. Counting them gets the slower the more there are: so it is not done
        at each look."""
        begin = time.monotonic()
        if begin < self.counted and not last:
            return ""
        mounted = self.request["mounted"]
        size, count = folder.usage(self.box, [] if mounted else self.tree.pids(), mounted)
        self.counted = begin + DISK_SHARE * (time.monotonic() - begin)
        over = count - self.floor[1] > self.limits["files"] + 4 or size - self.floor[0] > self.limits["disk_bytes"]
        return "disk" if over else ""

    def _last_look(self) -> None:
        """Note a limit of the disk that the program has exceeded since the last look."""
        if not self.cause:
            self.cause = self._disk_exceeded(last=True)

    def _files(self) -> list[bytes]:
        """Return the lines and the bytes of the files that the program left."""
        given = {name.removeprefix("work/"): content for name, content in self.request["content"]}
        files, omitted = folder.changed(
            f"{self.box}/work", given, self.limits["files"], self.limits["disk_bytes"]
        )  # fmt: skip
        parts = [f"omitted {omitted}\n".encode()]
        if folder.oversized(f"{self.box}/work", given, self.limits["file_bytes"]):
            parts += [b"oversized\n"]
        for name, content in files:
            encoded = os.fsencode(name)
            parts += [f"file {len(encoded)} {len(content)}\n".encode(), encoded, content]
        return parts


def _children_cpu() -> float:
    """Return the seconds of processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _line(text: str) -> bytes:
    """Return a text as one line."""
    return text.replace("\n", " ").encode("utf-8", "replace") + b"\n"
