"""Compile the C++ code of this folder, once per machine, and keep it in the user's cache folder.

    path = shared_library()      # raises `Unavailable` where there is no compiler

The compiler is `$CXX`, or the first of c++, g++ and clang++. The name of the file is a digest of the sources, the
flags, the compiler and the processor, so that another version or machine makes its own. Two processes may compile at
once: each writes a file of its own and renames it. A cache folder that others may write to is not used.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from qwenkit.platform import compiler_path

SOURCES = Path(__file__).parent
_SECONDS = 300  # a compiler that takes longer hangs
_FLAGS = ("-std=c++20", "-O3", "-shared", "-fPIC", "-pthread", "-fno-strict-aliasing")
_X86 = ("-march=native", "-ffp-contract=off")  # multiply-adds are written out there
_OTHER = ("-mcpu=native", "-ffp-contract=fast")


class Unavailable(Exception):
    """There is no native code on this machine; the text says why."""


@functools.cache
def shared_library() -> Path:
    """Return the compiled library. Raises `Unavailable` where it cannot be compiled."""
    try:
        command = [_compiler(), *_FLAGS, *(_X86 if platform.machine() in ("x86_64", "AMD64") else _OTHER)]
        path = cache_folder() / f"decoder-{_digest(command)}.so"
        if not path.exists():
            _compile(command, path)
    except (OSError, RuntimeError, ValueError) as error:  # no home, no room, a compiler that cannot be read
        raise Unavailable(f"it cannot be compiled: {error}") from error
    return path


def cache_folder() -> Path:
    """Return a folder that keeps compiled files and that only this user may write to; a temporary one where the home
    has none."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "qwenkit" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
        if state.st_uid == os.getuid() and not state.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="qwenkit-native-"))


def _compiler() -> str:
    path, named = compiler_path(), os.environ.get("CXX")
    if path is None:
        raise Unavailable(f"there is no C++ compiler ({f'CXX={named}' if named else 'c++, g++ or clang++'})")
    return path


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


def _compile(command: list[str], path: Path) -> None:
    """Compile to `path`, which appears when it is complete."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, "-o", name, str(SOURCES / "decoder.cpp")], capture_output=True, text=True, timeout=_SECONDS
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise Unavailable(f"the C++ compiler failed: {(lines or ['no message'])[0]}")
        os.replace(name, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the C++ compiler failed: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
