"""Quantized layers in a model folder: which of its linear layers they replace, and how they are named (GPTQ).

    quant_config = read_quant_config(config_json, where)                     # None: not quantized
    rest = load_quantized(model, table, tensors, quant_config)     # puts the layers in; returns what is left
    for name, tensor in save_quantized(table, modules): ...              # the way back

A fused matrix of the first Qwen holds three layers side by side: columns of its `qweight` are rows of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError, listed
from qwenkit.model.formats import TensorMapping
from qwenkit.model.formats.base import is_integer
from qwenkit.model.quantized_linear import NAMES, QuantConfig, QuantizedLinear, rows_of
from qwenkit.model.weights import Tensors

_IMPLIED = frozenset((
    "bits group_size desc_act sym static_groups true_sequential damp_percent damp_auto_increment batch_size "
    "block_name_to_quantize cache_block_outputs dataset disable_exllama exllama_config max_input_length meta "
    "model_file_base_name model_name_or_path model_seqlen module_name_preceding_first_block "
    "modules_in_block_to_quantize pad_token_id tokenizer use_cuda_fp16 use_exllama backend version quantizer hyb_act "
    "mse act_group_aware offload_to_disk"
).split())  # fmt: skip
"""Settings that the tensors imply (order and zeros of the groups), or that say how they were made."""
_PLAIN: dict[str, tuple[Any, ...]] = {
    "quant_method": ("gptq",), "method": ("gptq",), "checkpoint_format": ("gptq",), "format": ("gptq",),
    "pack_dtype": ("int32",), "lm_head": (False,), "is_marlin_format": (False,), "modules_to_not_convert": ([],),
}  # fmt: skip
"""Values that describe what is read here."""
Layers = dict[str, QuantizedLinear]


def read_quant_config(config_json: dict[str, Any], where: str) -> QuantConfig | None:
    """Return how a folder's weights are quantized; None where they are not.

    Raises a `UserError` for settings with which the tensors would mean other numbers."""
    settings = config_json.get("quantization_config")
    if settings is None:
        return None
    method = _method(settings) if isinstance(settings, dict) else settings
    if not isinstance(settings, dict) or method != "gptq":
        raise UserError(
            f"quantization_config: weights quantized by {method!r:.80}",
            where=where,
            expected="gptq, or weights as they were trained",
        )
    bits, group = settings.get("bits"), settings.get("group_size", 128)
    whole = is_integer(bits) and is_integer(group)
    if not whole or bits not in (4, 8) or (group != -1 and (group < 8 or group % 8)):
        raise UserError(f"GPTQ with bits = {bits!r:.40}, group_size = {group!r:.40}", where=where,
                        expected="4 or 8 bits, groups of a multiple of 8 columns or -1")  # fmt: skip
    odd = [f"{key} = {value!r:.100}" for key, value in settings.items() if not _understood(key, value)]
    if odd:
        raise UserError(f"quantization_config: not supported here: {listed(odd)}", where=where,
                        expected="what the released GPTQ folders have")  # fmt: skip
    return QuantConfig(bits, group)


def merge_quant_configs(inside: Any, beside: dict[str, Any], where: str) -> Any:
    """Return the quantization settings of config.json, or else those of quantize_config.json; raises a `UserError`
    where the two differ."""
    if inside is None:
        return beside
    keys = ("quant_method", "bits", "group_size", "checkpoint_format")
    if isinstance(inside, dict) and (
        odd := [k for k in keys if None not in (a := inside.get(k), b := beside.get(k)) and a != b]
    ):
        raise UserError(
            f"quantization_config of config.json and quantize_config.json disagree on {', '.join(odd)}",
            where=where, expected="one of them, or the same in both",
        )  # fmt: skip
    return inside


def _method(settings: dict[str, Any]) -> Any:
    """Return the name of the method, or the keys of a program that writes none."""
    return settings.get("quant_method") or settings.get("method") or listed([str(key) for key in settings], 3)


def _understood(key: str, value: Any) -> bool:
    """Return whether a setting is implied by the tensors, only says how they were made, or has the value that is
    assumed anyway."""
    if value is None or key in _IMPLIED or key.startswith("_"):
        return True
    if key == "dynamic":  # layers that stay unquantized; others would have their own bits
        return isinstance(value, dict) and all(name.startswith("-:") for name in value)
    return key in _PLAIN and value in _PLAIN[key]


def write_quant_config(layers: Layers) -> dict[str, Any]:
    """Return the keys of config.json that describe quantized layers; an empty dict where there are none."""
    if not layers:
        return {}
    quant_config = next(iter(layers.values())).quant_config
    none = slice(0)  # asks what there is, and reads nothing
    if any(layer.quant_config != quant_config or layer.group_minimums(none) is not None for layer in layers.values()):
        raise UserError("a GPTQ folder cannot hold layers of several kinds, or with minimums",
                        where="the model to save",
                        hint='load the GGUF file with dtype="float32": it is dequantized then')  # fmt: skip
    reordered = any(not layer.in_order for layer in layers.values())
    symmetric = all(layer.symmetric for layer in layers.values())
    settings = {"quant_method": "gptq", "bits": quant_config.bits, "group_size": quant_config.group_size,
            "desc_act": reordered,
            "sym": symmetric, "true_sequential": True, "checkpoint_format": "gptq"}  # fmt: skip
    return {"quantization_config": settings}


def quantized_layers(model: nn.Module) -> Layers:
    """Return the quantized layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def load_quantized(
    model: nn.Module, table: list[TensorMapping], tensors: Tensors, quant_config: QuantConfig, device: torch.device
) -> list[TensorMapping]:
    """Replace linear layers by the folder's quantized ones; return the part of the table that is still to be read.

    Their tensors stay mapped from the file, and are removed from `tensors.shapes`."""
    quantized = {
        weight.hf_name.removesuffix(".weight"): weight for weight in table if _qweight(weight) in tensors.shapes
    }
    done: set[str] = set()
    for stem, weight in quantized.items():
        names = [f"{stem}.{part}" for part in (*NAMES, "bias") if f"{stem}.{part}" in tensors.shapes]
        if absent := [f"{stem}.{part}" for part in NAMES if f"{stem}.{part}" not in names]:
            raise UserError(f"missing: {', '.join(absent)}", where=str(tensors.folder))
        parts = {name.rpartition(".")[2]: tensors.read(name).to(device) for name in names}
        start = 0
        for name in weight.param_names:
            module_name = name.removesuffix(".weight")
            old = model.get_submodule(module_name)
            assert isinstance(old, nn.Linear)
            _fits(
                parts,
                old,
                sum(_rows(model, other) for other in weight.param_names),
                quant_config,
                f"{tensors.folder}, {stem}",
            )
            layer = rows_of(parts, quant_config, slice(start, start + old.out_features), f"{tensors.folder}, {stem}")
            if old.bias is not None and layer.bias is None:
                layer.bias = torch.zeros(old.out_features, device=device)
            _replace(model, module_name, layer)
            done |= {f"{module_name}.weight", f"{module_name}.bias"}
            start += old.out_features
        for name in names:
            del tensors.shapes[name]
    return [weight for weight in table if not done & set(weight.param_names)]


