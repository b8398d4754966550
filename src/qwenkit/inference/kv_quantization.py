"""The dtype of the KV cache: keys and values as computed, or in 8 bits (the first Qwen's `use_cache_quantization`).

    store = KVStore(shape, dtype, device)             # or Int8KVStore(...)
    parts = store.encode(x_BGTD, real_BT)             # what is written into `store.tensors`, tensor by tensor
    x_BGTD = store.decode(parts)                      # what attention reads

`Int8KVStore` follows the official code: for every row, head and *call* the range of values is cut into 255 steps, and
quantized values are truncated, not rounded. Attention reads the quantized values already in the call that stores them,
so it costs accuracy at once; memory is a little over a quarter of float32's, half of bf16's. The largest value of a
range lies on an edge of the truncation by construction, so a last bit decides its step: attention is computed as in the
official code, by matrix products and not by a fused kernel.

Legend: R rows, G key/value heads, S slots, D head width, B rows of this call, T tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


class KVStore:
    """Keys or values of one layer in the dtype in which the model computes them, [R, G, S, D]."""

    name: ClassVar[str] = "auto"
    math_attention: ClassVar[bool] = False
    """Whether attention over it must be matrix products, where another order of sums would show."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str) -> None:
        """Create zeros of this shape, [R, G, S, D]."""
        self.tensors = [torch.zeros(shape, dtype=dtype, device=device)]

    def encode(self, x_BGTD: Tensor, real_BT: Tensor | None) -> list[Tensor]:
        """Return what is written into each of `self.tensors`. `real_BT` is false at padding."""
        return [x_BGTD]

    def decode(self, parts: list[Tensor]) -> Tensor:
        """Return the values [B, G, S, D] of some slots of `self.tensors`."""
        return parts[0]


class Int8KVStore(KVStore):
    """Keys or values of one layer in 8 bits, [R, G, S, D], and for each token the scale and zero of the forward pass
    that wrote it, [R, G, S, 1]."""

    name: ClassVar[str] = "int8"
    math_attention: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str) -> None:
        """Create zeros of this shape; scales and zeros are in `dtype`."""
        self.tensors = [torch.zeros(shape, dtype=torch.uint8, device=device)]
        self.tensors += [torch.zeros((*shape[:3], 1), dtype=dtype, device=device) for _ in range(2)]

    def encode(self, x_BGTD: Tensor, real_BT: Tensor | None) -> list[Tensor]:
        """Return quantized values, scales and zeros."""
        qvalues, scale, zero = quantize(x_BGTD, real_BT)
        return [qvalues, scale.expand(*x_BGTD.shape[:3], 1), zero.expand(*x_BGTD.shape[:3], 1)]

    def decode(self, parts: list[Tensor]) -> Tensor:
        """Return the dequantized values [B, G, S, D]: scale * (qvalue - zero)."""
        qvalues, scale, zero = parts
        return scale * (qvalues.to(scale.dtype) - zero)


def quantize(x_BGTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return 8-bit values [B, G, T, D], and scale and zero [B, G, 1, 1], as the first Qwen's code quantizes its cache.

    Padding (`real_BT` false) does not widen the range."""
    low, high = x_BGTD, x_BGTD
    if real_BT is not None:
        padding = ~real_BT[:, None, :, None]
        low, high = x_BGTD.masked_fill(padding, float("inf")), x_BGTD.masked_fill(padding, float("-inf"))
    low, high = low.amin((2, 3), keepdim=True), high.amax((2, 3), keepdim=True)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x_BGTD.dtype).tiny)
    zero = -low / scale
    return (x_BGTD / scale + zero).clamp(0, 255).to(torch.uint8), scale, zero


KV_CACHE_DTYPES: dict[str, type[KVStore]] = {store.name: store for store in (KVStore, Int8KVStore)}
"""By name, as vLLM's `kv_cache_dtype`: `auto` is the model's own."""
