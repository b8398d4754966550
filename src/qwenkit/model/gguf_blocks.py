"""The blocks of numbers in a GGUF file: as floats, or as quantized values of a layer that computes with them.

    as_floats(bytes_NX, "Q6_K", torch.bfloat16)        # [N, K]; by the package `gguf`, some rows at a time
    as_layer(bytes_NX, "Q4_1", bias)                   # a QuantizedLinear of the same numbers, no bit is lost

| type | a block of 32 columns                                      | as a layer                            |
| ---- | ---------------------------------------------------------- | ------------------------------------- |
| Q8_0 | scale (float16), 32 signed bytes                           | 8 bits, groups of 32, zero 128        |
| Q4_0 | scale, 16 bytes of two 4-bit values; W = (q - 8) * scale   | 4 bits, groups of 32, zero 8          |
| Q4_1 | scale, minimum, 16 bytes; W = q * scale + minimum          | 4 bits, groups of 32, with `minimums` |

The low halves of the 16 bytes are columns 0 to 15, the high halves columns 16 to 31.

Legend: N rows, K columns, X bytes of a row, G groups.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.gguf_file import KINDS
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear, from_qvalues

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
IN_BITS = {"Q8_0": QuantConfig(8, 32), "Q4_0": QuantConfig(4, 32), "Q4_1": QuantConfig(4, 32)}
"""The types whose blocks are groups of a `QuantizedLinear`."""
_SLICE = 2**22  # numbers that are dequantized at once
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


def as_layer(bytes_NX: Tensor, kind: str, bias: Tensor | None = None) -> QuantizedLinear:
    """Return the layer of rows of bytes (uint8) in a type of `IN_BITS`."""
    blocks_NGX = bytes_NX.view(len(bytes_NX), -1, KINDS[kind].size)
    qvalues_NK, scales_NG = _qvalues(blocks_NGX, kind), _halves(blocks_NGX, 0)
    zeros_NG = torch.full_like(scales_NG, _ZEROS[kind], dtype=torch.int32)
    minimums_NG = _halves(blocks_NGX, 1) if kind == "Q4_1" else None
    return from_qvalues(qvalues_NK, scales_NG, zeros_NG, IN_BITS[kind], bias, minimums_NG)


def _halves(blocks_NGX: Tensor, number: int) -> Tensor:
    """Return the first or second float16 of every block, [N, G]."""
    return blocks_NGX[..., 2 * number : 2 * number + 2].contiguous().view(torch.float16).squeeze(-1)


def _qvalues(blocks_NGX: Tensor, kind: str) -> Tensor:
    """Return the quantized values [N, K] as bytes, from 0."""
    if kind == "Q8_0":
        return (blocks_NGX[..., 2:] ^ 128).flatten(1)
    packed_NGX = blocks_NGX[..., -16:]
    return torch.cat((packed_NGX & 15, packed_NGX >> 4), dim=-1).flatten(1)