def save_quantized(table: list[TensorMapping], layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """Yield the folder's tensors of quantized layers, one at a time; `table` is that of the plain weights."""
    for weight in table:
        names = [name.removesuffix(".weight") for name in weight.param_names]
        modules = [layers[name] for name in names if name in layers and weight.hf_name.endswith(".weight")]
        if not modules:
            continue
        stem, words = weight.hf_name.removesuffix(".weight"), [layer.words() for layer in modules]
        if len({tuple(of["g_idx"].tolist()) for of in words}) > 1:
            raise UserError(
                f"{stem} cannot hold layers whose columns are grouped differently", where="the format to save in"
            )
        for part in ("qweight", "qzeros", "scales"):
            yield f"{stem}.{part}", torch.cat([of[part].cpu() for of in words], dim=1).contiguous()
        yield f"{stem}.g_idx", words[0]["g_idx"].cpu().contiguous()
        if any(layer.bias is not None for layer in modules):
            zeros = [torch.zeros(layer.out_features) if layer.bias is None else layer.bias.cpu() for layer in modules]
            yield f"{stem}.bias", torch.cat(zeros).contiguous()


def _qweight(weight: TensorMapping) -> str:
    return f"{weight.hf_name.removesuffix('.weight')}.qweight" if weight.hf_name.endswith(".weight") else ""


def _rows(model: nn.Module, weight: str) -> int:
    module = model.get_submodule(weight.removesuffix(".weight"))
    return int(module.out_features)  # type: ignore[arg-type]


def _fits(parts: dict[str, Tensor], old: nn.Linear, rows: int, quant_config: QuantConfig, where: str) -> None:
    wanted = [old.in_features // quant_config.per_word, rows]
    if list(parts["qweight"].shape) != wanted or parts["qweight"].dtype != torch.int32:
        raise UserError(f"qweight is {list(parts['qweight'].shape)}, not {wanted}", where=where, expected="int32")


def _replace(model: nn.Module, name: str, layer: QuantizedLinear) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
