"""Killing what works in chunks, again and again, until it has come to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def kill_often(
    folder: Path, marks: str, kills: int, start: Callable[[], subprocess.Popen[bytes]], luck: Callable[[], float]
) -> int:
    """SIGKILL to the whole group so many seconds of `luck` after some more chunks are marked, at most `kills` times.
    Asserts that no chunk that was done is touched again; returns how many processes were killed."""
    killed = 0
    while killed < kills:
        before = {path: path.stat().st_mtime_ns for path in folder.glob(marks)}
        process = start()
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(folder.glob(marks))) > len(before):
                time.sleep(luck())
                os.killpg(process.pid, signal.SIGKILL)
                killed += process.wait() < 0
                break
            time.sleep(0.001)
        finished = process.wait() == 0
        assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
        if finished:
            break
    return killed
