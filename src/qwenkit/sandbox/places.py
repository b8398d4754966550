"""What a program in a sandbox sees of this machine: the system's programs and libraries, Python, and no data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from qwenkit.errors import UserError

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/nix/store", "/gnu/store")
SETTINGS = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/fonts",
    "/etc/ssl/openssl.cnf",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
HIDDEN = (
    "/proc/kcore", "/proc/kallsyms", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/cmdline", "/proc/config.gz",
    "/proc/timer_list", "/proc/sched_debug", "/proc/sysrq-trigger", "/proc/modules", "/proc/iomem", "/proc/ioports",
)  # fmt: skip
"""Files of /proc that tell of the machine, not of the program; empty in a sandbox."""


def java_settings() -> list[str]:
    """Return the folders of the machine's Java settings, which its virtual machine wants at its start."""
    return sorted(str(path) for path in Path("/etc").glob("java*") if path.is_dir())


def python_places(python: str) -> list[str]:
    """Return the folders that a Python needs: its own, its environment's, and where its packages lie.

    Raises a `UserError` where one of them is a home directory or the root: the sandbox would show all of it."""
    folders = {os.path.dirname(os.path.dirname(os.path.realpath(python)))}
    if python == sys.executable:
        folders |= {sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
        folders |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    else:
        folders.add(os.path.dirname(os.path.dirname(os.path.abspath(python))))
    for folder in folders:
        if folder in ("/", os.path.expanduser("~"), "/home", "/root"):
            raise UserError("Python is installed in it, and a sandbox would show all of it", where=folder,
                            hint="use Python from an environment of its own (python -m venv)")  # fmt: skip
    return outermost(folder for folder in folders if os.path.isdir(folder))


def outermost(folders: Iterable[str], system: Sequence[str] = SYSTEM) -> list[str]:
    """Return folders without those that lie in another one or in the system's."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not any(folder == above or folder.startswith(above + "/") for above in [*system, *kept]):
            kept.append(folder)
    return kept


def environment(box: str, python: str) -> dict[str, str]:
    """Return the environment of a program: nothing of this process's own."""
    work = f"{box}/work"
    return {
        "PATH": f"{os.path.dirname(os.path.abspath(python))}:/usr/local/bin:/usr/bin:/bin",
        "HOME": work, "TMPDIR": f"{box}/tmp", "LANG": "C.UTF-8", "PYTHONPATH": work, "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # fmt: skip


def enterable(path: str) -> bool:
    """Return whether any user can reach a path: each folder on the way lets all enter."""
    way = Path(os.path.realpath(path))
    return all(folder.stat().st_mode & 0o001 for folder in [*way.parents, way] if folder.is_dir())
