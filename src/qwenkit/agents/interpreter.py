"""The code interpreter: Python whose state stays between calls, in a sandbox (report §3.4).

    with Interpreter() as python:
        python.run("import math; x = 2")
        cell = python.run("math.sqrt(x)")
        print(cell.text, cell.status)                   # 1.4142135623730951 ok
        cell = python.run("import matplotlib.pyplot as plt; plt.plot([1, 3])")
        open("figure.png", "wb").write(cell.figures[0])

Each interpreter is a Jupyter kernel of its own in a sandbox of its own (docs/sandbox.md). It starts with the first
cell. A kernel that must be ended takes its names with it: `state_lost` says so, and the next cell has a new one.
"""

from __future__ import annotations

import base64
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from qwenkit.agents.cell_output import FILES, PNG, CellOutput, Display, FileOutput
from qwenkit.agents.kernel import Kernel, KernelDied, check_installed
from qwenkit.errors import UserError
from qwenkit.sandbox import Limits, Status
from qwenkit.sandbox.limits import check_timeout
from qwenkit.sandbox.sandbox import Files, file_content, limit_in

DEFAULT_LIMITS = Limits(cpu_seconds=3600)
"""The processor time is that of the whole conversation."""
FIGURES = ("png", "svg")
_FILES_BYTES = 16 << 20  # of files that come back from one cell
_FILES_SECONDS = 20.0

_LIST_FILES = """
import base64, os, sys
from IPython import get_ipython
about = sys._qwenkit
found, room, omitted = {}, ROOM, 0
for place, folders, names in os.walk(about["folder"]):
    for name in names:
        path = os.path.join(place, name)
        try:
            status = os.lstat(path)
            stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
            short = os.path.relpath(path, about["folder"])
            short.encode()
            if status.st_mode & 0o170000 != 0o100000 or about["seen"].get(short) == stamp:
                continue
            about["seen"][short] = stamp
            if status.st_size > room or len(found) >= 256:
                omitted += 1
                continue
            with open(path, "rb") as file:
                data = file.read(room)
        except (OSError, UnicodeError):
            omitted += 1
            continue
        room -= len(data)
        found[short] = base64.b64encode(data).decode()
get_ipython().display_pub.publish({KIND: {"files": found, "omitted": omitted}})
"""
_WRITE_FILES = """
import base64, os, sys
about = sys._qwenkit
for name, data in FILES.items():
    path = os.path.join(about["folder"], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(base64.b64decode(data))
    status = os.lstat(path)
    about["seen"][name] = (status.st_size, status.st_mtime_ns, status.st_ino)
"""


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    `status` is `ok`, `error` (it raised), or the limit that ended it: `timeout`, `memory`, `processes`, `output`,
    `disk`; `killed` where the kernel ended by itself or was ended."""

    status: Status
    text: str = ""
    """The value of the last expression, as text; "" where there is none."""
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    """The traceback, without colours; "" where nothing was raised."""
    displays: tuple[Display, ...] = ()
    """What was shown, each with its contents by kind: `text/html` of a table, `image/png` (bytes) of a figure, ..."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the interpreter's folder that are new or changed, by path."""
    seconds: float = 0.0
    omitted: Mapping[str, int] = field(default_factory=dict)
    """Bytes that are left out of `stdout`, `stderr` and `text`, and numbers of `displays` and `files`."""
    state_lost: bool = False
    """Whether the kernel has ended: what was defined is gone."""

    @property
    def truncated(self) -> bool:
        """Whether anything is left out."""
        return bool(self.omitted)

    @property
    def figures(self) -> list[bytes]:
        """Return the pictures that were shown, as PNG."""
        return [content for display in self.displays if isinstance(content := display.get(PNG), bytes)]


