"""The child that gives up its rights, one after another and for ever, and then becomes the program."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]  (`signal` takes as long to import as all the rest)
import gc
import os
import resource
import sys

from . import kernel

TYPE_CHECKING = False  # `typing` takes as long to import as all the rest
if TYPE_CHECKING:
    from typing import NoReturn

Request = dict  # what the host asks: see qwenkit/sandbox/launch.py, which makes it

NOT_STARTED = 127
ERRORS_FD = 3


def warm_up(names: tuple[str, ...]) -> None:
    """Import modules that programs of a warm sandbox find imported, and those that end them."""
    for name in ("atexit", "builtins", "io", "threading", "traceback", *names):
        __import__(name)
    gc.collect()
    gc.freeze()


def start(request: Request, files: tuple[int, int, int]) -> tuple[int, bytes]:
    """Return the process of a new program, and what went wrong before it began (b"" if nothing did).

    `files` are its standard input, output and error. The text begins with `setup` where a right could not be given
    up, and with `exec` where there is no such program."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(request, files, writing)
    os.close(writing)
    text = b""
    while chunk := os.read(reading, 4096):
        text += chunk
    os.close(reading)
    return pid, text


def _child(request: Request, files: tuple[int, int, int], errors: int) -> NoReturn:
    """Become the program, or write to `errors` what went wrong."""
    stage = b"setup"
    try:
        os.setsid()
        for fd in request["cgroups"]:  # open files of the host's cgroups: 0 is the process that writes
            os.write(fd, b"0")
        _take_descriptors(files, errors)
        _give_up(request)
        stage = b"exec"
        if request["warm"]:
            os.close(ERRORS_FD)
            _run_here(request)
        environment = dict(request["environment"])
        os.execvpe(request["argv"][0], request["argv"], environment)
    except BaseException as error:
        os.write(ERRORS_FD, stage + b" " + f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000])
    os._exit(NOT_STARTED)


def _take_descriptors(files: tuple[int, int, int], errors: int) -> None:
    """Leave this process with standard input, output and error, and the pipe for what goes wrong."""
    moved = [os.dup(fd) for fd in (*files, errors)]
    high = [os.dup2(fd, 64 + place) for place, fd in enumerate(moved)]
    for place, fd in enumerate(high):
        os.dup2(fd, place, inheritable=place != ERRORS_FD)
    os.closerange(ERRORS_FD + 1, 1 << 20)


def _give_up(request: Request) -> None:
    """Set the limits, become another user, and enter Landlock's domain and the filter."""
    os.umask(0o022)
    for name, soft, hard in request["rlimits"]:
        number = getattr(resource, name)
        most = resource.getrlimit(number)[1]
        most = hard if most == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (min(soft, most), most))
    if request["uid"] >= 0:
        kernel.become(request["uid"], request["read_all"])
    os.chdir(request["folder"])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    for number in _signal.valid_signals():  # what Python has changed, and what a host in the background ignores
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            _signal.signal(number, _signal.SIG_DFL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if request["landlock"]:
        kernel.landlock(request["landlock"], request["readable"], request["devices"], request["writable"])
    kernel.seccomp(request["filter"])


def _run_here(request: Request) -> NoReturn:
    """Run Python code in this process, whose modules are imported already, and end it."""
    import builtins
    import traceback

    os.environ.clear()
    os.environ.update(request["environment"])
    path = request["argv"][-1]
    sys.argv[:], sys.path[0:0] = [path], [request["folder"]]
    _open_streams()
    _draw_anew()
    module = type(sys)("__main__")
    module.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = module
    code = 0
    try:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec"), module.__dict__)
    except SystemExit as end:
        code = _exit_code(end.code)
    except BaseException as error:
        code = 1
        place = error.__traceback__.tb_next if error.__traceback__ else None  # without this function
        traceback.print_exception(type(error), error, place)
    os._exit(_finish(code))


def _open_streams() -> None:
    """Open standard input, output and error as a fresh Python has them, without buffers for what is written."""
    import io

    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for fd, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(raw, "utf-8", errors, write_through=True)  # pyright: ignore[reportArgumentType]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _draw_anew() -> None:
    """Seed numpy's global generator: all children would else draw the same numbers. (`random` does so itself.)"""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "big"))


def _exit_code(value: object) -> int:
    """Return the exit code of `sys.exit(value)`."""
    if value is None or isinstance(value, int):
        return (value or 0) & 255
    print(value, file=sys.stderr)
    return 1


def _finish(code: int) -> int:
    """Return the exit code after threads have ended, functions of `atexit` have run and output is written."""
    import atexit
    import threading

    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return code or 120
    return code
