"""The mixtures of experts: Qwen1.5-MoE and Qwen2-57B-A14B (`qwen2_moe`), Qwen3-30B-A3B and larger (`qwen3_moe`).

On disk every expert has tensors of its own. A library that keeps them as blocks in memory may also write them so
(`mlp.experts.gate_up_proj`, `mlp.experts.down_proj`): both are read, the first is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from qwenkit.errors import UserError
from qwenkit.model.config import ModelConfig, MoEConfig
from qwenkit.model.formats.base import Format, TensorMapping, agree, flag, is_integer, unsupported
from qwenkit.model.formats.dense import KEYS, common, common_settings

_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                  "shared_expert_intermediate_size": 5632},
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}  # fmt: skip
_NAMES = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
          "router_aux_loss_coef")  # fmt: skip
_KEYS = KEYS | {*_NAMES, "num_local_experts", "mlp_only_layers"}
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")


def _read(config_json: dict[str, Any], family: str) -> ModelConfig:
    given = {name: config_json[name] for name in _NAMES if config_json.get(name) is not None}
    number = agree(config_json, ("num_experts", "num_local_experts"), "the number of experts")
    given |= {} if number is None else {"num_experts": number}
    values = {**_DEFAULTS[family], **given}
    if family == "qwen2_moe" and config_json.get("shared_expert_intermediate_size") is not None:
        values["shared_expert_intermediate_size"] = config_json["shared_expert_intermediate_size"]
    dense = config_json.get("mlp_only_layers") or []
    if not isinstance(dense, list) or len(dense) > 1024 or not all(is_integer(layer) for layer in dense):
        raise UserError(f"mlp_only_layers = {dense!r:.100}", expected="a list of layers")
    if "norm_topk_prob" in values:
        values["norm_topk_prob"] = flag(values, "norm_topk_prob")
    experts = MoEConfig(**values, mlp_only_layers=tuple(dense))
    biased = flag(config_json, "qkv_bias", True) if family == "qwen2_moe" else False
    return ModelConfig(**common(config_json, family), experts=experts, qkv_bias=biased, qk_norm=family == "qwen3_moe")


def _write(config: ModelConfig, family: str) -> dict[str, Any]:
    settings, experts = common_settings(config, family), config.experts
    assert experts is not None, "refused above"
    shared = experts.shared_expert_intermediate_size
    unsupported(family, {"a shared expert": family == "qwen3_moe" and shared is not None,
                        "a model without a shared expert": family == "qwen2_moe" and shared is None})  # fmt: skip
    own = {"qkv_bias": config.qkv_bias, "shared_expert_intermediate_size": shared}
    return {
        **settings,
        **{name: getattr(experts, name) for name in _NAMES},
        "mlp_only_layers": list(experts.mlp_only_layers),
        "output_router_logits": False,
        **(own if family == "qwen2_moe" else {"attention_bias": False}),
    }


def _map_names(param_names: Iterable[str], present: frozenset[str]) -> list[TensorMapping]:
    """Return the table of names: every expert by itself, or as blocks where the folder has blocks."""
    weights: dict[str, list[str]] = {}
    for name in param_names:
        expert = _EXPERT.fullmatch(name)
        block = f"{expert[1]}.{'down_proj' if expert[3] == 'down_proj' else 'gate_up_proj'}" if expert else name
        weights.setdefault(block if expert and block in present else name, []).append(name)
    return [TensorMapping(hf_name, tuple(names)) for hf_name, names in weights.items()]


QWEN2_MOE = Format("qwen2_moe", "Qwen2Moe", lambda config_json: _read(config_json, "qwen2_moe"),
                   lambda config: _write(config, "qwen2_moe"), _map_names,
                   _KEYS | {"qkv_bias", "shared_expert_intermediate_size"})  # fmt: skip
QWEN3_MOE = Format("qwen3_moe", "Qwen3Moe", lambda config_json: _read(config_json, "qwen3_moe"),
                   lambda config: _write(config, "qwen3_moe"), _map_names, _KEYS)  # fmt: skip
