"""How keys or values of one layer are kept: as they are, or in 8 bits (the first Qwen's `use_cache_quantization`).

    store = Plain(shape, dtype, device)               # or Int8(...)
    parts = store.encode(x_BGTD, real_BT)             # what is written into `store.tensors`, tensor by tensor
    x_BGTD = store.decode(parts)                      # what attention reads

`Int8` is the official rule: of every row, head and *call* the span of values is cut into 255 steps, and levels are
truncated, not rounded. Attention reads the kept values in the call itself too, so it costs accuracy at once; memory is
a little over a quarter of float32's, half of bf16's. The greatest value of a span lies on an edge of the truncation by
construction, so a last bit decides its level: attention is computed as the official code does, by plain products.

Legend: R rows, G key/value heads, S slots, D head width, B rows of this call, T tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


class Plain:
    """Values as the model makes them."""

    name: ClassVar[str] = "auto"
    plain: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str) -> None:
        self.tensors = [torch.zeros(shape, dtype=dtype, device=device)]

    def encode(self, x_BGTD: Tensor, real_BT: Tensor | None) -> list[Tensor]:
        """The parts to write."""
        return [x_BGTD]

    def decode(self, parts: list[Tensor]) -> Tensor:
        """The values of parts."""
        return parts[0]


class Int8(Plain):
    """Levels, and for each token the scale and zero of its call."""

    name: ClassVar[str] = "int8"
    plain: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str) -> None:
        self.tensors = [torch.zeros(shape, dtype=torch.uint8, device=device)]
        self.tensors += [torch.zeros((*shape[:3], 1), dtype=dtype, device=device) for _ in range(2)]

    def encode(self, x_BGTD: Tensor, real_BT: Tensor | None) -> list[Tensor]:
        levels, scale, zero = quantize(x_BGTD, real_BT)
        return [levels, scale.expand(*x_BGTD.shape[:3], 1), zero.expand(*x_BGTD.shape[:3], 1)]

    def decode(self, parts: list[Tensor]) -> Tensor:
        levels, scale, zero = parts
        return scale * (levels.to(scale.dtype) - zero)


def quantize(x_BGTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Levels [B, G, T, D], scale and zero [B, G, 1, 1]. Padding (where `real_BT` is false) stretches no span."""
    low, high = x_BGTD, x_BGTD
    if real_BT is not None:
        padding = ~real_BT[:, None, :, None]
        low, high = x_BGTD.masked_fill(padding, float("inf")), x_BGTD.masked_fill(padding, float("-inf"))
    low, high = low.amin((2, 3), keepdim=True), high.amax((2, 3), keepdim=True)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x_BGTD.dtype).tiny)
    zero = -low / scale
    return (x_BGTD / scale + zero).clamp(0, 255).to(torch.uint8), scale, zero


KINDS: dict[str, type[Plain]] = {kind.name: kind for kind in (Plain, Int8)}
