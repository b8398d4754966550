"""Adapters: low-rank changes of frozen linear layers (LoRA; Hu et al., 2021), with rsLoRA and DoRA.

    model = add_adapter(load_model(folder), LoRAConfig(rank=16), seed=0)     # trains A and B; everything else is frozen
    policy = add_adapter(shared_copy(model), LoRAConfig(rank=16))            # a second model, the weights are the same
    merge_adapter(model)                                                     # W + scale * B A, and no adapter any more

An adapted layer is a `LoRALinear` in the place of the linear layer, which becomes its `base`: plain, or quantized
(`quantized_linear.py`, whose backward pass dequantizes piece by piece; Dettmers et al., 2023). What is trained is what
`trainable_state` names: `...q_proj.lora.A`, `.lora.B`, with DoRA `.lora.magnitude`, and the modules to save. A and B
are float32 and compute so outside autocast, whatever the weights are: rounding comes once, in the sum.

A packed product (`prepacked.py`) of several layers keeps one adapter for each of them: each adds to its own rows of the
output. So q_proj, k_proj and v_proj have adapters of their own, as in Hugging Face's form, even where a folder of the
first Qwen stores them as one matrix; `adapter_folder.py` splits and joins such adapters.

Legend: N outputs, K inputs, R rank, T rows of the input.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenkit.errors import UserError, listed, nearest
from qwenkit.model.formats.qwen import LAYER as QWEN_NAMES
from qwenkit.model.lora_config import ALL_LINEAR, LoRAConfig
from qwenkit.model.quantized_linear import QuantizedLinear
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.rng import derive_seed

Model = TypeVar("Model", Transformer, ScalarModel)
Linear = nn.Linear | QuantizedLinear
_NOT_ALL = ("lm_head", "score_head", "gate", "shared_expert_gate")
"""Heads and routers: linear, but not among `all-linear`."""
_ROWS = 2**24  # weights whose norms are computed at once


class LoRA(nn.Module):
    """The change of one linear layer: A [R, K], B [N, R] and, with DoRA, the norm of every row [N]."""

    def __init__(self, columns: int, rows: int, rank: int, scale: float, dropout: float) -> None:
        """Make A and B, zeros both, in float32; `scale` multiplies B A."""
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.A, self.B = nn.Parameter(torch.zeros(rank, columns)), nn.Parameter(torch.zeros(rows, rank))
        self.magnitude: nn.Parameter | None = None
        self._known: tuple[tuple[object, ...], Tensor] | None = None  # DoRA's factor, and what it was computed of

    def dropped(self, x: Tensor) -> Tensor:
        """Return the input after dropout."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def delta(self, x: Tensor) -> Tensor:
        """Return scale * B A x, [..., N]: in float32, or as autocast says."""
        x = x if torch.is_autocast_enabled(x.device.type) else x.to(self.A.dtype)
        return F.linear(F.linear(x, self.A) * self.scale, self.B)

    def factor(self, weight: Callable[[slice], Tensor]) -> Tensor | None:
        """Return what DoRA multiplies each output by, [N]: the learnt norm of the row over its present one, through
        which no gradient flows. `weight` gives rows of the frozen weight, [R, K]. None without DoRA."""
        if self.magnitude is None:
            return None
        if torch.is_grad_enabled():
            return self.magnitude / self.norms(weight)
        state = (self.B.device, self.A._version, self.B._version, self.magnitude._version)
        if self._known is None or self._known[0] != state:
            self._known = state, self.magnitude / self.norms(weight)
        return self._known[1]

    @torch.no_grad()
    def norms(self, weight: Callable[[slice], Tensor]) -> Tensor:
        """Return the norm of each row of W + scale * B A, [N], some rows at a time."""
        step = max(1, _ROWS // self.A.shape[1])
        pieces = (slice(start, start + step) for start in range(0, len(self.B), step))
        return torch.cat([self.changed(weight(rows), rows).norm(dim=1) for rows in pieces])

    def changed(self, weight_RK: Tensor, rows: slice) -> Tensor:
        """Return some rows of W + scale * B A, in float32."""
        return weight_RK.float() + self.scale * (self.B[rows] @ self.A)

    def apply_to(self, out: Tensor, x: Tensor, bias: Tensor | None, factor_N: Tensor | None) -> Tensor:
        """Return the layer's output with the change, from its output without; in the dtype of `out`."""
        delta = self.delta(self.dropped(x))
        if factor_N is None:
            return (out + delta).to(out.dtype)
        plain = out if bias is None else out - bias
        return (out + (factor_N - 1) * plain + factor_N * delta).to(out.dtype)


class LoRALinear(nn.Module):
    """A linear layer with an adapter in its place: `base` is frozen, `lora` is trained."""

    def __init__(self, base: Linear, lora: LoRA) -> None:
        """Put the adapter around the layer."""
        super().__init__()
        self.base, self.lora = base, lora
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the adapted layer, [..., N]."""
        out, factor_N = self.base(x), self.lora.factor(self.weight)
        if factor_N is None or not (self.lora.dropout and self.training):
            return self.lora.apply_to(out, x, self.base.bias, factor_N)
        x = self.lora.dropped(x)  # DoRA's own part reads the dropped input, as in peft
        plain = self.base(x) if self.base.bias is None else self.base(x) - self.base.bias
        return (out + (factor_N - 1) * plain + factor_N * self.lora.delta(x)).to(out.dtype)

    def weight(self, rows: slice = slice(None)) -> Tensor:
        """Return rows of the frozen weight, [R, K]."""
        return self.base.weight(rows) if isinstance(self.base, QuantizedLinear) else self.base.weight[rows]

    @torch.no_grad()
    def merged(self, dtype: torch.dtype) -> nn.Linear:
        """Return a plain layer that computes the same, its weight rounded once to a dtype."""
        factor_N, rows = self.lora.factor(self.weight), slice(None)
        weight_NK = self.lora.changed(self.weight(rows), rows)
        layer = nn.Linear(self.in_features, self.out_features, bias=self.base.bias is not None, device="meta")
        layer.weight = nn.Parameter((weight_NK if factor_N is None else factor_N[:, None] * weight_NK).to(dtype))
        if self.base.bias is not None:
            layer.bias = nn.Parameter(self.base.bias.detach().to(dtype))
        return layer.train(self.training)


# ---- which layers ---------------------------------------------------------------------------------------------------


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Return the linear layers of a model by name, those inside an adapted one as the adapted one's."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | QuantizedLinear)}
    return {name.removesuffix(".base"): module for name, module in layers.items()}


def target_names(model: nn.Module, targets: str | tuple[str, ...], first_qwen: bool = False) -> list[str]:
    """Return the names of the layers that `targets` means, in the order of the model.

    `first_qwen`: the names of the first Qwen's matrices (c_attn, w1, ...) are known too. Raises a `UserError` for a
    name, or a regular expression, that fits no linear layer."""
    names = list(linear_layers(model))
    if targets == ALL_LINEAR:
        return [name for name in names if name.rpartition(".")[2] not in _NOT_ALL]
    if isinstance(targets, str) and not re.fullmatch(r"[\w.,\s]+", targets):
        if chosen := [name for name in names if re.fullmatch(targets, name)]:
            return chosen
        raise UserError(f"the regular expression {targets!r:.200} fits no linear layer", where="adapter.targets",
                        expected=f"one for whole names, such as {names[0]}")  # fmt: skip
    asked = re.split(r"[,\s]+", targets.strip()) if isinstance(targets, str) else targets
    ends = {target: _first_qwen_ends(target) if first_qwen else () for target in asked}
    ends = {target: known or (target,) for target, known in ends.items()}
    for target, known in ends.items():
        if not any(_ends(name, end) for name in names for end in known):
            _refuse_target(model, target, names)
    return [name for name in names if any(_ends(name, end) for known in ends.values() for end in known)]


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _first_qwen_ends(target: str) -> tuple[str, ...]:
    """Return the ends of the names of the layers that one name of the first Qwen's matrices means."""
    return tuple(own.removesuffix(".weight") for own, theirs in QWEN_NAMES.items() if _ends(theirs, f"{target}.weight"))


def _refuse_target(model: nn.Module, target: str, names: list[str]) -> None:
    """Raise the `UserError` for a name that fits no linear layer."""
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    other = [name for name, _ in model.named_modules() if _ends(name, target)]
    hint = f"{other[0]} is not linear: modules_to_save trains it whole" if other else None
    raise UserError(f"no linear layer is called `{target:.200}`", where="adapter.targets", expected=listed(known, 12),
                    nearest=None if other else nearest(target, known), hint=hint)  # fmt: skip


# ---- on and off -----------------------------------------------------------------------------------------------------


def shared_copy(model: Model) -> Model:
    """Return a model of its own whose tensors are those of the first: another adapter can be put on it."""
    tensors = [*model.parameters(), *model.buffers()]
    kernels = [layer._kernel for layer in model.modules() if isinstance(layer, QuantizedLinear) and layer._kernel]
    return copy.deepcopy(model, {id(shared): shared for shared in (*tensors, *kernels)})


def add_adapter(model: Model, config: LoRAConfig, seed: int = 0) -> Model:
    """Put an adapter on a model, in place, and return the model: only the adapter is trained.

    A is drawn from `seed` and the layer's name as in peft (uniform within 1 / sqrt(K)), B is zero: the model computes
    what it did. Raises a `UserError` for targets and modules that it does not have, and where it has an adapter
    already."""
    if model.adapter is not None:
        raise UserError("the model has an adapter already", hint="merge it first, or begin with the model without it")
    first_qwen = model.config.model_type == "qwen"
    names = target_names(model, config.targets, first_qwen)
    saved = _modules_to_save(model, config, names)
    model.requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            layer.trains_around = True
    for name in names:
        _replace(model, name, _adapted(model.get_submodule(name), name, config, seed))
    for name in saved:
        _replace(model, name, _own(model.get_submodule(name)))
    model.adapter = config
    return model


def _adapted(layer: nn.Module, name: str, config: LoRAConfig, seed: int) -> LoRALinear:
    """Return a linear layer with a new adapter."""
    assert isinstance(layer, nn.Linear | QuantizedLinear)
    device = next(layer.buffers() if isinstance(layer, QuantizedLinear) else layer.parameters()).device
    lora = LoRA(layer.in_features, layer.out_features, config.rank_of(name), config.scale_of(name), config.dropout)
    generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
    with torch.no_grad():
        lora.A.uniform_(-(lora.A.shape[1] ** -0.5), lora.A.shape[1] ** -0.5, generator=generator)
    adapted = LoRALinear(layer, lora.to(device))
    if config.dora:
        lora.magnitude = nn.Parameter(lora.norms(adapted.weight))
    return adapted.train(layer.training)


def _modules_to_save(model: Model, config: LoRAConfig, targets: list[str]) -> list[str]:
    """Return the names of the modules to save; where head and table are to part, the model gets a head of its own."""
    names = [name for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)]
    saved: list[str] = []
    head = ("score_head",) if isinstance(model, ScalarModel) else ()
    for asked in dict.fromkeys((*(config.modules_to_save or ()), *head)):
        own = "score_head" if asked == "score" else asked
        there = [name for name in names if _ends(name, own)]
        if not there and own == "lm_head" and isinstance(model, Transformer):
            raise UserError("modules_to_save: the head is the table of embed_tokens in this model", where="adapter",
                            expected="embed_tokens, which trains both")  # fmt: skip
        if not there:
            ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise UserError(f"modules_to_save: no module is called `{asked:.200}`", where="adapter",
                            expected="a module of the model", nearest=nearest(asked, ends))  # fmt: skip
        if both := [name for name in targets for each in there if _ends(name, own) or name.startswith(f"{each}.")]:
            raise UserError(f"modules_to_save: {both[0]} has an adapter, and would be trained whole too",
                            where="adapter", expected="one of the two")  # fmt: skip
        saved += there
    if not config.tied and "model.embed_tokens" in saved and isinstance(model, Transformer):
        part_head(model)
    return saved


