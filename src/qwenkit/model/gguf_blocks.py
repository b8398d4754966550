"""The blocks of numbers in a GGUF file: as floats, or as quantized values of a layer that computes with them.

    as_floats(bytes_NX, "Q6_K", torch.bfloat16)        # [N, K]; by the package `gguf`, some rows at a time
    as_layer(bytes_NX, "Q4_1", bias)                   # a layer of the same bytes, which stay where they are, mapped

| type | a block of 32 columns                                      | as a layer                            |
| ---- | ---------------------------------------------------------- | ------------------------------------- |
| Q8_0 | scale (float16), 32 signed bytes                           | 8 bits, groups of 32, zero 128        |
| Q4_0 | scale, 16 bytes of two 4-bit values; W = (q - 8) * scale   | 4 bits, groups of 32, zero 8          |
| Q4_1 | scale, minimum, 16 bytes; W = q * scale + minimum          | 4 bits, groups of 32, with minimums   |

The low halves of the 16 bytes are columns 0 to 15, the high halves columns 16 to 31.

Legend: N rows, K columns, X bytes of a row, G groups, R rows of a slice.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.gguf_file import KINDS
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
IN_BITS = {"Q8_0": QuantConfig(8, 32), "Q4_0": QuantConfig(4, 32), "Q4_1": QuantConfig(4, 32)}
"""The types whose blocks are groups of a `QuantizedLinear`."""
_SLICE = 2**20  # numbers that are dequantized at once
_ZEROS = {"Q8_0": 128, "Q4_0": 8, "Q4_1": 0}


def package() -> Any:
    """Return the package `gguf`; raises a `UserError` that says how to install it."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise UserError("the package `gguf` is not installed", hint="pip install 'qwenkit[gguf]'") from None


def as_floats(bytes_NX: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """Return the numbers [N, K] of rows of bytes (uint8). Where type and dtype are the same, nothing is copied."""
    if kind in FLOATS:
        return bytes_NX.view(FLOATS[kind]).to(dtype)
    quants, quantization = package().quants, getattr(package().GGMLQuantizationType, kind)
    values, size = KINDS[kind]
    columns = bytes_NX.shape[1] // size * values
    floats_NK = torch.empty(len(bytes_NX), columns, dtype=dtype)
    step = max(1, _SLICE // columns)
    for start in range(0, len(bytes_NX), step):
        rows = slice(start, start + step)
        floats: np.ndarray = quants.dequantize(bytes_NX[rows].numpy(), quantization)
        floats_NK[rows] = torch.from_numpy(floats)
    return floats_NK


class GGUFLinear(QuantizedLinear):
    """A quantized layer in the blocks of a GGUF file."""

    blocks: Tensor

    def __init__(self, blocks_NX: Tensor, kind: str, bias: Tensor | None = None, order_N: Tensor | None = None) -> None:
        """Take the bytes of rows in a type of `IN_BITS`; row n of the layer is row `order_N[n]` of them (None: n)."""
        values, size = KINDS[kind]
        stored = {"blocks": blocks_NX, "bias": bias}
        super().__init__(IN_BITS[kind], blocks_NX.shape[1] // size * values, len(blocks_NX), stored)
        self.kind, self._order_N = kind, order_N

    def levels(self, rows: slice) -> Tensor:
        """Return the quantized values of these rows, [R, K] as bytes."""
        return _qvalues(self._blocks(rows), self.kind)

    def zeros(self, rows: slice) -> Tensor:
        """Return the quantized value that stands for 0 in each group, [R, G]."""
        shape = len(range(self.out_features)[rows]), self.quant_config.groups(self.in_features)
        return torch.full(shape, _ZEROS[self.kind], dtype=torch.int32, device=self.blocks.device)

    def group_scales(self, rows: slice) -> Tensor:
        """Return the scale of each group, [R, G] in float16."""
        return _halves(self._blocks(rows), 0)

    def group_minimums(self, rows: slice) -> Tensor | None:
        """Return what is added in each group, [R, G] in float16; None where the type has nothing of the kind."""
        return _halves(self._blocks(rows), 1) if self.kind == "Q4_1" else None

    def _blocks(self, rows: slice) -> Tensor:
        """Return the blocks of these rows, [R, G, bytes]."""
        blocks_RX = self.blocks[rows] if self._order_N is None else self.blocks[self._order_N[rows]]
        return blocks_RX.view(len(blocks_RX), self.quant_config.groups(self.in_features), KINDS[self.kind].size)


def as_layer(bytes_NX: Tensor, kind: str, bias: Tensor | None = None, order_N: Tensor | None = None) -> QuantizedLinear:
    """Return the layer of rows of bytes (uint8) in a type of `IN_BITS`, whose rows are in this order (None: as they
    are)."""
    return GGUFLinear(bytes_NX, kind, bias, order_N)


def _halves(blocks_NGX: Tensor, number: int) -> Tensor:
    """Return the first or second float16 of every block, [N, G]."""
    return blocks_NGX[..., 2 * number : 2 * number + 2].contiguous().view(torch.float16).squeeze(-1)


def _qvalues(blocks_NGX: Tensor, kind: str) -> Tensor:
    """Return the quantized values [N, K] as bytes, from 0."""
    if kind == "Q8_0":
        return (blocks_NGX[..., 2:] ^ 128).flatten(1)
    packed_NGX = blocks_NGX[..., -16:]
    return torch.cat((packed_NGX & 15, packed_NGX >> 4), dim=-1).flatten(1)
