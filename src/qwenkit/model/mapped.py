"""Tensors that are mapped from a file, whose memory can be given back.

    release(weight)     # its pages go; whoever asks for the numbers reads them from the file

safetensors, torch and GGUF files are mapped privately: a page is the file's until somebody writes to it, and then the
process's own. What was written is never given back: the kernel says of each page whose it is (`/proc/self/pagemap`).
Where it does not, on other systems than Linux, nothing is given back; the kernel may still take such pages when memory
is short.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
from torch import Tensor

_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Bits of an entry of the page map: in memory, in swap, of a file or of shared memory."""


def release(*tensors: Tensor) -> None:
    """Give back the pages of tensors on the CPU that are mapped from a file and were not written to; leave others
    alone. Nobody may write to the tensors meanwhile; reading is safe."""
    if not sys.platform.startswith("linux"):
        return
    for tensor in tensors:
        if tensor.device.type == "cpu" and tensor.numel():
            first, stop = _pages(tensor)
            if _only_of_files(first, stop - first):
                size = mmap.PAGESIZE
                _libc().madvise(ctypes.c_void_p(first * size), ctypes.c_size_t((stop - first) * size), _DONTNEED)


_DONTNEED = getattr(mmap, "MADV_DONTNEED", 4)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _pages(tensor: Tensor) -> tuple[int, int]:
    """Return the first page of a tensor, and the one behind its last."""
    start = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())) * tensor.element_size()
    return start // mmap.PAGESIZE, (start + last + tensor.element_size() - 1) // mmap.PAGESIZE + 1


def _only_of_files(first: int, count: int) -> bool:
    """Return whether some of these pages are there, and each of those is a file's: a page of the process's own, in
    memory or in swap, is not."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(8 * first)
            entries = np.frombuffer(file.read(8 * count), np.uint64)
    except OSError:
        return False
    there = entries[(entries & (_PRESENT | _SWAPPED)) != 0]
    return len(entries) == count and len(there) > 0 and bool((there & _OF_FILE).all())
