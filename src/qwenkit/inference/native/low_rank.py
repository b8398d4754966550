"""Adapters as the C++ code reads them: A of each layer as a matrix, B by columns, both in one kind.

    ranks = low_ranks(adapter, model)                # `EngineAdapter` of inference/adapters.py
    groups = (Group * 1)(Group(start, stop, ranks.pointer))

They are bf16 where the model's table is, so that they take half of the memory's time, and float32 elsewhere.

Legend: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.native.fitness import PROJECTIONS
from qwenkit.inference.native.library import LowRank, Matrix
from qwenkit.inference.native.matrices import KINDS

if TYPE_CHECKING:
    from qwenkit.inference.adapters import EngineAdapter
    from qwenkit.model import Transformer

_LANES = 16  # B's columns are filled up to a multiple, which vectors may read


class LowRanks:
    """The layers of one adapter: seven `LowRank`s for each layer of the model, in the order of `PROJECTIONS`."""

    def __init__(self, adapter: EngineAdapter, model: Transformer) -> None:
        """Copy A and B into the layout of the code."""
        dtype = low_dtype(model)
        self._kept: list[Tensor] = []
        self._layers = (LowRank * (len(PROJECTIONS) * model.config.num_hidden_layers))()
        parts = [f"self_attn.{name}" if name[0] in "qkvo" else f"mlp.{name}" for name in PROJECTIONS.values()]
        for layer in range(model.config.num_hidden_layers):
            for place, part in enumerate(parts):
                change = adapter.layers.get(f"model.layers.{layer}.{part}")
                if change is not None:
                    self._layers[layer * len(parts) + place] = self._packed(
                        change.A_RK, change.B_NR, change.scale, dtype
                    )

    @property
    def pointer(self) -> int:
        """Return where the layers lie."""
        return ctypes.addressof(self._layers)

    def _packed(self, A_RK: Tensor, B_NR: Tensor, scale: float, dtype: torch.dtype) -> LowRank:
        a = A_RK.to(dtype).contiguous()
        b = F.pad(B_NR.T.to(dtype), (0, -len(B_NR) % _LANES)).contiguous()
        self._kept += [a, b]
        matrix = Matrix(KINDS[dtype], *a.shape, 0, a.data_ptr(), None)
        return LowRank(matrix, b.data_ptr(), b.shape[1], scale)


def low_dtype(model: Transformer) -> torch.dtype:
    """Return the dtype in which A and B of adapters are read beside a model's weights."""
    bf16 = model.model.embed_tokens.weight.dtype == torch.bfloat16
    return torch.bfloat16 if bf16 else torch.float32
