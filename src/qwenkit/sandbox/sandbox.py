"""The sandbox: a program is run in it, in a fresh process, within limits, and nothing of the machine is in its reach.

    with Sandbox(Limits(cpu_seconds=5)) as box:
        result = box.run("print(2 ** 10)", timeout=10)

What is isolated how stands in docs/sandbox.md, by tier."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from qwenkit.errors import UserError
from qwenkit.sandbox import launch
from qwenkit.sandbox.limits import Limits, Result, Status, check_timeout
from qwenkit.sandbox.probe import Tier, choose
from qwenkit.sandbox.session import Answer, Talk
from qwenkit.sandbox.worker import Worker, Workers

Program = str | bytes | Sequence[str]
"""Python code, or a command with its arguments."""
Files = Mapping[str, str | bytes]

_MEMORY = re.compile(
    rb"^(\w+\.)*_?\w*MemoryError\b|std::bad_alloc|java\.lang\.OutOfMemoryError|JavaScript heap out of memory"
    rb"|^memory allocation of \d+ bytes failed|Cannot allocate memory", re.M,
)  # fmt: skip
_PROCESSES = re.compile(rb"\bResource temporarily unavailable|can't start new thread|unable to create native thread")
_DISK = re.compile(rb"\bNo space left on device|\bFile too large")
_SIGXCPU, _SIGXFSZ, _SIGKILL = 24, 25, 9


class Sandbox:
    """Runs programs that nobody trusts. One object may serve several threads at once."""

    def __init__(
        self,
        limits: Limits | None = None,
        backend: Literal["auto", "bwrap", "landlock"] = "auto",
        *,
        python: str | None = None,
        readable: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        imports: Sequence[str] | None = None,
        shared: str = "",
    ) -> None:
        """Find out which tier works here, by a child that tries to get out; raises a `UserError` where none does.

        `python` runs code (this process's own by default), `readable` are further folders that programs may read,
        `environment` is added to theirs. With `imports` (which may be empty) the sandbox is warm: code runs in a copy
        of a process that has imported these modules already, which takes a few milliseconds; commands run as ever.
        `shared` is a folder of the host, of this sandbox alone, that programs may write to and serve on sockets in: its
        size is not limited, and its owner becomes the program's user where this process is root."""
        self.limits = limits or Limits()
        if not isinstance(self.limits, Limits):
            raise UserError(f"{self.limits!r}"[:200], where="limits", expected="a Limits(...)")
        self.tier: Tier = choose(backend)
        self.setup = launch.Setup(
            self.tier.backend, self.tier.landlock, _python(python), tuple(map(os.path.realpath, readable)),
            dict(environment or {}), tuple(imports or ()), imports is not None,
            os.path.realpath(shared) if shared else "",
        )  # fmt: skip
        if imports is not None and python is not None:
            raise UserError("a warm sandbox runs this process's own Python", where="python", expected="no `python`")
        self._workers = Workers(self.setup, self.limits)

    def __enter__(self) -> Sandbox:
        """Return the sandbox itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sandbox."""
        self.close()

    def close(self) -> None:
        """End what the sandbox keeps between runs. It may be used again."""
        self._workers.close()

    def __del__(self) -> None:
        """Close a sandbox that nobody has closed."""
        if hasattr(self, "_workers"):
            self.close()

    def run(
        self, code_or_argv: Program, stdin: str | bytes = b"", files: Files | None = None, timeout: float = 10.0
    ) -> Result:
        """Run Python code, or a command, and return what came of it; `timeout` is in seconds of the clock.

        The program starts in an empty folder with these `files` (by relative path). Raises a `UserError` for what
        cannot be run at all; a program that fails in whatever way is a result."""
        return self.start(code_or_argv, stdin, files, timeout).result()

    def start(
        self, code_or_argv: Program, stdin: str | bytes = b"", files: Files | None = None, timeout: float = 10.0
    ) -> Running:
        """Start what `run` runs, and return it while it runs: its result is waited for, or it is stopped."""
        seconds = check_timeout(timeout)
        box = launch.new_box(self.setup)
        argv, content = self._program(code_or_argv, files or {}, box)
        data = _bytes("stdin", stdin)
        asked = launch.request(self.setup, self.limits, box, argv, seconds,
                               [(name, len(body)) for name, body in content], [])  # fmt: skip
        asked["warm"] = self.setup.warm and isinstance(code_or_argv, str | bytes)
        return Running(self, argv[0], asked, [body for _, body in content], data, seconds)

    def _program(self, program: Program, files: Files, box: str) -> tuple[list[str], list[tuple[str, bytes]]]:
        """Return the command of a program and the files of its box; raises a `UserError` for what is none."""
        content = [(f"work/{name}", body) for name, body in file_content(files, self.limits)]
        if isinstance(program, str | bytes):
            code = program.encode("utf-8", "surrogatepass") if isinstance(program, str) else program
            argv = [self.setup.python, "-P", f"{box}/main.py"]
            content.append(("main.py", code))
        else:
            argv = _arguments(program)
        _check_size(content, self.limits)
        return argv, content


class Running:
    """A program that runs, or is about to: its supervisor is talked to by whoever asks for its result first."""

    def __init__(
        self, sandbox: Sandbox, program: str, asked: dict[str, object], content: list[bytes], stdin: bytes,
        seconds: float,
    ) -> None:  # fmt: skip
        """Keep what the supervisor is asked; `program` is the name of the command."""
        self._sandbox, self._program, self._asked = sandbox, program, asked
        self._content, self._stdin, self._seconds = content, stdin, seconds
        self._worker: Worker | None = None
        self._stopped = False

    def result(self) -> Result:
        """Run the program to its end and return what came of it. Call it in a thread to do something meanwhile."""
        with self._sandbox._workers.one() as worker:
            self._asked["cgroups"] = worker.cgroups
            self._worker = worker
            try:
                talk, answer, out_of_memory = worker.run(self._asked, self._content, self._stdin, self._seconds,
                                                         lambda: self._stopped)  # fmt: skip
            finally:
                self._worker = None
        return _result(self._program, answer, talk, out_of_memory)

    def stop(self) -> None:
        """End the program, whose status is then `killed`; one that has not begun is ended at its beginning."""
        self._stopped = True
        worker = self._worker
        if worker is not None:
            worker.stop()


def _result(program: str, answer: Answer, talk: Talk, out_of_memory: bool) -> Result:
    """Return the result of a program that was run."""
    (stdout, out_omitted), (stderr, err_omitted) = (stream.value() for stream in talk.outputs)
    if answer.failed:
        return _not_begun(program, answer)
    counts = {"stdout": out_omitted, "stderr": err_omitted, "files": answer.omitted}
    return Result(
        _status(answer, stderr, bool(out_omitted or err_omitted), out_of_memory), answer.code,
        stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), answer.seconds, answer.cpu_seconds,
        answer.files, {name: count for name, count in counts.items() if count},
    )  # fmt: skip


