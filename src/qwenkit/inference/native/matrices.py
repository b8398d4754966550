"""Weights as the C++ code reads them: float32, bf16 and float16 where they lie, quantized layers in tiles.

A tile holds the rows of a quantized matrix that one vector has lanes for, side by side, so that one load brings a few
columns of each. A tile's scales are float32 whose last 8 bits are the zero: exact for scales of 16 bits, 2^-16 off for
others. Layers with minimums (GGUF's Q4_1) keep their two float16 numbers for each group.

Legend: N outputs, K inputs, G groups, R rows of a slice.
"""

from __future__ import annotations

from ctypes import byref
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError
from qwenkit.inference.native.library import BFLOAT16, FLOAT16, FLOAT32, INT4, INT4_MINIMUMS, INT8, Matrix, library
from qwenkit.model.own_pages import own_pages
from qwenkit.model.quantized_linear import QuantizedLinear

KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


class Weights(NamedTuple):
    """A matrix, and the tensors that its pointers lead to."""

    matrix: Matrix
    kept: tuple[Tensor, ...]


def unfit(layer: nn.Module) -> str | None:
    """Return why a linear layer cannot be read, or None."""
    if isinstance(layer, QuantizedLinear):
        return _unfit_quantized(layer)
    if type(layer) not in (nn.Linear, nn.Embedding):
        return f"a layer is a {type(layer).__name__}"
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.device.type != "cpu":
        return f"its weights are on {weight.device}"
    if weight.dtype not in KINDS:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}"
    return None if weight.is_contiguous() else "a weight is not contiguous"


def _unfit_quantized(layer: QuantizedLinear) -> str | None:
    bits, group_size = layer.quant_config
    if odd := next((tensor.device for tensor in layer.buffers() if tensor.device.type != "cpu"), None):
        return f"its weights are on {odd}"
    if bits not in (4, 8) or (group_size != -1 and group_size % 32):
        return f"weights of {bits} bits in groups of {group_size}"
    return None if layer.in_order else "quantized columns are not in their order"


def form(layer: nn.Module) -> tuple[int, int]:
    """Return the kind and the group of a layer's matrix: layers with the same input must have the same."""
    if isinstance(layer, QuantizedLinear):
        bits, group_size = layer.quant_config
        kind = INT8 if bits == 8 else INT4 if layer.group_minimums(slice(0)) is None else INT4_MINIMUMS
        return kind, max(group_size, 0)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return KINDS[weight.dtype], 0


def weights(layer: nn.Module) -> Weights:
    """Return the matrix of a linear layer or of an embedding: float weights are read in place, so the layer must live
    as long as the matrix and keep its tensor; a quantized layer is copied into tiles."""
    bias = getattr(layer, "bias", None)
    kept = () if bias is None else (bias.detach().float().contiguous(),)
    if isinstance(layer, QuantizedLinear):
        data = pack(layer)
        rows, columns = layer.out_features, layer.in_features
    else:
        assert isinstance(layer.weight, Tensor)
        data = layer.weight.detach()  # another parameter's data may take its place: this keeps the memory
        rows, columns = data.shape
    kind, group = form(layer)
    matrix = Matrix(kind, rows, columns, group, data.data_ptr(), kept[0].data_ptr() if kept else None)
    return Weights(matrix, (data, *kept))


def stored_bytes(layer: nn.Module) -> int:
    """Return how many bytes of weights a product with this layer reads."""
    if isinstance(layer, QuantizedLinear):
        matrix = _quantized(layer)
        return library().qk_packed_bytes(byref(matrix))
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.nbytes


@torch.no_grad()
def pack(layer: QuantizedLinear) -> Tensor:
    """Return the bytes of a quantized layer's tiles; memory that is mapped from the layer's file is given back."""
    matrix, rows = _quantized(layer), slice(None)
    values_NK, minimums_NG = layer.levels(rows).contiguous(), layer.group_minimums(rows)
    if minimums_NG is None:
        scales_NG, zeros_NG = layer.group_scales(rows).float().contiguous(), layer.zeros(rows).byte().contiguous()
    else:
        scales_NG, zeros_NG = layer.group_scales(rows).half().contiguous(), minimums_NG.half().contiguous()
    numbers = scales_NG if minimums_NG is None else torch.cat([scales_NG, zeros_NG])
    if not bool(numbers.float().isfinite().all()):
        raise UserError("a scale of a quantized layer is NaN or infinite", hint="make the quantized model anew")
    packed = own_pages((library().qk_packed_bytes(byref(matrix)),), torch.uint8)
    pointers = (tensor.data_ptr() for tensor in (values_NK, scales_NG, zeros_NG, packed))
    library().qk_pack(byref(matrix), *pointers)
    layer.give_back()
    return packed


def _quantized(layer: QuantizedLinear) -> Matrix:
    """Return the matrix of a quantized layer, without its data."""
    kind, group = form(layer)
    return Matrix(kind, layer.out_features, layer.in_features, group, None, None)


def product(weights: Weights, x_BK: Tensor, threads: int = 1) -> Tensor:
    """Return x W^T + bias, [B, N] in float32: what a step computes of one matrix."""
    x_BK = x_BK.float().contiguous()
    out_BN = torch.empty(len(x_BK), weights.matrix.rows)
    arguments = (byref(weights.matrix), x_BK.data_ptr(), len(x_BK), threads, out_BN.data_ptr())
    if (wrong := library().qk_product(*arguments)) is not None:
        raise MemoryError(wrong.decode())
    return out_BN
