"""Compile the C++ code of this folder, once per machine, and keep it in the user's cache folder.

    path = shared_library()      # raises `Unavailable` where there is no compiler

The compiler is `$CXX`, or the first of c++, g++ and clang++. The name of the file is a digest of the sources, the
flags, the compiler and the processor, so that another version or machine makes its own, and a digest of its bytes: a
file that was cut or changed is made anew. Two processes may compile at once: a file appears when it is complete.

Code is loaded from a folder only where nobody else may write to it or to one above it. Where there is no such folder,
or no room in it, each process compiles for itself and a notice says why. A compiler that fails is not asked again.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import platform
import pwd
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from qwenkit.errors import notice
from qwenkit.platform import compiler_path

SOURCES = Path(__file__).parent
FLAGS = ["-std=c++20", "-O3", "-shared", "-fPIC", "-pthread", "-fno-strict-aliasing"]
FLAGS += ["-ffp-contract=off"]  # multiply-adds are written out: no bit depends on which ones a compiler finds
_PROCESSOR = {
    "x86_64": "-march=native",
    "aarch64": "-mcpu=native",
    "arm64": "-mcpu=native",
}  # or the default
_SECONDS = 300  # a compiler that takes longer hangs
_own_folders: list[tempfile.TemporaryDirectory[str]] = []  # of this process, which are removed at its end

_T = TypeVar("_T")


class Unavailable(Exception):
    """There is no native code on this machine; the text says why."""


class Remembered(Generic[_T]):
    """A function that is called once for each of its arguments, also where it raises `Unavailable`."""

    def __init__(self, make: Callable[..., _T]) -> None:
        """Remember what this function returns or raises."""
        self._make, self._outcomes = make, dict[object, _T | Unavailable]()

    def __call__(self, *args: object) -> _T:
        """Return what the function returned. Raises the `Unavailable` that it raised."""
        if args not in self._outcomes:
            try:
                self._outcomes[args] = self._make(*args)
            except Unavailable as error:
                self._outcomes[args] = error
        outcome = self._outcomes[args]
        if isinstance(outcome, Unavailable):
            raise Unavailable(str(outcome))
        return outcome

    def forget(self) -> None:
        """Call the function again when it is asked for."""
        self._outcomes.clear()


def shared_library() -> Path:
    """Return the compiled library. Raises `Unavailable` where it cannot be compiled."""
    path, named = compiler_path(), os.environ.get("CXX")
    if path is None:
        raise Unavailable(f"there is no C++ compiler ({f'CXX={named}' if named else 'c++, g++ or clang++'})")
    return _compiled(path, os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"), *FLAGS)


@Remembered
def _compiled(compiler: str, *_where_and_how: str | None) -> Path:
    """Return the library that this compiler makes, from the cache folder where it is there."""
    command = [compiler, *FLAGS, *filter(None, [_PROCESSOR.get(platform.machine())])]
    try:
        stem = f"decoder-{_digest(command)}"
    except OSError as error:  # a compiler that cannot be read
        raise Unavailable(f"it cannot be compiled: {error}") from error
    try:
        folder = cache_folder()
        kept = _kept(folder, stem)
    except (OSError, RuntimeError) as error:  # no home, a folder that others may write to
        return _make(command, stem, None, error)
    return kept or _make(command, stem, folder)


def _make(command: list[str], stem: str, folder: Path | None, problem: Exception | None = None) -> Path:
    """Compile, and keep the library in this folder, or else in one of this process with a notice of the problem."""
    try:
        own = tempfile.TemporaryDirectory(prefix="qwenkit-native-")
    except OSError as error:
        raise Unavailable(f"it cannot be compiled: {error}") from error
    try:
        made = _compile(command, Path(own.name))
        if folder is not None:
            try:
                return _store(made, folder, stem)
            except OSError as error:  # full, or read-only
                problem = error
        notice(f"native code is compiled by each process for itself: {problem}")
        _own_folders.append(own)
        return made
    finally:
        if own not in _own_folders:
            own.cleanup()


def cache_folder() -> Path:
    """Return the folder that keeps compiled files. Raises an `OSError` or a `RuntimeError` that says why there is none
    that only this user may write to."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base if os.path.isabs(base) else Path.home() / ".cache") / "qwenkit" / "native"
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    for place in (folder, *folder.parents, *folder.resolve().parents):
        state = place.stat()
        if state.st_uid not in (0, os.getuid()):
            raise PermissionError(f"{place} belongs to another user")
        sticky = state.st_mode & stat.S_ISVTX and place != folder  # as /tmp: what lies in it is its owner's
        if not sticky and _others_may_write(state):
            raise PermissionError(f"others may write to {place}")
    return folder


def _others_may_write(state: os.stat_result) -> bool:
    """Return whether other users may; a group of this user alone, with the user's name, does not count."""
    if state.st_mode & stat.S_IWOTH:
        return True
    if not state.st_mode & stat.S_IWGRP:
        return False
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(state.st_gid)
    except KeyError:
        return True
    return group.gr_name != user.pw_name or not set(group.gr_mem) <= {user.pw_name}


def _kept(folder: Path, stem: str) -> Path | None:
    """Return the library of this name whose bytes are those that were written; others are removed."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        with contextlib.suppress(FileNotFoundError):  # another process removes them too
            if path.name == _name(stem, path.read_bytes()):
                return path
            path.unlink()
    return None


def _store(made: Path, folder: Path, stem: str) -> Path:
    """Copy a library into the cache folder, where it appears when it is complete."""
    data = made.read_bytes()
    handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".so")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, folder / _name(stem, data))
    finally:
        Path(name).unlink(missing_ok=True)
    return folder / _name(stem, data)


def _name(stem: str, data: bytes) -> str:
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:24]}.so"


def _digest(command: list[str]) -> str:
    """Return a digest of all that decides about the compiled code."""
    compiler = os.stat(command[0])
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    digest = hashlib.sha256(repr([command, compiler.st_size, compiler.st_mtime_ns, features]).encode())
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:24]


def _compile(command: list[str], folder: Path) -> Path:
    """Return the library, compiled into this folder. Raises `Unavailable`; nothing of the compiler stays behind."""
    path = folder / "decoder.so"
    with tempfile.TemporaryFile() as messages:
        code = _run([*command, "-o", str(path), str(SOURCES / "decoder.cpp")], messages.fileno())
        messages.seek(0)
        lines = messages.read().decode(errors="replace").splitlines()
    if code or not path.exists():
        errors = [line for line in lines if "error" in line] or lines or ["no message"]
        raise Unavailable(f"the C++ compiler failed: {errors[0]}")
    return path


def _run(command: list[str], output: int) -> int:
    """Return the exit status of a command. Raises `Unavailable` where it cannot start or takes too long."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        raise Unavailable(f"the C++ compiler failed: {error}") from error
    try:
        return process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the C++ compiler failed: it timed out after {_SECONDS} seconds") from None
    finally:
        if process.poll() is None:  # a compiler is several processes
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