def _not_begun(program: str, answer: Answer) -> Result:
    """Return the result of a command that does not exist in the sandbox, or is not a program."""
    reason = re.sub(r"^exec \w+: (\[Errno \d+\] )?|: [^:]*$", "", answer.failed)
    return Result("error", 127, "", f"`{program}` is not a program in the sandbox ({reason})\n", 0.0, 0.0)


def _status(answer: Answer, stderr: bytes, omitted: bool, out_of_memory: bool) -> Status:
    """Return how a program ended: the limit that ended it, by its own words where the kernel only refused it more."""
    if omitted or answer.cause == "output":
        return "output"
    if answer.cause in ("timeout", "memory", "processes", "disk"):
        return answer.cause
    if out_of_memory:
        return "memory"
    if answer.oversized:  # the program may not have noticed: a file that is closed by nobody reports no error
        return "disk"
    if answer.code == 0:
        return "ok"
    by_signal: dict[int, Status] = {-_SIGXCPU: "timeout", -_SIGXFSZ: "disk"}
    return limit_in(stderr) or by_signal.get(answer.code, "killed" if answer.code < 0 else "error")


def limit_in(words: bytes) -> Status | None:
    """Return the limit that a program's last words tell of: the system only refuses it more, and it says so itself."""
    by_words: list[tuple[re.Pattern[bytes], Status]] = [(_MEMORY, "memory"), (_DISK, "disk"), (_PROCESSES, "processes")]
    last = b"\n".join(words.rstrip().splitlines()[-6:])
    return next((status for pattern, status in by_words if pattern.search(last)), None)


