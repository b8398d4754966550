"""How a sandbox is started: bubblewrap's arguments, or none; and the request that its supervisor is sent.

Two tiers. `bwrap`: namespaces for processes, mounts, network, IPC and host name, made by bubblewrap; in them Landlock
where the kernel has it, and seccomp. `landlock`: no namespaces; Landlock, seccomp, and limits of resources. Where this
process is root, the program runs as a user whose number nobody else has; else as this user, in `bwrap` within a user
namespace."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import marshal
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwenkit.sandbox import places, seccomp
from qwenkit.sandbox.limits import Limits

Backend = Literal["bwrap", "landlock"]

BOX = "/box"
"""Where the program's folder lies inside bubblewrap's mounts."""
FIRST_UID = 1_900_000_000
"""The first of the user numbers that programs get under root, from a range that no system gives to anybody."""
_UIDS = 1 << 27
_CAPABILITIES = ("SETUID", "SETGID", "KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "DAC_READ_SEARCH", "SYS_PTRACE")
"""What the supervisor needs under root; the program has none of them."""
_SLACK = 1 << 20
"""Bytes that the box has beyond its limit, so that a program that fills it exceeds the limit."""


@dataclass(frozen=True)
class Setup:
    """What all runs of a sandbox share."""

    backend: Backend
    abi: int
    """The version of Landlock; 0 without it."""
    python: str
    readable: tuple[str, ...] = ()
    """Folders that a program may read beside the system and Python."""
    environment: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    """Modules that a warm sandbox imports once."""
    warm: bool = False
    shared: str = ""
    """A folder of the host that programs may write to, and serve on sockets in; "" for none."""

    @property
    def mounted(self) -> bool:
        """Whether the box is a file system of its own."""
        return self.backend == "bwrap"

    @property
    def as_root(self) -> bool:
        """Whether this process is root, so that the program gets a user of its own."""
        return os.geteuid() == 0


def new_box(setup: Setup) -> str:
    """Return the path of a new program's folder."""
    return BOX if setup.mounted else f"{tempfile.gettempdir()}/qwenkit-sandbox-{os.getpid()}-{secrets.token_hex(8)}"


def command(setup: Setup, limits: Limits, fd: int) -> list[str]:
    """Return the command that starts a supervisor, which talks over the socket `fd`."""
    options = ["-s", "-P", "-B"] if setup.warm else ["-I", "-S", "-B"]  # a warm one has packages to import
    program = setup.python if setup.warm else os.path.realpath(sys.executable)
    python = [program, *options, "-c", _BOOTSTRAP, str(fd), str(int(setup.mounted))]
    return [*_bubblewrap(setup, limits.disk_bytes + _SLACK), *python] if setup.mounted else python


_BOOTSTRAP = """
import _socket, marshal, sys
connection = _socket.socket(fileno=int(sys.argv[1]))
def receive(size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            sys.exit()
        data += part
    return data
for name, code in marshal.loads(receive(int.from_bytes(receive(8), "big"))):
    module = sys.modules[name] = type(sys)(name)
    module.__package__ = "inside"
    exec(code, module.__dict__)
module.main(connection.detach(), sys.argv[2] == "1")
"""
"""What the supervisor's Python is started with. Its modules come over the socket, compiled: no file of this package
needs to be within reach of a sandbox, and nothing is compiled at its start."""
_MODULES = ("", ".kernel", ".folder", ".watch", ".program", ".supervisor")


@functools.cache
def supervisor_code() -> bytes:
    """Return the supervisor's modules, compiled, with their length before them."""
    modules = []
    for name in _MODULES:
        spec = importlib.util.find_spec(f"qwenkit.sandbox.inside{name}")
        loader = spec.loader if spec else None
        assert isinstance(loader, importlib.abc.InspectLoader)
        modules.append((f"inside{name}", loader.get_code(f"qwenkit.sandbox.inside{name}")))
    data = marshal.dumps(modules)
    return len(data).to_bytes(8, "big") + data


def bubblewrap() -> str | None:
    """Return the path of bubblewrap's program."""
    return shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")


def _bubblewrap(setup: Setup, size: int) -> list[str]:
    """Return bubblewrap and its arguments; the supervisor is the first process of the new namespace."""
    arguments = [bubblewrap() or "bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--hostname", "sandbox", "--new-session", "--as-pid-1"]
    if setup.as_root:
        arguments += ["--cap-drop", "ALL"]
        for name in _CAPABILITIES:
            arguments += ["--cap-add", f"CAP_{name}"]
    else:
        arguments += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    shared = (setup.shared,) if setup.shared else ()
    arguments += _fixed_mounts(setup.python, setup.readable + shared)
    arguments += [part for path in shared for part in ("--bind", path, path)]
    return [*arguments, "--size", str(size), "--tmpfs", BOX, "--remount-ro", "/", "--chdir", "/", "--"]