class Interpreter:
    """Runs cells one after the other, in one state. Threads may share it: their cells wait for each other."""

    def __init__(
        self,
        limits: Limits | None = None,
        backend: Literal["auto", "bwrap", "landlock"] = "auto",
        *,
        timeout: float = 60.0,
        idle_seconds: float = 600.0,
        readable: Sequence[str] = (),
        figures: Sequence[Literal["png", "svg"]] = ("png",),
    ) -> None:
        """Check the settings; the kernel starts with the first cell.

        `limits` are those of all cells together (processor time) or of the kernel at any time (the others); `timeout`
        is in seconds of the clock for a cell, a kernel that nobody asks for `idle_seconds` is ended, `readable` are
        further folders that code may read. Raises a `UserError` for settings, or packages, that are not there."""
        check_installed()
        self.limits = DEFAULT_LIMITS if limits is None else limits
        if not isinstance(self.limits, Limits):
            raise UserError(f"{limits!r}"[:200], where="limits", expected="a Limits(...)")
        if not figures or not set(figures) <= set(FIGURES):
            raise UserError(f"{figures!r}"[:200], where="figures", expected=f"some of {', '.join(FIGURES)}")
        self._timeout, self._idle_seconds = check_timeout(timeout), check_timeout(idle_seconds)
        self._settings = (backend, tuple(readable), tuple(figures))
        self._lock = threading.RLock()
        self._kernel: Kernel | None = None
        self._idle: threading.Timer | None = None
        self._had_state = False

    # ---- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Return the interpreter itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close an interpreter that nobody has closed."""
        if hasattr(self, "_lock"):
            self.close()

    @property
    def is_alive(self) -> bool:
        """Whether a kernel runs, with what was defined in it."""
        kernel = self._kernel
        return kernel is not None and kernel.is_alive

    def close(self) -> None:
        """End the kernel, also one that is busy; another cell would begin with a new one."""
        if (kernel := self._kernel) is not None:
            kernel.stop()
        with self._lock:
            self._end()
            self._had_state = False

    def restart(self) -> None:
        """End the kernel and start a new one, with nothing defined and no files."""
        self.close()
        with self._lock:
            self._ready()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs, from another thread; the state stays."""
        if (kernel := self._kernel) is not None:
            kernel.interrupt()

    # ---- cells ------------------------------------------------------------------------------------------------------

    def run(self, code: str, files: Files | None = None, timeout: float | None = None) -> CellResult:
        """Run a cell and return what came of it, whatever it did. `files` are written to its folder before, by
        relative path; `timeout` is in seconds.

        Raises a `UserError` for what cannot be code or a file, and a `SandboxError` where no kernel can be started."""
        if not isinstance(code, str) or "\0" in code:
            raise UserError(f"{code!r}"[:200], where="code", expected="Python code, without NUL")
        seconds = self._timeout if timeout is None else check_timeout(timeout)
        content = file_content(files or {}, self.limits)
        code = code.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
        with self._lock:
            kernel, lost = self._ready()
            start, output = time.monotonic(), CellOutput(self.limits.output_bytes)
            try:
                if content:
                    self._write(kernel, content)
                cause = kernel.execute(code, output, start + seconds)
                file_output = self._files(kernel)
            except KernelDied as death:
                self._end()
                self._had_state = False
                return self._dead(death, output, time.monotonic() - start)
            self._wait_idle()
            status: Status = cause or "ok"
            if output.has_failed and not cause:
                status = limit_in(output.error.encode()) or "error"
            return _result(status, output, file_output, time.monotonic() - start, lost)

    def _ready(self) -> tuple[Kernel, bool]:
        """Return the kernel, started where there is none, and whether an earlier one's state is lost by that."""
        if self._idle is not None:
            self._idle.cancel()
        if self._kernel is not None and not self._kernel.is_alive:
            self._end()
        lost = self._kernel is None and self._had_state
        if self._kernel is None:
            self._kernel = Kernel(self.limits, *self._settings)
            self._had_state = True
        return self._kernel, lost

    def _write(self, kernel: Kernel, content: Sequence[tuple[str, bytes]]) -> None:
        """Write files into the kernel's folder; raises a `UserError` where it cannot."""
        table = {name: base64.b64encode(body).decode() for name, body in content}
        output = CellOutput(4096)
        kernel.execute(_apart(_WRITE_FILES.replace("FILES", repr(table))), output,
                       time.monotonic() + _FILES_SECONDS, own=True)  # fmt: skip
        if output.has_failed:
            raise UserError(f"they cannot be written ({output.error.splitlines()[-1]})", where="files")

    def _files(self, kernel: Kernel) -> FileOutput:
        """Return the files that are new or changed."""
        output = FileOutput()
        code = _LIST_FILES.replace("ROOM", str(_FILES_BYTES)).replace("KIND", repr(FILES))
        kernel.execute(_apart(code), output, time.monotonic() + _FILES_SECONDS, own=True)
        return output

    def _dead(self, death: KernelDied, output: CellOutput, seconds: float) -> CellResult:
        """Return the result of a cell at which the kernel ended."""
        by_limit = death.result.status not in ("ok", "error", "killed")
        status: Status = death.result.status if by_limit else death.cause or "killed"
        words = death.result.stderr.strip()
        errors = CellOutput(self.limits.output_bytes)
        errors.take("stream", {"name": "stderr", "text": f"{output.stream('stderr')}{words}"})
        return CellResult(status, output.text, output.stream("stdout"), errors.stream("stderr"), output.error,
                          tuple(output.displays), {}, seconds, output.omitted, state_lost=True)  # fmt: skip

    # ---- the end of a kernel ----------------------------------------------------------------------------------------

    def _wait_idle(self) -> None:
        """Have the kernel end after a time without cells."""
        self._idle = threading.Timer(self._idle_seconds, _end_idle, (weakref.ref(self), self._kernel))
        self._idle.daemon = True
        self._idle.start()

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.end()


def _end_idle(interpreter: weakref.ref[Interpreter], kernel: Kernel) -> None:
    """End the kernel of an interpreter that is still there and has no other one since."""
    if (owner := interpreter()) is not None:
        with owner._lock:
            if owner._kernel is kernel:
                owner._end()


def _result(status: Status, output: CellOutput, file_output: FileOutput, seconds: float, lost: bool) -> CellResult:
    omitted = output.omitted | ({"files": file_output.omitted} if file_output.omitted else {})
    return CellResult(status, output.text, output.stream("stdout"), output.stream("stderr"), output.error,
                      tuple(output.displays), file_output.files, seconds, omitted, lost)  # fmt: skip


def _apart(code: str) -> str:
    """Return code that leaves no name behind."""
    return f"exec({code!r}, {{}})"
