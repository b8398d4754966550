"""A model whose rows have adapters of their own, by torch: the same modules and tensors, with changes behind products.

    view = AdaptedView(model)
    with view.rows({adapter: [0, 3], other: [1]}):
        h_1ND = view.model.hidden(ids_1N, cache)

Every module is a shallow copy that shares parameters, buffers and hooks; only the projections of the layers have
something around them. Rows without an adapter pass through what they pass through without any. The rows of one adapter
are taken out, multiplied by its A and B in float32, and added; they are filled up to a multiple of rows, so that their
bits do not depend on how many there are (`eager_forward.py` says where that holds).

Legend: N rows of a step, n rows of one adapter, K inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenkit.inference.adapters import EngineAdapter
from qwenkit.model import Transformer
from qwenkit.model.moe import MLP
from qwenkit.model.prepacked import PackedLinear
from qwenkit.model.transformer import Attention

Model = TypeVar("Model", bound=nn.Module)
_ALONE = {f"{name}_proj": (f"{name}_proj",) for name in ("q", "k", "v", "o", "gate", "up", "down")}
_PACKED = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}


class _Rows:
    """Which rows of the present step have which adapter; all layers of a view share one."""

    def __init__(self) -> None:
        self.groups: list[tuple[EngineAdapter, Tensor, int]] = []


class _Adapted(nn.Module):
    """A product with the changes of its rows' adapters: of one layer, or of several whose outputs stand side by
    side."""

    def __init__(self, base: nn.Module, names: Sequence[str], rows: _Rows) -> None:
        super().__init__()
        self.base, self.names, self.rows = base, names, rows
        self.sizes: list[int] | None = base.sizes if isinstance(base, PackedLinear) else None

    def forward(self, x_BNK: Tensor) -> Tensor:
        """Return the outputs, [1, N, outputs]."""
        out = self.base(x_BNK)
        sizes = self.sizes or [out.shape[-1]]
        for adapter, rows_n, padding in self.rows.groups:
            x_nK: Tensor | None = None
            for name, part in zip(self.names, out[0].split(sizes, dim=-1), strict=True):
                change = adapter.layers.get(name)
                if change is None:
                    continue
                if x_nK is None:
                    x_nK = F.pad(x_BNK[0, rows_n].float(), (0, 0, 0, padding))
                delta = F.linear(F.linear(x_nK, change.A_RK) * change.scale, change.B_NR)[: len(rows_n)]
                part[rows_n] = (part[rows_n].float() + delta).to(part.dtype)
        return out

    def parts(self, x_BNK: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each layer of a packed product."""
        assert self.sizes is not None, "only a packed product has parts"
        return self(x_BNK).split(self.sizes, dim=-1)


class AdaptedView:
    """The modules of a model with room for adapters of rows."""

    def __init__(self, model: Transformer, row_multiple: int = 1) -> None:
        """Share the tensors of `model`; the rows of an adapter are filled up to `row_multiple`."""
        self._rows, self._row_multiple = _Rows(), row_multiple
        self.model = _shallow(model)
        for name, module in list(self.model.named_modules()):
            if isinstance(module, Attention | MLP) and name.startswith("model.layers."):
                for child, layers in (_ALONE | _PACKED).items():
                    base = module._modules.get(child)
                    if base is not None:
                        whole = [f"{name}.{layer}" for layer in layers]
                        setattr(module, child, _Adapted(base, whole, self._rows))
        self.model.eval()

    @contextmanager
    def rows(self, groups: Mapping[EngineAdapter, Sequence[int]]) -> Iterator[None]:
        """Let these rows of the next forward pass have these adapters."""
        device = self.model.model.embed_tokens.weight.device
        self._rows.groups = [
            (adapter, torch.tensor(rows, device=device), -len(rows) % self._row_multiple)
            for adapter, rows in groups.items()
        ]
        try:
            yield
        finally:
            self._rows.groups = []


def _shallow(module: Model) -> Model:
    """Return a module whose parts are copies, and whose tensors and hooks are the same."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {
        name: None if child is None else _shallow(child) for name, child in module._modules.items()
    }
    return twin
