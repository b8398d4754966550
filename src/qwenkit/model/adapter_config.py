"""`adapter_config.json`, both ways: peft's settings of an adapter as a `LoRAConfig`.

Every setting that would change what is computed is read, or refused by its name where it is not neutral; so is an
unknown one with a value. Which layers have an adapter the tensors say (`adapter_folder.py`), and not `target_modules`,
which is written for peft.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenkit.adapter_files import CONFIG, read_adapter_config
from qwenkit.errors import UserError, listed, within
from qwenkit.model.lora_config import LoRAConfig

_NO_EFFECT = frozenset(
    "arrow_config auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode "
    "layers_pattern layers_to_transform loftq_config lora_ga_config megatron_core peft_type peft_version "
    "qalora_group_size revision runtime_config target_modules task_type ephemeral_gpu_offload velora_config".split()
)
"""Settings that chose the layers or the first weights, say how it is computed, or do nothing where what they belong to
is off."""
_READ = frozenset(
    "r lora_alpha lora_dropout use_rslora use_dora modules_to_save rank_pattern alpha_pattern ensure_weight_tying "
    "init_lora_weights bias".split()
)
_STARTS = (True, False, "gaussian", "eva", "orthogonal", "loftq")
"""First weights that leave the model's own as they are. PiSSA, OLoRA, CorDA and LoRA-GA change those too."""


def read_config(folder: Path) -> LoRAConfig:
    """Return the settings of an adapter's folder; raises a `UserError` for those that are not supported."""
    settings, where = read_adapter_config(folder), str(folder / CONFIG)
    with within(where):
        refused = [f"{name} = {json.dumps(value)[:80]}" for name, value in settings.items()
                   if value and name not in _READ | _NO_EFFECT]  # fmt: skip
        if settings.get("bias", "none") != "none":
            refused.append(f"bias = {json.dumps(settings['bias'])[:80]}")
        if (start := settings.get("init_lora_weights", True)) not in _STARTS:
            refused.append(f"init_lora_weights = {json.dumps(start)[:80]}")
        if refused:
            raise UserError(f"not supported here: {listed(refused)}", expected="LoRA, rsLoRA or DoRA",
                            hint="merge it with the program that made it, and load the model")  # fmt: skip
        return _config(settings)


def _config(settings: Mapping[str, Any]) -> LoRAConfig:
    saved = settings.get("modules_to_save")
    patterns: dict[str, Any] = {name: settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    if odd := [name for name, value in patterns.items() if not isinstance(value, dict)]:
        raise UserError(f"{odd[0]} = {json.dumps(patterns[odd[0]])[:80]}", expected="a table of names and numbers")
    return LoRAConfig(
        rank=settings.get("r", 8), alpha=settings.get("lora_alpha", 8), dropout=settings.get("lora_dropout") or 0.0,
        rslora=settings.get("use_rslora", False), dora=settings.get("use_dora", False),
        modules_to_save=tuple(saved) if isinstance(saved, list) else (saved,) if saved else (),
        tied=bool(settings.get("ensure_weight_tying", False)), **patterns,
    )  # fmt: skip


def peft_config(
    config: LoRAConfig,
    targets: list[str],
    saved: list[str],
    *,
    scalar: bool,
    tied: bool,
    base: str | None,
    revision: str | None,
) -> dict[str, Any]:
    """Return the content of adapter_config.json.

    `targets` and `saved` are modules of the model in peft's names. `scalar`: the model scores. `tied`: a saved table is
    the head as well. `base` and `revision` name the model."""
    return {
        "peft_type": "LORA", "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM", "base_model_name_or_path": base,
        "revision": revision, "r": config.rank, "lora_alpha": _plain(config.alpha), "lora_dropout": config.dropout,
        "target_modules": targets, "modules_to_save": saved or None, "use_rslora": config.rslora,
        "use_dora": config.dora, "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": {name: _plain(alpha) for name, alpha in config.alpha_pattern.items()},
        **({"ensure_weight_tying": True} if tied else {}), "bias": "none", "fan_in_fan_out": False,
        "init_lora_weights": True, "inference_mode": True,
    }  # fmt: skip


def _plain(number: float) -> float:
    """Return an integer where a number is one: peft writes alpha so."""
    return int(number) if number == int(number) else number
