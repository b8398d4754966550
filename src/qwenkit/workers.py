"""Worker processes that end when the process that started them does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time


def end_with_parent(parent: int) -> None:
    """End this worker process when the process that started it ends, even where that one is killed.

    Otherwise it would go on writing beside the workers of the next start, or keep its locks."""
    if not _dies_with_parent():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it was killed before we could ask for the signal
        os._exit(1)


def _dies_with_parent() -> bool:
    """Ask Linux to kill this process when its parent ends; False where that cannot be asked."""
    if not sys.platform.startswith("linux"):
        return False
    signal_of_parents_death = 1
    try:
        return ctypes.CDLL(None).prctl(signal_of_parents_death, int(signal.SIGKILL), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
