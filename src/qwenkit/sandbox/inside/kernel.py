"""System calls that Python has no function for: Landlock, a seccomp filter, capabilities and prctl.

Numbers are those of x86_64 and aarch64, which agree on all that is called here. Sources: landlock(7), seccomp(2),
prctl(2), capset(2), and the kernel's `include/uapi/linux/landlock.h`."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # nothing is imported at run time that the work does not need: it would cost milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK = (1 << bit for bit in range(4, 10))
MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(10, 16))
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""The rights that a rule on something other than a folder may give."""
WRITE = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
    | TRUNCATE
)  # fmt: skip
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_NET_BIND_TCP, _NET_CONNECT_TCP = 1, 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_SECUREBITS = 1, 4, 22, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 36, 38, 47, 2
_SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH, _NO_SETUID_FIXUP = 2, 1 << 2
SIGKILL = 9


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`: what the domain handles, so what is denied unless a rule gives it."""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`: the rights below a path."""

    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _Program(ctypes.Structure):
    """`struct sock_fprog`: a BPF program."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _CapHeader(ctypes.Structure):
    """`struct __user_cap_header_struct`."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def call(number: int, *arguments: object) -> int:
    """Return the result of a system call; raises `OSError` where the kernel refuses."""
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """Set an attribute of this process or thread; raises `OSError` where the kernel refuses."""
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(first), ctypes.c_ulong(second), zero, zero) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock; raises `OSError` where it has none, or has it turned off."""
    none = ctypes.c_void_p(None)
    return call(LANDLOCK_CREATE_RULESET, none, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))


def _handled(abi: int) -> int:
    """Return the rights on files that Landlock of this version can deny."""
    bits = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << bits) - 1


def keep_signals_in(abi: int) -> None:
    """Let this process and its children signal nobody but each other from now on (Landlock 6 and later)."""
    _restrict(_Ruleset(0, 0, _SCOPE_SIGNALS), abi, [])


def landlock(abi: int, readable: Iterable[str], devices: Iterable[str], writable: Iterable[str]) -> None:
    """Deny this process all files but those below these paths, all TCP, and signals and abstract sockets to others.

    What is readable may be executed; `devices` are files that are read and written. A path that does not exist gives
    no right. Raises `OSError` where the kernel refuses."""
    files = _handled(abi)
    ruleset = _Ruleset(files, 3 if abi >= 4 else 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0)
    rules = [(path, READ) for path in readable]
    rules += [(path, READ_FILE | WRITE_FILE) for path in devices]
    rules += [(path, WRITE) for path in writable]
    _restrict(ruleset, abi, [(path, rights & files) for path, rights in rules])


def _restrict(ruleset: _Ruleset, abi: int, rules: list[tuple[str, int]]) -> None:
    """Put this process into a domain of Landlock, for ever."""
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    fd = call(LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, rights in rules:
            _add_rule(fd, path, rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        call(LANDLOCK_RESTRICT_SELF, ctypes.c_int(fd), ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    """Give the rights below a path, where it exists."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return
    try:
        folder = (os.fstat(fd).st_mode & 0o170000) == 0o040000
        rule = _PathBeneath(rights if folder else rights & OF_FILES, fd)
        call(LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule),
             ctypes.c_uint32(0))  # fmt: skip
    finally:
        os.close(fd)


def seccomp(program: bytes) -> None:
    """Load a BPF program that judges each system call of this process and its children from now on."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def become(uid: int, read_all: bool) -> None:
    """Give up root for an unprivileged user and group of this number, for ever.

    With `read_all` the user keeps one capability, to pass folders whose owner alone may enter them: Python may lie in
    one. Landlock still says which files can be opened."""
    if read_all:  # so that access(2) judges by the capability too, as open(2) does
        prctl(PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = 1 << CAP_DAC_READ_SEARCH if read_all else 0
    header = _CapHeader(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if read_all:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)
