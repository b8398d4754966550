"""The system calls that a program in a sandbox may make: an allow list, as a BPF program of seccomp(2).

`syscalls.tsv` has the numbers of every call that is named here, for x86_64 and aarch64. A call that no rule allows
fails with EPERM; one that the kernel has learnt since fails with ENOSYS, at which libraries take an older one. A
program of another architecture (32 bits, x32) is killed at its first call.

libseccomp would write the same filter. It is a C library that not every machine has, and here it would save these few
lines alone."""

from __future__ import annotations

import functools
import platform
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machines for which there is a filter, and the numbers that the kernel knows them by (AUDIT_ARCH)."""

_LOAD, _AND = 0x20, 0x54
_EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x15, 0x25, 0x35, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000

METADATA = frozenset("chmod fchmod fchmodat chown fchown lchown fchownat utime utimes utimensat futimesat".split())
"""Calls that change modes, owners and times of files. Landlock does not judge them: where the user owns files beyond
the sandbox, they are left out."""

SERVING = frozenset("socket bind listen accept accept4".split())
"""Calls of a server on a socket in the file system."""


class Condition(NamedTuple):
    """What an argument must be for a call to be allowed: one of these values under this mask."""

    argument: int
    mask: int
    values: tuple[int, ...]


_NEW_NAMESPACES = 0x7E020000
_AF_UNIX, _STREAM, _SEQPACKET = 1, 1, 5
_TERMINAL_AND_FILES = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS .. FIOCLEX: nothing is pushed
_PRCTL = (1, 2, 3, 15, 16, 23, 29, 30, 38, 39, 0x53564D41)  # death signal, name, slack, capability read, no_new_privs
_WORD = 0xFFFFFFFF

CONDITIONS: Mapping[str, tuple[Condition, ...]] = {
    "clone": (Condition(0, _NEW_NAMESPACES, (0,)),),
    "socket": (Condition(0, _WORD, (_AF_UNIX,)), Condition(1, 0xF, (_STREAM,))),
    # not datagrams: those can be sent to any socket in the file system
    "socketpair": (Condition(0, _WORD, (_AF_UNIX,)), Condition(1, 0xF, (_STREAM, _SEQPACKET))),
    "ioctl": (Condition(1, _WORD, _TERMINAL_AND_FILES),),
    "prctl": (Condition(0, _WORD, _PRCTL),),
    "prlimit64": (Condition(0, _WORD, (0,)),),
    "sched_setaffinity": (Condition(0, _WORD, (0,)),),
    "personality": (Condition(0, _WORD, (0, _WORD)),),
}
"""Calls that are allowed for some arguments."""

_WITHOUT_EFFECT = frozenset({"sched_setscheduler"})
"""Calls of a server's libraries that answer as if they were done. ZeroMQ sets the policy of its threads to what it is
and gives up where that fails; a call that was made could slow other processes of the same user."""

_UNKNOWN = frozenset({"clone3"})
"""Calls whose flags a filter cannot read, which answer that they do not exist: libraries take `clone` then."""


@functools.cache
def numbers(machine: str) -> Mapping[str, int]:
    """Return the numbers of system calls by name, for a machine of `ARCHITECTURES`."""
    lines = (Path(__file__).parent / "syscalls.tsv").read_text("ascii").splitlines()
    head, *rows = (line.split("\t") for line in lines if not line.startswith("#"))
    column = head.index(machine)
    return {row[0]: int(row[column]) for row in rows if row[column]}


@functools.cache
def program(metadata: bool, serving: bool = False, connecting: bool = False, machine: str = "") -> bytes:
    """Return the filter as BPF, 8 bytes an instruction.

    `metadata` allows what changes modes and times of files, `serving` sockets of the file system that others connect
    to, `connecting` that it connects to such itself. Raises `KeyError` for a machine that has no table."""
    machine = machine or platform.machine()
    known = numbers(machine)
    left_out = set(_UNKNOWN)
    left_out |= set() if metadata else METADATA
    left_out |= _WITHOUT_EFFECT
    left_out |= set() if serving else SERVING
    left_out |= set() if connecting else {"connect"}
    plain = sorted(number for name, number in known.items() if name not in left_out and name not in CONDITIONS)
    code = [
        _step(_LOAD, _ARCHITECTURE), _step(_EQUAL, ARCHITECTURES[machine], 1, 0), _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL_PROCESS),
    ]  # fmt: skip
    for first, last in _ranges(plain):
        code += [_step(_AT_LEAST, first, 0, 2), _step(_GREATER, last, 1, 0), _step(_RETURN, _ALLOW)]
    for name in sorted(CONDITIONS.keys() & known.keys() - left_out):
        code += _conditional(known[name], CONDITIONS[name])
    for name in sorted(_WITHOUT_EFFECT) if serving else ():
        code += [_step(_EQUAL, known[name], 0, 1), _step(_RETURN, _ERRNO)]
    for name in sorted(_UNKNOWN & known.keys()):
        code += [_step(_EQUAL, known[name], 0, 1), _step(_RETURN, _ERRNO | _ENOSYS)]
    code += [_step(_GREATER, max(known.values()), 0, 1), _step(_RETURN, _ERRNO | _ENOSYS)]
    return b"".join([*code, _step(_RETURN, _ERRNO | _EPERM)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction (`struct sock_filter`); a jump counts instructions to pass over."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _ranges(values: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield (first, last) of the runs of successive numbers."""
    first = previous = values[0]
    for value in values[1:]:
        if value != previous + 1:
            yield first, previous
            first = value
        previous = value
    yield first, previous


def _conditional(number: int, conditions: Iterable[Condition]) -> list[bytes]:
    """Return instructions that allow a call whose arguments meet all conditions, and refuse it otherwise."""
    body: list[bytes] = []
    for condition in conditions:
        count = len(condition.values)
        body += [_step(_LOAD, _ARGUMENTS + 8 * condition.argument), _step(_AND, condition.mask)]
        body += [_step(_EQUAL, value, count - place, 0) for place, value in enumerate(condition.values)]
        body += [_step(_RETURN, _ERRNO | _EPERM)]
    body += [_step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, 0, len(body)), *body]
