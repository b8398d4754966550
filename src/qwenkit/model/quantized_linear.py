"""Linear layers whose weights are 4 or 8 bits, held as their file holds them.

    W[n, k] = (q[n, k] - zero[n, g]) * scale[n, g] + minimum[n, g],   g = the group of column k

    layer = GPTQLinear(quant_config, qweight, qzeros, scales, g_idx, bias)       # tensors of a GPTQ folder, mapped
    layer = from_qvalues(qvalues_NK, scales_NG, zeros_NG, quant_config, bias)    # made here: `gptq.py`
    layer = as_layer(bytes_NX, "Q4_1", bias)                                     # `gguf_blocks.py`: of a GGUF file

What runs: on a CPU in bf16, torch's own kernels (4 bits in groups; 8 bits with one symmetric scale a row). Everywhere
else, and for many rows of input, the weight is dequantized for each call, a slice of rows at a time: exact in the dtype
of the input. So float32 is the reference, and bf16 the fast way (its scales are rounded to bf16).

GPTQ's layout: `qweight` [K * bits / 32, N] packs the levels of a column of W into int32s, `qzeros` [G, N * bits / 32]
packs zeros minus one, `scales` is [G, N], `g_idx` [K] names each column's group (out of order where columns were
quantized by weight). GGUF's Q4_1 has minimums, and zeros of 0; a GPTQ folder cannot hold it.

**One copy.** The tensors stay mapped from their file. Where a kernel needs another form, the form is made once and the
file's pages are given back (`mapped.py`): only the form takes memory, and the file is read again where somebody asks
for the levels. A layer that was quantized in this process has no file, so it has both.

Legend: N outputs, K inputs, G groups, R rows of a slice, T rows of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenkit.errors import UserError
from qwenkit.model.mapped import release
from qwenkit.model.own_pages import in_own_pages
from qwenkit.platform import trim_memory

NAMES = ("qweight", "qzeros", "scales", "g_idx")
_SLICE = 2**24  # weights that are dequantized at once
_MANY = 128  # rows from which on a dequantized weight and one product are faster than the kernel (at 4864 x 896)
_KERNEL_GROUPS = (32, 64, 128, 256)


class QuantConfig(NamedTuple):
    """How weights are quantized: the number of bits, and how many columns share a scale (-1: a whole row)."""

    bits: int = 4
    group_size: int = 128

    @property
    def per_word(self) -> int:
        """Return how many quantized values an int32 holds."""
        return 32 // self.bits

    def groups(self, columns: int) -> int:
        """Return the number of groups in a row of `columns` columns."""
        return 1 if self.group_size == -1 else -(-columns // self.group_size)


class QuantizedLinear(nn.Module):
    """A linear layer of quantized values, scales and zeros, in whatever layout. It cannot be trained itself; an adapter
    in front of it can (`lora.py`)."""

    bias: Tensor | None
    in_order = True
    """Whether the groups are those of the columns' order."""
    trains_around = False
    """Whether the layer stands in a model whose adapter is trained: it may be in training mode, and stays as it is."""

    def __init__(self, quant_config: QuantConfig, columns: int, rows: int, stored: Mapping[str, Tensor | None]) -> None:
        """Keep what is stored as buffers: the tensors of a layout for N rows and K columns, and `bias` [N]."""
        super().__init__()
        self.quant_config, self.in_features, self.out_features = quant_config, columns, rows
        for name, tensor in stored.items():
            self.register_buffer(name, tensor)
        self._kernel: tuple[str, Tensor, Tensor] | None = None

    # ---- what a layout says -----------------------------------------------------------------------------------------

    def levels(self, rows: slice) -> Tensor:
        """Return the quantized values of these rows, [R, K] as bytes."""
        raise NotImplementedError

    def zeros(self, rows: slice) -> Tensor:
        """Return the quantized value that stands for 0 in each group, [R, G]."""
        raise NotImplementedError

    def group_scales(self, rows: slice) -> Tensor:
        """Return the scale of each group, [R, G]."""
        raise NotImplementedError

    def group_minimums(self, rows: slice) -> Tensor | None:
        """Return what is added in each group, [R, G]; None: nothing."""
        del rows
        return None

    def group_of_columns(self) -> Tensor:
        """Return the number of each column's group, [K]."""
        return _ordered(self.in_features, self.quant_config)

    @property
    def symmetric(self) -> bool:
        """Return whether every zero is the middle level and there are no minimums."""
        middle = 2 ** (self.quant_config.bits - 1)
        return self.group_minimums(slice(0)) is None and bool((self.zeros(slice(None)) == middle).all())

    def words(self) -> dict[str, Tensor]:
        """Return the tensors of a GPTQ folder: `qweight`, `qzeros`, `scales` and `g_idx`."""
        rows = slice(None)
        return gptq_words(self.levels(rows), self.group_scales(rows), self.zeros(rows), self.quant_config)

    # ---- what is computed with it -----------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ W^T + bias, [..., N], with a 4-bit or 8-bit kernel where one fits, else with dequantized
        weights."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _DequantizedProduct.apply(x, self)
        if not self._has_kernel(x) or x.shape[:-1].numel() >= _MANY:
            return self._exact(x)
        if self._kernel is None:
            self._kernel = self._packed()
            self.give_back()
            trim_memory()  # what packing took for a moment
        name, weight, scales = self._kernel
        rows_TK = x.reshape(-1, self.in_features)
        if name == "int4":
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows_TK, weight, self.quant_config.group_size, scales)
        else:
            out = torch.ops.aten._weight_int8pack_mm(rows_TK, weight, scales)
        out = out.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def train(self, mode: bool = True) -> QuantizedLinear:
        """Set eval mode, or training mode below an adapter; raises a `UserError` for training without one."""
        if mode and not self.trains_around:
            raise UserError("a quantized model cannot be trained", hint="train the model that it was made of")
        return super().train(mode)

    def weight(self, rows: slice = slice(None)) -> Tensor:
        """Return the dequantized weights of these rows, [R, K] in float32."""
        levels_RK, zeros_RG, scales_RG = self.levels(rows), self.zeros(rows).float(), self.group_scales(rows).float()
        minimums_RG, size = self.group_minimums(rows), self.quant_config.group_size
        if self.in_order and (size == -1 or self.in_features % size == 0):  # the last group may be short
            levels_RGK = levels_RK.view(*zeros_RG.shape, -1).float()
            levels_RGK.sub_(zeros_RG[..., None]).mul_(scales_RG[..., None])
            if minimums_RG is not None:
                levels_RGK.add_(minimums_RG.float()[..., None])
            return levels_RGK.view_as(levels_RK)
        group_K = self.group_of_columns()
        weight_RK = (levels_RK - zeros_RG[:, group_K]) * scales_RG[:, group_K]
        return weight_RK if minimums_RG is None else weight_RK + minimums_RG.float()[:, group_K]

    def give_back(self) -> None:
        """Give back the memory of what is stored, where it is mapped from a file."""
        release(*(tensor for tensor in self.buffers() if tensor is not self.bias))

    def forget_kernel(self) -> None:
        """Drop the form that a kernel of torch reads; it is made again when it is needed."""
        self._kernel = None

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        """Take over what is stored; what was made of the old is dropped."""
        self.forget_kernel()
        super()._load_from_state_dict(*given, **named)

    def _exact(self, x: Tensor) -> Tensor:
        """Multiply by the dequantized weight in the dtype of the input, some rows at a time."""
        parts = []
        for rows in self._slices():
            bias = None if self.bias is None else self.bias[rows].to(x.dtype)
            parts.append(F.linear(x, self.weight(rows).to(x.dtype), bias))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _slices(self) -> list[slice]:
        """Return the rows that are dequantized at once."""
        step = max(1, _SLICE // self.in_features)
        return [slice(start, min(start + step, self.out_features)) for start in range(0, self.out_features, step)]

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the input, [..., K], from that of the output, [..., N]: weights are dequantized again,
        some rows at a time, so a backward pass never holds them all."""
        pieces = (grad[..., rows] @ self.weight(rows).to(grad.dtype) for rows in self._slices())
        total = next(pieces)
        for piece in pieces:
            total += piece
        return total

    def _has_kernel(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or not self.in_order:
            return False
        if not kernel_fits(self.quant_config, self.in_features, self.out_features):
            return False
        return self.quant_config.bits == 4 or self._kernel is not None or self.symmetric

    def _packed(self) -> tuple[str, Tensor, Tensor]:
        """Return the arguments of the kernel; computed once."""
        rows = slice(None)
        if self.quant_config.bits == 8:
            qvalues_NK = in_own_pages(self.levels(rows) ^ 128).view(torch.int8)
            return "int8", qvalues_NK, self.group_scales(rows)[:, 0].bfloat16().contiguous()
        packed = in_own_pages(torch.ops.aten._convert_weight_to_int4pack_for_cpu(self.levels(rows).int(), 1))
        scales_GN, minimums_NG = self.group_scales(rows).t().float(), self.group_minimums(rows)
        offsets_GN = (8.0 - self.zeros(rows).t().float()) * scales_GN  # the kernel counts from the middle level
        if minimums_NG is not None:
            offsets_GN = offsets_GN + minimums_NG.t().float()
        return "int4", packed, torch.stack([scales_GN, offsets_GN], dim=-1).bfloat16().contiguous()


class _DequantizedProduct(torch.autograd.Function):
    """The product with a frozen quantized weight, of which nothing is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return layer._exact(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(grads[0]).to(ctx.dtype), None


class GPTQLinear(QuantizedLinear):
    """A quantized layer in the words of a GPTQ folder."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    g_idx: Tensor

    def __init__(
        self,
        quant_config: QuantConfig,
        qweight: Tensor,
        qzeros: Tensor,
        scales: Tensor,
        g_idx: Tensor,
        bias: Tensor | None = None,
    ) -> None:
        """Take the tensors of a GPTQ checkpoint, for N outputs, K inputs and G groups.

        `qweight` is int32 [K / per_word, N], `qzeros` int32 [G, N / per_word], `scales` [G, N], `g_idx` [K] and `bias`
        [N]."""
        columns, rows = qweight.shape[0] * quant_config.per_word, qweight.shape[1]
        stored: dict[str, Tensor | None] = dict(zip((*NAMES, "bias"), (qweight, qzeros, scales, g_idx, bias)))
        super().__init__(quant_config, columns, rows, stored)
        self.in_order = bool(torch.equal(g_idx.long(), _ordered(columns, quant_config)))

    def levels(self, rows: slice) -> Tensor:
        """Return the quantized values [R, K] as bytes: those of a word are in the order of their columns."""
        words = self.qweight[:, rows].contiguous()
        bytes_RK = words.view(torch.uint8).view(*words.shape, 4).transpose(0, 1)
        if self.quant_config.bits == 4:
            bytes_RK = torch.stack((bytes_RK & 15, bytes_RK >> 4), dim=-1)
        return bytes_RK.reshape(words.shape[1], self.in_features)

    def zeros(self, rows: slice) -> Tensor:
        """Return the quantized value that stands for 0 in each group, [R, G]."""
        most = 2**self.quant_config.bits - 1
        return ((split_words(self.qzeros, self.quant_config.bits, 1) + 1) & most).t()[rows]

    def group_scales(self, rows: slice) -> Tensor:
        """Return the scale of each group, [R, G]."""
        return self.scales[:, rows].t()

    def group_of_columns(self) -> Tensor:
        """Return the number of each column's group, [K]."""
        return self.g_idx.long()

    def words(self) -> dict[str, Tensor]:
        """Return the tensors as they are."""
        return {name: getattr(self, name) for name in NAMES}


def kernel_fits(quant_config: QuantConfig, in_features: int, out_features: int) -> bool:
    """Return whether a CPU has a kernel in bf16 for layers of these sizes; in 8 bits only for symmetric ones."""
    if quant_config.bits == 8:
        return quant_config.groups(in_features) == 1
    whole = in_features % 64 == 0 and out_features % 64 == 0
    return quant_config.bits == 4 and quant_config.group_size in _KERNEL_GROUPS and whole


def from_qvalues(
    qvalues_NK: Tensor,
    scales_NG: Tensor,
    zeros_NG: Tensor,
    quant_config: QuantConfig,
    bias: Tensor | None = None,
) -> GPTQLinear:
    """Return a layer in GPTQ's layout from quantized values [N, K] in [0, 2^bits), and scales and zeros [N, G]."""
    words = gptq_words(qvalues_NK, scales_NG, zeros_NG, quant_config)
    return GPTQLinear(quant_config, *(words[name] for name in NAMES), bias=bias)


def gptq_words(qvalues_NK: Tensor, scales_NG: Tensor, zeros_NG: Tensor, quant_config: QuantConfig) -> dict[str, Tensor]:
    """Return the tensors of a GPTQ folder that hold quantized values, scales and zeros."""
    zeros_GN = (zeros_NG.t().int() - 1) & (2**quant_config.bits - 1)
    return {
        "qweight": _join_columns(qvalues_NK.to(torch.uint8), quant_config),
        "qzeros": join_words(zeros_GN, quant_config.bits, 1),
        "scales": scales_NG.t().contiguous().half(),
        "g_idx": _ordered(qvalues_NK.shape[1], quant_config).int(),
    }


def _join_columns(qvalues_NK: Tensor, quant_config: QuantConfig) -> Tensor:
    """Return the words [K / per_word, N] of quantized values in bytes: `join_words` without its int64."""
    rows, columns = qvalues_NK.shape
    if quant_config.bits == 4:
        qvalues_NK = qvalues_NK[:, ::2] | qvalues_NK[:, 1::2] << 4
    words = qvalues_NK.reshape(rows, columns // quant_config.per_word, 4).transpose(0, 1).contiguous()
    return words.view(torch.int32).squeeze(-1)


def _ordered(columns: int, quant_config: QuantConfig) -> Tensor:
    """Return the group of each column where nothing was reordered."""
    return torch.arange(columns) // (columns if quant_config.group_size == -1 else quant_config.group_size)


def rows_of(tensors: dict[str, Tensor], quant_config: QuantConfig, rows: slice, where: str) -> GPTQLinear:
    """Return the layer of some rows of a folder's tensors: a fused matrix holds three layers.

    Raises a `UserError` for tensors whose shapes, dtypes or group indices do not fit together."""
    columns, total = tensors["qweight"].shape[0] * quant_config.per_word, tensors["qweight"].shape[1]
    groups = quant_config.groups(columns)
    if total % quant_config.per_word:
        raise UserError(f"qweight has {total} outputs", where=where, expected=f"a multiple of {quant_config.per_word}")
    wanted = {"qzeros": (groups, total // quant_config.per_word), "scales": (groups, total), "g_idx": (columns,)}
    wanted |= {"bias": (total,)} if "bias" in tensors else {}
    if wrong := [name for name, shape in wanted.items() if tuple(tensors[name].shape) != shape]:
        raise UserError(f"{wrong[0]} is {list(tensors[wrong[0]].shape)}, not {list(wanted[wrong[0]])}", where=where)
    if odd := [name for name in ("qzeros", "g_idx") if tensors[name].is_floating_point()]:
        raise UserError(f"{odd[0]} is {tensors[odd[0]].dtype}", where=where, expected="integers")
    if odd := [name for name in ("scales", "bias") if name in tensors and not tensors[name].is_floating_point()]:
        raise UserError(f"{odd[0]} is {tensors[odd[0]].dtype}", where=where, expected="floating point numbers")
    order = tensors["g_idx"]
    if int(order.min()) < 0 or int(order.max()) >= groups:
        raise UserError("g_idx names a group that is not there", where=where)
    words = slice(rows.start // quant_config.per_word, rows.stop // quant_config.per_word)
    bias = tensors["bias"][rows] if "bias" in tensors else None
    if bias is not None and not bias.any():  # some tools write zeros for every layer
        bias = None
    return GPTQLinear(quant_config, tensors["qweight"][:, rows], tensors["qzeros"][:, words],
                      tensors["scales"][:, rows], order, bias)  # fmt: skip


def join_words(values: Tensor, bits: int, axis: int) -> Tensor:
    """Return int32 words that hold 32 / bits neighbours along an axis each, the first in the lowest bits."""
    grouped = values.long().unflatten(axis, (-1, 32 // bits))
    shifts = torch.arange(0, 32, bits).view([-1 if d == axis + 1 else 1 for d in range(grouped.dim())])
    joined = (grouped << shifts).sum(axis + 1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).to(torch.int32).contiguous()


def split_words(joined: Tensor, bits: int, axis: int) -> Tensor:
    """Return the values that `join_words` packed into int32 words."""
    wide = joined.unsqueeze(axis + 1)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32).view([-1 if d == axis + 1 else 1 for d in range(wide.dim())])
    return ((wide >> shifts) & (2**bits - 1)).flatten(axis, axis + 1)
