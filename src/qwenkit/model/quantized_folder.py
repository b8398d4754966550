"""Quantized layers in a model folder: which of its linear layers they replace, and how they are named (GPTQ).

    scheme = scheme_of(config_json, where)                     # None: not quantized
    rest = take(model, table, tensors, scheme)                 # puts the layers in; what is left to read
    for name, tensor in give(table, modules): ...              # the way back

A fused matrix of the first Qwen holds three layers side by side: columns of its `qweight` are rows of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError
from qwenkit.model.formats import Weight
from qwenkit.model.quantized import NAMES, QuantizedLinear, Scheme, rows_of
from qwenkit.model.weights import Tensors

Layers = dict[str, QuantizedLinear]


def scheme_of(found: dict[str, Any], where: str) -> Scheme | None:
    """How a folder's weights are quantized."""
    said = found.get("quantization_config")
    if said is None:
        return None
    method = said.get("quant_method") if isinstance(said, dict) else said
    if not isinstance(said, dict) or method != "gptq":
        raise UserError(
            f"weights quantized by {method!r}", where=where, expected="gptq, or weights as they were trained"
        )
    bits, group = said.get("bits"), said.get("group_size", 128)
    whole = isinstance(bits, int) and isinstance(group, int)
    if not whole or bits not in (4, 8) or (group != -1 and (group < 8 or group % 8)):
        raise UserError(f"GPTQ with bits = {bits!r}, group_size = {group!r}", where=where,
                        expected="4 or 8 bits, groups of a multiple of 8 columns or -1")  # fmt: skip
    if said.get("checkpoint_format", "gptq") != "gptq":
        raise UserError(f"checkpoint_format {said['checkpoint_format']!r}", where=where, expected="gptq")
    return Scheme(bits, group)


def settings_of(layers: Layers) -> dict[str, Any]:
    """What config.json says of quantized layers; nothing where there are none."""
    if not layers:
        return {}
    scheme = next(iter(layers.values())).scheme
    reordered = any(not layer.in_order for layer in layers.values())
    symmetric = all(layer.symmetric for layer in layers.values())
    said = {"quant_method": "gptq", "bits": scheme.bits, "group_size": scheme.group_size, "desc_act": reordered,
            "sym": symmetric, "true_sequential": True, "checkpoint_format": "gptq"}  # fmt: skip
    return {"quantization_config": said}


def layers_of(model: nn.Module) -> Layers:
    """The quantized layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def take(model: nn.Module, table: list[Weight], tensors: Tensors, scheme: Scheme, device: torch.device) -> list[Weight]:
    """Put the folder's quantized layers in place of the linear ones; the part of the table that is still to be read.
    Their tensors stay as they lie in the file: `tensors.shapes` forgets them."""
    quantized = {
        weight.theirs.removesuffix(".weight"): weight for weight in table if _qweight(weight) in tensors.shapes
    }
    done: set[str] = set()
    for stem, weight in quantized.items():
        names = [f"{stem}.{part}" for part in (*NAMES, "bias") if f"{stem}.{part}" in tensors.shapes]
        if absent := [f"{stem}.{part}" for part in NAMES if f"{stem}.{part}" not in names]:
            raise UserError(f"missing: {', '.join(absent)}", where=str(tensors.folder))
        held = {name.rpartition(".")[2]: tensors.read(name).to(device) for name in names}
        start = 0
        for name in weight.ours:
            module_name = name.removesuffix(".weight")
            old = model.get_submodule(module_name)
            assert isinstance(old, nn.Linear)
            _fits(held, old, sum(_rows(model, other) for other in weight.ours), scheme, f"{tensors.folder}, {stem}")
            layer = rows_of(held, scheme, slice(start, start + old.out_features), f"{tensors.folder}, {stem}")
            if old.bias is not None and layer.bias is None:
                layer.bias = torch.zeros(old.out_features, device=device)
            _replace(model, module_name, layer)
            done |= {f"{module_name}.weight", f"{module_name}.bias"}
            start += old.out_features
        for name in names:
            del tensors.shapes[name]
    return [weight for weight in table if not done & set(weight.ours)]


def give(table: list[Weight], layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """The folder's tensors of quantized layers, made one at a time. `table` is that of the weights as they were."""
    for weight in table:
        names = [name.removesuffix(".weight") for name in weight.ours]
        held = [layers[name] for name in names if name in layers and weight.theirs.endswith(".weight")]
        if not held:
            continue
        stem = weight.theirs.removesuffix(".weight")
        if len({tuple(layer.g_idx.tolist()) for layer in held}) > 1:
            raise UserError(
                f"{stem} cannot hold layers whose columns are grouped differently", where="the format to save in"
            )
        for part in ("qweight", "qzeros", "scales"):
            yield f"{stem}.{part}", torch.cat([getattr(layer, part).cpu() for layer in held], dim=1).contiguous()
        yield f"{stem}.g_idx", held[0].g_idx.cpu().contiguous()
        if any(layer.bias is not None for layer in held):
            zeros = [torch.zeros(layer.out_features) if layer.bias is None else layer.bias.cpu() for layer in held]
            yield f"{stem}.bias", torch.cat(zeros).contiguous()


def _qweight(weight: Weight) -> str:
    return f"{weight.theirs.removesuffix('.weight')}.qweight" if weight.theirs.endswith(".weight") else ""


def _rows(model: nn.Module, weight: str) -> int:
    module = model.get_submodule(weight.removesuffix(".weight"))
    return int(module.out_features)  # type: ignore[arg-type]


def _fits(held: dict[str, Tensor], old: nn.Linear, rows: int, scheme: Scheme, where: str) -> None:
    wanted = [old.in_features // scheme.per_word, rows]
    if list(held["qweight"].shape) != wanted or held["qweight"].dtype != torch.int32:
        raise UserError(f"qweight is {list(held['qweight'].shape)}, not {wanted}", where=where, expected="int32")


def _replace(model: nn.Module, name: str, layer: QuantizedLinear) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
