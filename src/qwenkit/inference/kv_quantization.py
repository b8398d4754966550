"""The dtype of the KV cache: keys and values as computed, or in 8 bits.

    store = KVStore(shape, dtype, device)             # or another one of `KV_CACHE_DTYPES`
    parts = store.encode(x_GND, lengths)              # what is written into `store.tensors`, tensor by tensor
    x_BGSD = store.decode(parts)                      # what attention reads

| name                  | bytes of bf16's | scale                           | of                                      |
| --------------------- | --------------- | ------------------------------- | --------------------------------------- |
| `auto`                | all             |                                 | the model's own dtype                   |
| `int8`                | a half          | one a head and *call*           | the first Qwen's official code          |
| `int8_per_token_head` | a half          | one a head and token, symmetric | vLLM's name                             |

`int8` follows the official code: for every sequence, head and call the range of values is cut into 255 steps, and
quantized values are truncated, not rounded. So what a token becomes depends on the whole prompt, which is read at once
and never found again. The largest value of a range lies on an edge of the truncation by construction, so a last bit
decides its step: attention is computed as in the official code, by matrix products and not by a fused kernel.
`int8_per_token_head` rounds to nearest and looks at nothing but the token: prompts may be cut, and are found.

Attention reads the quantized values already in the call that stores them, so both cost accuracy at once.

Legend: B sequences, G key/value heads, N tokens, S slots, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from qwenkit.model.own_pages import own_pages


class KVStore:
    """Keys or values of one layer in the dtype in which the model computes them, [G, slots, D]."""

    name: ClassVar[str] = "auto"
    math_attention: ClassVar[bool] = False
    """Whether attention over it must be matrix products, where another order of sums would show."""
    whole_prompts: ClassVar[bool] = False
    """Whether what is stored of a token depends on the other tokens of its call."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Create zeros of this shape, [G, slots, D]."""
        self.tensors = [_zeros(shape, dtype, device)]

    def encode(self, x_GND: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Return what is written into each of `self.tensors`: the tokens of sequences behind each other, so many of
        each."""
        return [x_GND]

    def write(self, slots_N: Tensor, x_GND: Tensor, lengths: Sequence[int]) -> None:
        """Store the tokens of sequences behind each other, so many of each, in these slots."""
        for tensor, part in zip(self.tensors, self.encode(x_GND, lengths)):
            tensor.index_copy_(1, slots_N, part)

    def decode(self, parts: list[Tensor]) -> Tensor:
        """Return the values [B, G, S, D] of some slots of `self.tensors`."""
        return parts[0]


class Int8KVStore(KVStore):
    """Keys or values of one layer in 8 bits, [G, slots, D], and for each token the scale and zero of the call that
    wrote it, [G, slots, 1]."""

    name: ClassVar[str] = "int8"
    math_attention: ClassVar[bool] = True
    whole_prompts: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Create zeros of this shape; scales and zeros are in `dtype`."""
        self.tensors = [_zeros(shape, torch.uint8, device)]
        self.tensors += [_zeros((*shape[:2], 1), dtype, device) for _ in range(2)]

    def encode(self, x_GND: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Return quantized values, scales and zeros."""
        singles = next((i for i, length in enumerate(lengths) if length > 1), len(lengths))
        parts = [self._call(x_GND[:, :singles].transpose(0, 1)[:, :, None])] if singles else []
        for piece_GTD in x_GND[:, singles:].split(list(lengths[singles:]), dim=1) if singles < len(lengths) else ():
            parts.append(self._call(piece_GTD[None]))
        return [torch.cat(tensors, dim=1) for tensors in zip(*parts)]

    def _call(self, x_BGTD: Tensor) -> list[Tensor]:
        """Quantize B calls of T tokens; return [G, B * T, D] and twice [G, B * T, 1]."""
        qvalues, scale, zero = quantize(x_BGTD)
        tensors = (qvalues, scale.expand(*x_BGTD.shape[:3], 1), zero.expand(*x_BGTD.shape[:3], 1))
        return [tensor.transpose(0, 1).flatten(1, 2) for tensor in tensors]

    def decode(self, parts: list[Tensor]) -> Tensor:
        """Return the dequantized values [B, G, S, D]: scale * (qvalue - zero)."""
        qvalues, scale, zero = parts
        return scale * (qvalues.to(scale.dtype) - zero)


class TokenInt8KVStore(KVStore):
    """Keys or values of one layer in 8 bits with a sign, [G, slots, D], and a scale for each token and head,
    [G, slots, 1]."""

    name: ClassVar[str] = "int8_per_token_head"

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Create zeros of this shape; scales are in `dtype`."""
        self.tensors = [_zeros(shape, torch.int8, device), _zeros((*shape[:2], 1), dtype, device)]

    def encode(self, x_GND: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Return quantized values and scales: the largest absolute value is 127."""
        scale = (x_GND.abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(x_GND.dtype).tiny)
        return [(x_GND / scale).round().clamp(-127, 127).to(torch.int8), scale]

    def decode(self, parts: list[Tensor]) -> Tensor:
        """Return the dequantized values [B, G, S, D]: scale * qvalue."""
        qvalues, scale = parts
        return qvalues.to(scale.dtype) * scale


def quantize(x_BGTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return 8-bit values [B, G, T, D], and scale and zero [B, G, 1, 1], as the first Qwen's code quantizes its
    cache."""
    low, high = x_BGTD.amin((2, 3), keepdim=True), x_BGTD.amax((2, 3), keepdim=True)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x_BGTD.dtype).tiny)
    zero = -low / scale
    return (x_BGTD / scale + zero).clamp(0, 255).to(torch.uint8), scale, zero


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros. On a CPU no page of them takes memory before it is written: torch would write the zeros."""
    return own_pages(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)


KV_CACHE_DTYPES: dict[str, type[KVStore]] = {store.name: store for store in (KVStore, Int8KVStore, TokenInt8KVStore)}
"""By name, as vLLM's `kv_cache_dtype`."""


def token_bytes(name: str, kv_heads: int, head_size: int, layers: int, dtype: torch.dtype) -> int:
    """Return how many bytes of a cache one token takes."""
    one = KV_CACHE_DTYPES[name]((kv_heads, 1, head_size), dtype, torch.device("cpu"))
    return 2 * layers * sum(tensor.nbytes for tensor in one.tensors)