def _python(path: str | None) -> str:
    """Return the Python that runs code; raises a `UserError` where there is none."""
    python = path or sys.executable
    if not python or not os.access(python, os.X_OK):
        raise UserError(f"there is no Python at `{python}`", where="python", expected="the path of a Python")
    return os.path.abspath(python)


def file_content(files: Files, limits: Limits) -> list[tuple[str, bytes]]:
    """Return (path, content) of files that are given to a program; raises a `UserError` for paths that leave its
    folder, for what is neither text nor bytes, and for more than it may have."""
    if not isinstance(files, Mapping):
        raise UserError(f"{files!r}"[:200], where="files", expected="contents by relative path")
    content = [(_relative(name), _bytes(f"files[{name!r}]", body)) for name, body in files.items()]
    _refuse_folders({name for name, _ in content})
    _check_size(content, limits)
    return content


def _check_size(content: Sequence[tuple[str, bytes]], limits: Limits) -> None:
    """Raise a `UserError` where what the program is given is more than it may have."""
    size, most = sum(len(body) for _, body in content), limits.disk_bytes
    if size > most:
        raise UserError(f"code and files take {size:,} bytes", where="files", expected=f"at most {most:,}",
                        hint="raise Limits.disk_bytes")  # fmt: skip
    if len(content) > limits.files:
        raise UserError(f"{len(content):,} files", where="files", expected=f"at most {limits.files:,}",
                        hint="raise Limits.files")  # fmt: skip


def _relative(name: object) -> str:
    """Return the path of a file below the program's folder; raises a `UserError` where it leaves that."""
    if not isinstance(name, str) or "\0" in name:
        raise UserError(f"{name!r}"[:200], where="files", expected="a relative path without NUL")
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or len(parts) > 32:
        raise UserError(f"{name!r}"[:200], where="files", expected="a path below the folder, without `..`")
    if len(os.fsencode(name)) > 2048 or any(len(os.fsencode(part)) > 255 for part in parts):
        raise UserError(f"{name[:60]!r}...", where="files", expected="names of at most 255 bytes")
    return name


def _refuse_folders(names: set[str]) -> None:
    """Raise a `UserError` where a file is to be a folder as well."""
    for name in names:
        parts = name.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if above in names:
                raise UserError(f"{above!r} is a file and a folder", where="files")


def _bytes(where: str, body: object) -> bytes:
    """Return the content of a file or of the input; raises a `UserError` for what is neither text nor bytes."""
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise UserError(f"it is {type(body).__name__}", where=where[:200], expected="text or bytes")


def _arguments(argv: object) -> list[str]:
    """Return a command's arguments; raises a `UserError` for what is not a command."""
    if not isinstance(argv, list | tuple):
        raise UserError(f"{argv!r}"[:200], where="code_or_argv", expected="Python code, or a list of strings")
    arguments = [str(part) for part in argv if isinstance(part, str | os.PathLike)]
    if not arguments or len(arguments) != len(argv) or not arguments[0]:
        raise UserError(f"{argv!r}"[:200], where="code_or_argv", expected="Python code, or a list of strings")
    if any("\0" in part for part in arguments):
        raise UserError("an argument has a NUL character", where="code_or_argv", expected="arguments without it")
    if max(map(len, arguments)) > 100_000 or sum(map(len, arguments)) > 1_000_000:
        raise UserError("the arguments are too long", where="code_or_argv", expected="100,000 characters at most",
                        hint="give it as a file")  # fmt: skip
    return arguments
