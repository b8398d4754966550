"""The program's processes: how many, how much memory and time, and their end, all at once.

In a pid namespace they are all that /proc shows. Elsewhere they are this process's descendants: it is a subreaper, so
that a process whose parent ends becomes its child."""

from __future__ import annotations

import os
import resource
import time

from . import kernel

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Tree:
    """The processes of one program after another."""

    def __init__(self, namespaced: bool, signals_stay_in: bool) -> None:
        """Watch this pid namespace, or this process's descendants; `signals_stay_in` says that a signal to everybody
        reaches nobody else."""
        self.namespaced, self.signals_stay_in = namespaced, signals_stay_in

    def pids(self) -> list[int]:
        """Return the processes."""
        if self.namespaced:
            own = os.getpid()
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]
        pids, waiting = [], [os.getpid()]
        while waiting:
            for child in _children(waiting.pop()):
                pids.append(child)
                waiting.append(child)
        return pids

    def sample(self) -> tuple[int, float, int]:
        """Return (processes and threads, seconds of processor time, bytes of resident memory) of all together."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        tasks, cpu, memory = 0, usage.ru_utime + usage.ru_stime, 0
        for pid in self.pids():
            fields = _stat(pid)
            if fields:
                tasks += int(fields[17])
                cpu += sum(map(int, fields[11:15])) / TICKS
                memory += int(fields[21]) * PAGE
        return tasks, cpu, memory

    def memory(self) -> int:
        """Return the bytes of memory, pages that several processes share counted once, and files not at all."""
        return sum(_own_memory(pid) for pid in self.pids())

    def end(self, uid: int) -> bool:
        """Kill all processes and wait for their end; return whether none is left.

        A signal to everybody is sent in one step, which no program that goes on forking can outrun."""
        limit = time.monotonic() + 10
        while _reap():
            self._kill(uid)
            if time.monotonic() > limit:
                return False
            time.sleep(0.001)
        return True

    def _kill(self, uid: int) -> None:
        """Send SIGKILL to all processes of the program."""
        if self.namespaced or (self.signals_stay_in and uid < 0):
            _kill_everybody()
        elif uid >= 0:
            helper = os.fork()
            if helper == 0:
                try:
                    os.setresuid(uid, uid, uid)
                    _kill_everybody()
                finally:
                    os._exit(0)
            os.waitpid(helper, 0)


def _kill_everybody() -> None:
    """Send SIGKILL to every process that this one may signal, itself excepted."""
    try:
        os.kill(-1, kernel.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _reap() -> bool:
    """Collect the children that have ended; return whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads."""
    children = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += map(int, _content(f"/proc/{pid}/task/{thread}/children").split())
    except OSError:
        pass
    return children


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none where the process is gone."""
    try:
        return _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return []


def _content(path: str) -> bytes:
    """Return a file of /proc."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while more := os.read(fd, 1 << 16):
            data += more
        return data
    finally:
        os.close(fd)


def _own_memory(pid: int) -> int:
    """Return a process's share of anonymous and shared memory in bytes."""
    for name, keys in (("smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")), ("status", (b"RssAnon:", b"RssShmem:"))):
        try:
            lines = _content(f"/proc/{pid}/{name}").splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith(keys)) * 1024
    return 0


def user_tasks() -> int:
    """Return how many processes and threads this user has, in this pid namespace."""
    uid, tasks = os.getuid(), 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                fields = _stat(int(name))
                tasks += int(fields[17]) if fields else 0
        except OSError:
            continue
    return tasks
