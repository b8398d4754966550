"""Prepacked weights: a copy in the layout that oneDNN's bf16 products read on a CPU, for models that only generate.

    compute_model = prepack(model)      # shares all that is not a matrix; the model itself stays as it is

torch reorders a matrix at every call. Done once, a prompt of 512 tokens takes 161 to 174 ms of matrix products where it
took 178 to 193, and one token 36 to 39 where it took 49 to 53 (Qwen2-0.5B's shape, two cores, three runs of
`benchmarks/packed_products.py`). Queries, keys and values are one product, gate and up another. Matrix by matrix, the
pages of a weight that is mapped from its file are given back once it is packed. Weights that were made or changed in
this process stay beside their copy.

The two operations of torch are private (`torch.ops.mkldnn`): where a version lacks them, nothing is prepacked.

Legend: B rows, T tokens, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qwenkit.model.lora import LoRALinear
from qwenkit.model.mapped import release
from qwenkit.model.moe import MLP
from qwenkit.model.transformer import Attention, Transformer
from qwenkit.platform import available_memory

_ROWS = 16  # the batch size that the layout is asked for; from 1 to 512 rows the layout is the same
_ROOM = 1.2  # a copy is made where so many times its size is free
_OPERATIONS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")


class PackedLinear(nn.Module):
    """Linear layers that have the same input, as one matrix product."""

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], adapters: Sequence[LoRALinear | None] = ()
    ) -> None:
        """Stack the weights [N, K] and biases [N] of the layers, and reorder them for oneDNN. An adapter changes the
        outputs of its own layer."""
        super().__init__()
        self.adapters = nn.ModuleList(nn.Identity() if each is None else _Change(each) for each in adapters)
        self.sizes = [len(weight) for weight in weights]
        present = [bias for bias in biases if bias is not None]
        self.bias = torch.cat([bias.detach() for bias in present]) if present else None
        stacked = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(stacked.contiguous(), _ROWS)
        release(*(weight.detach() for weight in weights))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the outputs of all layers side by side, [B, T, sum of N]."""
        out_BTN = torch.ops.mkldnn._linear_pointwise(x_BTC, self.weight, self.bias, "none", [], "")
        if not self.adapters:
            return out_BTN
        parts = zip(self.adapters, out_BTN.split(self.sizes, dim=-1), strict=True)
        return torch.cat([change(part, x_BTC) if isinstance(change, _Change) else part for change, part in parts], -1)

    def parts(self, x_BTC: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each layer, [B, T, N]."""
        return self(x_BTC).split(self.sizes, dim=-1)


class _Change(nn.Module):
    """The adapter of one layer of a packed product. DoRA's factor is that of the weights as they are now: they are
    gone when the product is computed."""

    def __init__(self, layer: LoRALinear) -> None:
        super().__init__()
        self.lora, self.bias = layer.lora, layer.base.bias
        self.factor_N = layer.lora.factor(layer.weight)

    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        return self.lora.apply_to(out, x, self.bias, self.factor_N)


class PackedAttention(Attention):
    """An attention layer whose projections are two matrix products: Q, K and V together, and the output."""

    def __init__(self, source: Attention) -> None:
        """Copy the projections of `source` into the packed layout; its norms are shared."""
        nn.Module.__init__(self)
        self.layer, self.head_dim, self.qk_norm = source.layer, source.head_dim, source.qk_norm
        if source.qk_norm:
            self.q_norm, self.k_norm = source.q_norm, source.k_norm
        self.qkv, self.o_proj = join(source.q_proj, source.k_proj, source.v_proj), join(source.o_proj)

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, T, heads * D] of one product."""
        q_BTC, k_BTC, v_BTC = self.qkv.parts(x_BTC)
        return q_BTC, k_BTC, v_BTC


class PackedMLP(MLP):
    """A SwiGLU layer whose gate and up projections are one matrix product."""

    def __init__(self, source: MLP) -> None:
        """Copy the projections of `source` into the packed layout."""
        nn.Module.__init__(self)
        self.gate_up, self.down_proj = join(source.gate_proj, source.up_proj), join(source.down_proj)

    def project(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the gate and up projections, both [B, T, intermediate_size]."""
        gate_BTC, up_BTC = self.gate_up.parts(x_BTC)
        return gate_BTC, up_BTC


def can_prepack(model: Transformer) -> bool:
    """Return whether the model runs in bf16 on a CPU with oneDNN's bf16 products and memory suffices for the copy."""
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS):
        return False  # another version of torch
    free, size = available_memory(), sum(parameter.nbytes for parameter in model.parameters())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (free is None or size * _ROOM < free)


@torch.no_grad()
def prepack(model: Transformer) -> Transformer:
    """Return a model with prepacked matrices. Quantized layers stay as they are, and all other tensors are shared."""
    shared = [*model.parameters(), *model.buffers()]
    compute_model = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for module in list(compute_model.modules()):
        for name, child in list(module.named_children()):
            plain = all(type(getattr(part, "base", part)) is nn.Linear
                        for key, part in child.named_children() if key.endswith("_proj"))  # fmt: skip
            if type(child) is Attention and plain:
                setattr(module, name, PackedAttention(child))
            elif type(child) is MLP and plain:
                setattr(module, name, PackedMLP(child))
    head = model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    if isinstance(head, nn.Embedding | nn.Linear):
        compute_model.lm_head = PackedLinear([head.weight], [None])  # pyright: ignore[reportAttributeAccessIssue]
    return compute_model.eval()


def join(*layers: nn.Linear | LoRALinear) -> PackedLinear:
    """Return several linear layers of the same input as one; if any of them has a bias, all must have one. Layers may
    have adapters."""
    adapters = [layer if isinstance(layer, LoRALinear) else None for layer in layers]
    bases = [layer.base if isinstance(layer, LoRALinear) else layer for layer in layers]
    plain = [layer for layer in bases if isinstance(layer, nn.Linear)]  # `prepack` leaves quantized ones alone
    weights, biases = [layer.weight for layer in plain], [layer.bias for layer in plain]
    return PackedLinear(weights, biases, adapters if any(adapters) else ())
