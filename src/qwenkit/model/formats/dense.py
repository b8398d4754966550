"""Qwen1.5, Qwen2, Qwen2.5 (`qwen2`), Qwen3 (`qwen3`), the bias-free `llama`.

Their tensors have the names of the parameters, so only settings differ.

Two spellings of the rotation are read (`rope_settings.py`); the older one is written, because every engine reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwenkit.errors import UserError
from qwenkit.model.config import LARGEST, ModelConfig, Yarn
from qwenkit.model.formats.base import Format, flag, is_integer, pick, refuse, same_names, unsupported
from qwenkit.model.formats.rope_settings import ROPE_KEYS, rotation

NAMES = {
    name: name
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
    )
}
NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
KEYS = ROPE_KEYS | {*NAMES, *(
    "attention_bias hidden_act layer_types max_window_layers mlp_bias pretraining_tp seq_length sliding_window "
    "use_sliding_window"
).split()}  # fmt: skip
"""Keys of every later family. CodeQwen1.5 has `seq_length`, which equals `max_position_embeddings`."""
_YARN = ("factor", "beta_fast", "beta_slow", "attention_factor", "truncate")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    "llama": {},
    "qwen2_moe": {"num_key_value_heads": 16, "max_position_embeddings": 32768},
    "qwen3_moe": {"num_key_value_heads": 4, "max_position_embeddings": 32768},
}
"""The value of a key that a folder leaves out, where it is not our own default (from transformers' classes)."""


def common(config_json: dict[str, Any], family: str) -> dict[str, Any]:
    """Return the fields of `ModelConfig` that all later families spell alike."""
    silent = {name: value for name, value in _DEFAULTS[family].items() if name not in config_json}
    values = {**silent, **pick(config_json, NAMES, NEEDED)}
    rope, theta = rotation(config_json)
    values["rope_theta"] = _number(theta, "rope_theta", 10000.0)
    values["yarn"] = _yarn(rope, values.get("max_position_embeddings", 2048))
    values["windows"] = windows(config_json, family, values["num_hidden_layers"])
    values["model_type"] = family
    refuse(
        config_json,
        {
            f"hidden_act {config_json.get('hidden_act')!r}": config_json.get("hidden_act", "silu")
            not in ("silu", "swish", None),
            "mlp_bias": bool(config_json.get("mlp_bias")),
            "attention_bias": family != "qwen2" and bool(config_json.get("attention_bias")),
            "pretraining_tp other than 1": config_json.get("pretraining_tp") not in (None, 1),
        },
    )
    return values


def _number(value: Any, name: str, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} = {value!r} is not a number")
    return float(value) if abs(value) < 2**1000 else value  # what is beyond is refused with the other values


def _yarn(rope: Mapping[str, Any], positions: int) -> Yarn | None:
    if rope.get("rope_type") != "yarn":
        return None
    refuse(rope, {name: rope.get(name) is not None for name in ("mscale", "mscale_all_dim")})
    original = rope.get("original_max_position_embeddings") or positions
    given = {name: rope[name] for name in _YARN if rope.get(name) is not None}
    if "factor" not in given:
        if not all(is_integer(length) and 0 < length <= 2**31 for length in (positions, original)):
            raise UserError(f"original_max_position_embeddings = {original!r}", expected="a number of tokens")
        given["factor"] = positions / original
    return Yarn(original_max_position_embeddings=original, **given)


def windows(config_json: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...] | None:
    """Return the window of each layer in tokens. Families differ in which layers have one; where `layer_types` is read,
    it names them."""
    if not is_integer(layers) or layers > LARGEST["num_hidden_layers"]:
        return None  # refused with the other values
    size = (
        config_json.get("sliding_window", 4096) if flag(config_json, "use_sliding_window") else None
    )  # as transformers' classes
    if size is not None and family == "llama":
        raise UserError("use_sliding_window = true in a llama, which has no windows", expected="false")
    narrow = [False] * layers if size is None else _narrow(config_json, family, layers)
    if (kinds := _layer_kinds(config_json, layers)) is not None:
        if size is not None and family in ("qwen2", "qwen3", "qwen2_moe"):
            narrow = kinds
        elif kinds != narrow:
            raise UserError("layer_types and use_sliding_window disagree on which layers have windows",
                            expected="a list of layers as the other settings have them")  # fmt: skip
    return tuple(size if is_narrow else None for is_narrow in narrow) if any(narrow) else None


def _narrow(config_json: Mapping[str, Any], family: str, layers: int) -> list[bool]:
    """Return which layers have a window where `layer_types` is missing."""
    below = config_json.get("max_window_layers", 28)
    if not is_integer(below):
        raise UserError(f"max_window_layers = {below!r}", expected="an integer")
    if family == "qwen2_moe":
        return [layer % 2 == 0 and layer < below for layer in range(layers)]
    return [family == "qwen3_moe" or layer >= below for layer in range(layers)]


def _layer_kinds(config_json: Mapping[str, Any], layers: int) -> list[bool] | None:
    """Return which layers have a window by `layer_types`; raises a `UserError` for unknown kinds of attention."""
    kinds = config_json.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UserError(f"layer_types does not name {layers} layers")
    if odd := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
        raise UserError(f"not supported here: layer_types with {odd[0]!r:.80}",
                        expected="full_attention or sliding_attention")  # fmt: skip
    return [kind == "sliding_attention" for kind in kinds]


def common_settings(config: ModelConfig, family: str) -> dict[str, Any]:
    """Return the keys of config.json that all later families have alike."""
    sizes = {size for size in config.windows or () if size is not None}
    unsupported(
        family,
        {
            "dynamic NTK": config.extension is not None and config.extension.dynamic_ntk,
            "LogN": config.extension is not None and config.extension.logn,
            "windows of several sizes": len(sizes) > 1,
            "windows in some layers": bool(sizes) and family == "qwen3_moe" and None in (config.windows or ()),
            "windows": bool(sizes) and family == "llama",
            **_unlike(
                "biases on Q, K and V", config.qkv_bias or family == "qwen2_moe", family in ("qwen2", "qwen2_moe")
            ),
            **_unlike("norms of queries and keys", config.qk_norm, family in ("qwen3", "qwen3_moe")),
            **_unlike("experts", config.experts is not None, family.endswith("_moe")),
        },
    )
    return {
        **{name: getattr(config, name) for name in NAMES},
        "rope_theta": config.rope_theta,
        **_rope_settings(config.yarn),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        **_window_settings(config, family),
    }


def _unlike(part: str, has: bool, wanted: bool) -> dict[str, bool]:
    """Return a part that a family always has, or never, and whether this model differs."""
    return {part if has else f"a model without {part}": has != wanted}


def _rope_settings(yarn: Yarn | None) -> dict[str, Any]:
    if yarn is None:
        return {}
    settings = {name: getattr(yarn, name) for name in _YARN if getattr(yarn, name) is not None}
    original = yarn.original_max_position_embeddings
    return {"rope_scaling": {"rope_type": "yarn", **settings, "original_max_position_embeddings": original}}


def _window_settings(config: ModelConfig, family: str) -> dict[str, Any]:
    if family == "llama":
        return {}
    if config.windows is None:
        return {"use_sliding_window": False}
    kinds = ["full_attention" if size is None else "sliding_attention" for size in config.windows]
    first = next((layer for layer, size in enumerate(config.windows) if size is not None), len(kinds))
    size = next(size for size in config.windows if size is not None)
    return {"use_sliding_window": True, "sliding_window": size, "max_window_layers": first, "layer_types": kinds}


def _reader(family: str, **fixed: Any) -> Callable[[dict[str, Any]], ModelConfig]:
    return lambda config_json: ModelConfig(**common(config_json, family), **fixed)


def _writer(family: str, **fixed: bool) -> Callable[[ModelConfig], dict[str, Any]]:
    return lambda config: {**common_settings(config, family), **fixed}


QWEN2 = Format("qwen2", "Qwen2", _reader("qwen2"), _writer("qwen2"), same_names, KEYS, (".rotary_emb.inv_freq",))
QWEN3 = Format(
    "qwen3",
    "Qwen3",
    _reader("qwen3", qkv_bias=False, qk_norm=True),
    _writer("qwen3", attention_bias=False),
    same_names,
    KEYS,
)
LLAMA = Format(
    "llama",
    "Llama",
    _reader("llama", qkv_bias=False),
    _writer("llama", attention_bias=False, mlp_bias=False),
    same_names,
    KEYS,
    (".rotary_emb.inv_freq",),
)
