"""Memory that goes back to the system as soon as it is free.

    keys = own_pages((G, slots, D), torch.bfloat16)      # zeros; on a CPU no page takes memory before it is written
    packed = in_own_pages(other)      # what is kept must not lie in the heap between what is needed for a moment
    x_BTC = giving_back(block(x_BTC))        # what the block has freed is the system's, here and in backward

glibc gives blocks of up to 32 MB from one heap, and aligned ones seldom fit where an equal one was freed: a block of a
model that needs 50 MB at a time (576 wide, 4 rows of 512) leaves 230 MB behind it, and its backward pass more.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwenkit.platform import trim_memory

_SMALLEST = 2**20  # bytes of a block's output; below, there is little to give back


def own_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros of this shape, at least one number, in the CPU's memory, on pages that are nobody else's."""
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(*shape)


def in_own_pages(tensor: Tensor) -> Tensor:
    """Return a contiguous copy of a tensor on the CPU on pages of its own."""
    return own_pages(tensor.shape, tensor.dtype).copy_(tensor)


class _GivingBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        trim_memory()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        trim_memory()
        return outer[0]


def giving_back(x: Tensor) -> Tensor:
    """Return a large tensor of the CPU as it is, after the process has given back what it freed; the backward pass does
    so too when it comes here. Any other tensor only passes, and so does one of a graph that is compiled."""
    large = x.device.type == "cpu" and x.nbytes >= _SMALLEST and not torch.compiler.is_compiling()
    return _GivingBack.apply(x) if large else x
