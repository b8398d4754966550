"""Folder formats: how each family spells its configuration and its tensors, in both directions.

    form = format_of(config_json, where)             # by `model_type`
    config = form.read_config(config_json);   form.write_config(config)
    for mapping in form.map_names(param_names, present): ...

| model_type             | families                                          | here        |
| ---------------------- | ------------------------------------------------- | ----------- |
| qwen                   | Qwen 1.8B, 7B, 14B, 72B, their Chat, Code, Math   | `qwen.py`   |
| qwen2, qwen3, llama    | Qwen1.5, 2, 2.5, 3; CodeQwen1.5                   | `dense.py`  |
| qwen2_moe, qwen3_moe   | Qwen1.5-MoE, Qwen2-57B-A14B; Qwen3-30B-A3B and up | `sparse.py` |

A format is a table of names. Every setting of a folder that would change what is computed is either supported or
refused by name; an unknown key is refused too, until the user accepts it (`keys.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qwenkit.errors import UserError, nearest
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats.base import Format, TensorMapping
from qwenkit.model.formats.dense import LLAMA, QWEN2, QWEN3
from qwenkit.model.formats.qwen import QWEN
from qwenkit.model.formats.sparse import QWEN2_MOE, QWEN3_MOE

FORMATS: dict[str, Format] = {form.model_type: form for form in (QWEN, QWEN2, QWEN3, LLAMA, QWEN2_MOE, QWEN3_MOE)}

__all__ = ["FORMATS", "Format", "TensorMapping", "as_qwen2", "format_for", "format_of"]


def format_of(config_json: dict[str, Any], where: str | None = None) -> Format:
    """Return the format of a `config.json`, by its `model_type`."""
    name = config_json.get("model_type")
    if not isinstance(name, str) or name not in FORMATS:
        raise UserError(
            f"model_type {name!r} is not supported",
            where=where,
            expected=", ".join(FORMATS),
            nearest=nearest(str(name), FORMATS),
        )
    return FORMATS[name]


def format_for(config: ModelConfig, model_type: str | None = None) -> Format:
    """Return the format to save in: the one asked for, else the one that the model came from, else the simplest."""
    name = model_type or config.model_type or simplest_format(config)
    return format_of({"model_type": name}, where="the format to save in")


def simplest_format(config: ModelConfig) -> str:
    """Return the name of the simplest format that can express this model."""
    if config.extension is not None:
        return "qwen"
    if config.experts is not None:
        return "qwen3_moe" if config.qk_norm else "qwen2_moe"
    if config.qk_norm:
        return "qwen3"
    return "qwen2" if config.qkv_bias else "llama"


def as_qwen2(config: ModelConfig) -> tuple[ModelConfig, str | None]:
    """Return the `qwen2` configuration that computes the same, and why it holds only up to some length, if so.

    A first Qwen's dynamic NTK and LogN cannot be expressed in that format, and do nothing up to `seq_length`: so
    `max_position_embeddings` is set to that. Windows are handled alike.
    """
    limits, reasons = [config.max_position_embeddings], []
    if config.extension is not None and (config.extension.dynamic_ntk or config.extension.logn):
        limits.append(config.extension.seq_length)
        reasons.append(f"dynamic NTK and LogN act beyond {config.extension.seq_length} tokens")
    sizes = {size for size in config.windows or () if size is not None}
    if len(sizes) > 1:
        limits.append(min(sizes))
        reasons.append(f"layer windows of several sizes act beyond {min(sizes)} tokens")
    length = min(limits)
    windows = config.windows if len(sizes) == 1 and min(sizes) < length else None
    plain = replace(config, extension=None, windows=windows, max_position_embeddings=length, model_type="qwen2")
    return plain, f"equal up to {length} tokens only: {'; '.join(reasons)}" if reasons else None
