"""A cgroup that holds the memory of a program's processes, where this process may make one.

The kernel then counts all memory, that of pipes and of the box included, and ends the program itself. Without one, the
supervisor counts. Both kinds of hierarchy are used as they are found: version 2 only where its memory controller is
handed down to a folder that this process may write to."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A cgroup of its own for one program at a time."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Make the cgroup with a limit in bytes; raises `OSError` where the system refuses."""
        self.folder = folder
        folder.mkdir()
        try:
            self._limit(limit)
            self.fd = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            folder.rmdir()
            raise
        self.before = self.kills()

    def _limit(self, limit: int) -> None:
        """Set the limit, and none of it as swap."""
        if (self.folder / "memory.max").exists():
            (self.folder / "memory.max").write_text(str(limit))
            names = {"memory.swap.max": "0", "memory.oom.group": "1"}
        else:
            (self.folder / "memory.limit_in_bytes").write_text(str(limit))
            names = {"memory.memsw.limit_in_bytes": str(limit)}
        for name, value in names.items():
            with contextlib.suppress(OSError):
                (self.folder / name).write_text(value)

    def kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                rows = (line.split() for line in (self.folder / name).read_text().splitlines())
                return sum(int(row[1]) for row in rows if row[0] == "oom_kill")
        return 0

    def exceeded(self) -> bool:
        """Return whether the kernel has ended a process since the last call."""
        before, self.before = self.before, self.kills()
        return self.before > before

    def close(self) -> None:
        """Remove the cgroup; its last process may take a moment to leave it."""
        os.close(self.fd)
        for _ in range(50):
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


def memory_group(limit: int) -> MemoryGroup | None:
    """Return a new cgroup with a limit of memory in bytes; None where this process may make none."""
    for parent in _parents():
        if os.access(parent, os.W_OK):
            with contextlib.suppress(OSError):
                return MemoryGroup(parent / f"qwenkit-sandbox-{os.getpid()}-{secrets.token_hex(4)}", limit)
    return None


def _parents() -> list[Path]:
    """Return the folders below which a cgroup with a limit of memory could be made."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    parents: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            parents += [ROOT / "memory" / path.lstrip("/"), ROOT / "memory"]
        if not controllers:
            parents += [folder for folder in (ROOT / path.lstrip("/"), ROOT / path.lstrip("/") / "..")
                        if _hands_memory_down(folder)]  # fmt: skip
    return [folder for folder in parents if folder.is_dir()]


def _hands_memory_down(folder: Path) -> bool:
    """Return whether cgroups of version 2 below a folder have a limit of memory."""
    try:
        return "memory" in (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
