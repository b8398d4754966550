"""What the programs of `escapes` share; it is put beside each of them in the sandbox.

A program says `refused` for what was refused and `ESCAPED` for what was not. `host` tells it what there is to be
reached outside: the file `canary` (its content is `secret`), `folder`, sockets, and the processes `victim` and
`runner`."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)

with open("host.json", encoding="utf-8") as _file:
    host = json.load(_file)


def attempt(what: str, action: Callable[..., object], *arguments: object) -> None:
    """Try something that must be refused."""
    try:
        value = action(*arguments)
    except (OSError, ValueError, EOFError) as error:
        print("refused", what, type(error).__name__, error)
    else:
        print("ESCAPED", what, repr(value)[:200])


def expect(what: str, holds: object) -> None:
    """Say whether something holds that must hold."""
    print("refused" if holds else "ESCAPED", what)


def syscall(x86_64: int, aarch64: int, *arguments: object) -> int:
    """Return the result of a system call by its numbers; raises `OSError`."""
    number = x86_64 if os.uname().machine == "x86_64" else aarch64
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(path: str) -> str:
    """Return what is in a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(100_000)


def others() -> list[int]:
    """Return numbers of processes that are not this program's."""
    return [1, os.getppid(), host["victim"], host["runner"]]
