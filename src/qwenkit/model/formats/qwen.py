"""The first Qwen (1.8B, 7B, 14B, 72B and what was trained from them): `QWenLMHeadModel`.

Its gotchas, all in this file: Q, K and V are one matrix; `w2` is the gate and `w1` the other half of SwiGLU;
`intermediate_size` is twice the true width; dynamic NTK and LogN are flags that act from `seq_length` on. Layer windows
were described in the report and never released: the key `windows` (a list, one entry a layer, null for none) is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from qwenkit.errors import UserError
from qwenkit.model.config import ContextExtension, ModelConfig
from qwenkit.model.formats.base import Format, TensorMapping, flag, is_integer, pick, refuse, unsupported

NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "kv_channels": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "max_position_embeddings": "max_position_embeddings",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
}
_KEYS = frozenset((*NAMES, *(
    "bf16 fp16 fp32 intermediate_size no_bias rotary_pct scale_attn_weights seq_length softmax_in_fp32 "
    "use_cache_kernel use_cache_quantization use_dynamic_ntk use_flash_attn use_logn_attn windows"
).split()))  # fmt: skip
"""Of these `softmax_in_fp32`, `use_cache_kernel` and `use_flash_attn` choose how it is computed, not what."""
TOP = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "lm_head.weight": "lm_head.weight",
}
LAYER = {
    "input_layernorm.weight": "ln_1.weight",
    "self_attn.q_proj.weight": "attn.c_attn.weight",
    "self_attn.k_proj.weight": "attn.c_attn.weight",
    "self_attn.v_proj.weight": "attn.c_attn.weight",
    "self_attn.q_proj.bias": "attn.c_attn.bias",
    "self_attn.k_proj.bias": "attn.c_attn.bias",
    "self_attn.v_proj.bias": "attn.c_attn.bias",
    "self_attn.o_proj.weight": "attn.c_proj.weight",
    "post_attention_layernorm.weight": "ln_2.weight",
    "mlp.up_proj.weight": "mlp.w1.weight",
    "mlp.gate_proj.weight": "mlp.w2.weight",
    "mlp.down_proj.weight": "mlp.c_proj.weight",
}


def _read(config_json: dict[str, Any]) -> ModelConfig:
    values = pick(config_json, NAMES, ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"))
    for name in ("intermediate_size", "seq_length"):
        if not is_integer(config_json.get(name)):
            raise UserError(f"{name} = {config_json.get(name)!r}", expected="an integer")
    heads, width = values["num_attention_heads"], values.get("head_dim")
    total_width = heads * width if is_integer(heads) and is_integer(width) else None  # another kind is refused below
    refuse(
        config_json,
        {
            f"rotary_pct {config_json.get('rotary_pct')}": config_json.get("rotary_pct", 1.0) != 1.0,
            "no_bias = false": config_json.get("no_bias") is False,
            "scale_attn_weights = false": config_json.get("scale_attn_weights") is False,
            "kv_channels x num_attention_heads other than hidden_size": total_width
            not in (None, values["hidden_size"]),
            "an odd intermediate_size": config_json["intermediate_size"] % 2 == 1,
        },
    )
    extension = ContextExtension(
        seq_length=config_json["seq_length"],
        dynamic_ntk=flag(config_json, "use_dynamic_ntk"),
        logn=flag(config_json, "use_logn_attn"),
    )
    return ModelConfig(
        **{"max_position_embeddings": 8192, **values},
        intermediate_size=config_json["intermediate_size"] // 2,
        extension=extension,
        windows=_windows(config_json.get("windows")),
        int8_cache=flag(config_json, "use_cache_quantization"),
        model_type="qwen",
    )


def _windows(windows: Any) -> tuple[int | None, ...] | None:
    if windows is not None and not isinstance(windows, list):
        raise UserError(f"windows = {windows!r}", expected="a list, one entry for each layer, null for no window")
    return None if windows is None else tuple(windows)


def _write(config: ModelConfig) -> dict[str, Any]:
    unsupported(
        "qwen",
        {
            "grouped queries": config.kv_heads != config.num_attention_heads,
            "heads that are not hidden_size wide together": config.head_size * config.num_attention_heads
            != config.hidden_size,
            "a model without biases on Q, K and V": not config.qkv_bias,
            "norms of queries and keys": config.qk_norm,
            "experts": config.experts is not None,
            "YaRN": config.yarn is not None,
            "tied embeddings": config.tie_word_embeddings,
        },
    )
    extension = config.extension or ContextExtension(seq_length=config.max_position_embeddings)
    return {
        **{key: getattr(config, field) for key, field in NAMES.items()},
        "intermediate_size": 2 * config.intermediate_size,
        "seq_length": extension.seq_length,
        "use_dynamic_ntk": extension.dynamic_ntk,
        "use_logn_attn": extension.logn,
        "use_cache_quantization": config.int8_cache,
        **({} if config.windows is None else {"windows": list(config.windows)}),
        "rotary_pct": 1.0,
        "no_bias": True,
        "scale_attn_weights": True,
        "attn_dropout_prob": 0.0,
        "emb_dropout_prob": 0.0,
        "use_cache": True,
        "use_flash_attn": "auto",
        "tokenizer_class": "QWenTokenizer",
    }


def _map_names(param_names: Iterable[str], present: frozenset[str]) -> list[TensorMapping]:
    weights: dict[str, list[str]] = {}
    for name in param_names:
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        hf_name = f"transformer.h.{layer[1]}.{LAYER[layer[2]]}" if layer else TOP[name]
        weights.setdefault(hf_name, []).append(name)
    return [TensorMapping(hf_name, tuple(names)) for hf_name, names in weights.items()]


QWEN = Format("qwen", "QWen", _read, _write, _map_names, _KEYS,
              (".attn.masked_bias", ".attn.bias", ".rotary_emb.inv_freq"))  # fmt: skip
