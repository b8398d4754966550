"""Supervisors that serve one program after another, and wait for the next.

Between two programs a supervisor ends all processes of the first and empties its box: nothing is left in it that the
second could meet. It is started anew where anything at all went wrong, and after `MOST_RUNS`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from qwenkit.sandbox import launch
from qwenkit.sandbox.cgroup import memory_group
from qwenkit.sandbox.inside import folder
from qwenkit.sandbox.limits import Limits
from qwenkit.sandbox.session import GRACE, Answer, SandboxError, Session, Talk, parse

MOST_RUNS = 500
"""Programs that one supervisor serves."""
MOST_IDLE = 8
"""Supervisors that wait for a program; more of them are ended at once."""


class Worker:
    """One supervisor, and the cgroup of its programs where there can be one."""

    def __init__(self, setup: launch.Setup, limits: Limits) -> None:
        """Start it; raises a `SandboxError` where that fails."""
        self.limits, self.runs, self.intact, self.stopped = limits, 0, True, False
        # what lies in the box is memory too; the supervisor holds the program itself to its own limit
        self.group = memory_group(limits.memory_bytes + limits.disk_bytes)
        self.cgroups = [self.group.fd] if self.group else []
        try:
            self.session = Session(
                lambda fd: launch.command(setup, limits, fd), launch.supervisor_code(), self.cgroups
            )  # fmt: skip
        except BaseException:
            self._close_group()
            raise

    def run(
        self, asked: Mapping[str, object], content: Sequence[bytes], stdin: bytes, seconds: float,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[Talk, Answer, bool]:  # fmt: skip
        """Let the supervisor run a program; return its outputs, its answer, and whether memory ran out. The program is
        ended at its beginning where `is_stopped`.

        Raises a `SandboxError` where there is no answer."""
        self.intact, self.runs = False, self.runs + 1
        most = self.limits.disk_bytes + self.limits.files * 8192 + (1 << 16)
        talk = self.session.talk(stdin, self.limits.output_bytes, most,
                                 lambda far: self._ask(asked, content, far, is_stopped),
                                 time.monotonic() + seconds + GRACE)  # fmt: skip
        answer = parse(bytes(talk.answer))
        if answer is None:
            errors = self.end()
            _clear(asked)
            what = "did not end in time" if talk.late else "did not answer"
            raise SandboxError(f"the sandbox {what}" + (f": {errors[-1000:]}" if errors else ""))
        if answer.failed and not answer.failed.startswith("exec "):
            raise SandboxError(f"the sandbox could not be closed around the program ({answer.failed})")
        self.intact = not talk.stopped and not talk.late and not self.stopped and self.runs < MOST_RUNS
        return talk, answer, self.group.exceeded() if self.group else False

    def _ask(
        self, asked: Mapping[str, object], content: Sequence[bytes], far: Sequence[int], is_stopped: Callable[[], bool]
    ) -> None:
        """Send a request, and the wish to end it where that came before."""
        self.session.ask(asked, content, far)
        if is_stopped():
            self.stop()

    def stop(self) -> None:
        """Ask the supervisor to end its program."""
        self.stopped = True
        with contextlib.suppress(OSError):
            self.session.socket.send(b"k")

    def alive(self) -> bool:
        """Return whether the supervisor still runs."""
        return self.session.process.poll() is None

    def end(self) -> str:
        """End the supervisor and return what it complained of; a second call does nothing."""
        self.intact = False
        try:
            return self.session.end()
        finally:
            self._close_group()

    def _close_group(self) -> None:
        """Remove the cgroup."""
        group, self.group = self.group, None
        if group:
            group.close()


def _clear(asked: Mapping[str, object]) -> None:
    """Remove what a program has left whose supervisor did not end: its folder, and under root its user's processes.
    (In a namespace both end with it.)"""
    box, uid = asked["box"], asked["uid"]
    if asked["mounted"] or not isinstance(box, str) or not isinstance(uid, int):
        return
    if uid >= 0:
        command = ["/bin/sh", "-c", "kill -9 -1"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, user=uid, group=uid, extra_groups=[], cwd="/", timeout=GRACE, capture_output=True)
    with contextlib.suppress(OSError):
        folder.remove(box)


class Workers:
    """The supervisors of a sandbox: as many as programs run at once."""

    def __init__(self, setup: launch.Setup, limits: Limits) -> None:
        """Start none yet."""
        self.setup, self.limits = setup, limits
        self._idle: list[Worker] = []
        self._process = os.getpid()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """Yield a supervisor that nobody else uses; it is ended afterwards unless all went well."""
        worker = self._idle_one() or Worker(self.setup, self.limits)
        try:
            yield worker
        finally:
            with self._lock:
                kept = worker.intact and len(self._idle) < MOST_IDLE
                if kept:
                    self._idle.append(worker)
            if not kept:
                worker.end()

    def _idle_one(self) -> Worker | None:
        """Return a supervisor that waits; None where none does."""
        if self._process != os.getpid():  # a copy of the process: the supervisors are the other one's
            self._idle, self._lock, self._process = [], threading.Lock(), os.getpid()
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None or worker.alive():
                return worker
            worker.end()

    def close(self) -> None:
        """End the supervisors that wait."""
        while (worker := self._idle_one()) is not None:
            worker.end()