def part_head(model: Transformer) -> None:
    """Give a model with tied embeddings a head of its own, which is the table as it is now."""
    if model.config.tie_word_embeddings:
        from dataclasses import replace

        table = model.model.embed_tokens.weight
        model.lm_head = nn.Linear(*reversed(table.shape), bias=False, device="meta")
        model.lm_head.weight = table
        model.config = replace(model.config, tie_word_embeddings=False)


def _own(module: nn.Module) -> nn.Module:
    """Return a trained copy of a module in float32, with tensors of its own."""
    if any(isinstance(part, QuantizedLinear) for part in module.modules()):
        raise UserError("modules_to_save: quantized weights cannot be trained", where="adapter")
    return copy.deepcopy(module).float().requires_grad_(True)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield the layers that have an adapter, by name."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return A, B and the norms of all adapted layers by name: small matrices that Muon must not orthogonalize."""
    return {f"{name}.lora.{part}": parameter for name, layer in adapted_layers(model)
            for part, parameter in layer.lora.named_parameters()}  # fmt: skip


def drop_adapter(model: Model) -> Model:
    """Take the adapter off a model, in place, and return the model; saved modules stay as they are."""
    for name, layer in list(adapted_layers(model)):
        _replace(model, name, layer.base)
    model.adapter = None
    return model


def merge_adapter(model: Model, dequantize: bool = False) -> Model:
    """Replace every adapted layer by a plain one that computes the same, in place, and return the model.

    Saved modules stay, in the dtype of the weights. Raises a `UserError` for quantized layers unless `dequantize`: the
    sum has no place in their bits."""
    for name, layer in list(adapted_layers(model)):
        if isinstance(layer.base, QuantizedLinear) and not dequantize:
            raise UserError(f"{name} is quantized to {layer.base.quant_config.bits} bits, and has no room for an "
                            "adapter", expected="an adapter over weights in 16 or 32 bits",
                            hint="--dequantize merges it into weights of 16 bits")  # fmt: skip
    dtype = model.model.embed_tokens.weight.dtype
    for name, layer in list(adapted_layers(model)):
        _replace(model, name, layer.merged(dtype))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear) and dequantize:
            _replace(model, name, _dequantized(layer, dtype))
    model.adapter = None
    return model.requires_grad_(True)


def _dequantized(layer: QuantizedLinear, dtype: torch.dtype) -> nn.Linear:
    """Return a quantized layer as a plain one."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.weight().to(dtype))
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.to(dtype))
    return plain