@functools.lru_cache(maxsize=32)
def _fixed_mounts(python: str, readable: tuple[str, ...]) -> tuple[str, ...]:
    """Return bubblewrap's arguments for all mounts but the box."""
    arguments: list[str] = []
    for path in places.SYSTEM:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    for path in (*places.SETTINGS, *places.java_settings()):
        if os.path.exists(path):
            arguments += [*_parents(path), "--ro-bind", path, path]
    visible = places.outermost([*places.python_places(python), *places.python_places(sys.executable), *readable])
    for path in visible:
        arguments += [*_parents(path), "--ro-bind", path, path]
    arguments += ["--tmpfs", "/dev"]
    for path in places.DEVICES:
        arguments += ["--dev-bind", path, path]
    for name, target in (("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1"), ("stderr", "self/fd/2")):
        arguments += ["--symlink", f"/proc/{target}", f"/dev/{name}"]
    arguments += ["--symlink", f"{BOX}/tmp", "/dev/shm", "--remount-ro", "/dev", "--proc", "/proc"]
    for path in places.HIDDEN:
        if os.path.exists(path):
            arguments += ["--ro-bind", "/dev/null", path]
    if not any(path == "/tmp" or path.startswith("/tmp/") for path in visible):  # else programs have TMPDIR alone
        arguments += ["--symlink", f"{BOX}/tmp", "/tmp"]
    return tuple(arguments)


def _parents(path: str) -> list[str]:
    """Return bubblewrap's arguments that make the folders above a path, for every user to enter."""
    above = [str(folder) for folder in reversed(Path(path).parents)][1:]
    return [part for folder in above for part in ("--perms", "0755", "--dir", folder)]


def request(
    setup: Setup, limits: Limits, box: str, argv: Sequence[str], timeout: float, files: Sequence[tuple[str, int]],
    cgroups: Sequence[int],
) -> dict[str, object]:  # fmt: skip
    """Return what a supervisor is asked: a table of values that `marshal` can write.

    `files` are (path in the box, bytes), `cgroups` open files of cgroups that the program joins."""
    uid = FIRST_UID + secrets.randbelow(_UIDS) if setup.as_root else -1
    python = setup.python
    return {
        "argv": list(argv), "box": box, "folder": f"{box}/work", "timeout": timeout, "files": list(files),
        "environment": list({**places.environment(box, python), **setup.environment}.items()),
        "uid": uid, "mounted": setup.mounted, "warm": setup.warm, "imports": list(setup.imports),
        "read_all": uid >= 0 and not setup.mounted and not _all_enterable(python, setup.readable),
        "count_tasks": uid < 0 and not setup.mounted, "rlimits": _rlimits(limits, setup), "cgroups": list(cgroups),
        "limits": {name: getattr(limits, name) for name in ("cpu_seconds", "memory_bytes", "processes", "files",
                                                            "file_bytes", "disk_bytes")},
        "landlock": setup.abi, "devices": list(places.DEVICES), "readable": _readable(setup, box),
        "writable": [f"{box}/work", f"{box}/tmp", *([setup.shared] if setup.shared else [])], "shared": setup.shared,
        "filter": seccomp.program(setup.mounted or uid >= 0, bool(setup.shared), bool(setup.shared) and setup.mounted),
    }  # fmt: skip


@functools.lru_cache(maxsize=8)
def _all_enterable(python: str, readable: tuple[str, ...]) -> bool:
    """Return whether any user can reach a Python, its packages, and what else may be read."""
    return all(map(places.enterable, [os.path.realpath(python), *places.python_places(python), *readable]))


def _readable(setup: Setup, box: str) -> list[str]:
    """Return the paths that Landlock lets a program read; inside bubblewrap's mounts all that is there."""
    if setup.mounted:
        return ["/"]
    paths = [*places.SYSTEM, *places.SETTINGS, *places.java_settings(), *places.python_places(setup.python)]
    return [*paths, *setup.readable, f"{box}/main.py", "/proc/self"]


def _rlimits(limits: Limits, setup: Setup) -> list[tuple[str, int, int]]:
    """Return (name, soft limit, hard limit) of what the kernel itself holds a process to."""
    cpu = math.ceil(limits.cpu_seconds)
    size = min(limits.file_bytes, limits.disk_bytes) + 1  # one byte more, so that a file that exceeds it is known
    tasks = limits.processes + 1 + (2 if setup.mounted and not setup.as_root else 0)
    same = {
        "RLIMIT_CORE": 0, "RLIMIT_DATA": limits.memory_bytes, "RLIMIT_FSIZE": size, "RLIMIT_NPROC": tasks,
        "RLIMIT_NOFILE": 256, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0,
        "RLIMIT_SIGPENDING": 1024, "RLIMIT_STACK": 8 << 20,
    }  # fmt: skip
    return [("RLIMIT_CPU", cpu, cpu + 1), *((name, value, value) for name, value in same.items())]
