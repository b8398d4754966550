"""A model as a Hugging Face folder: config.json, *.safetensors, generation_config.json.

    save_model(model, "runs/nano/base")                     # opens in transformers and vLLM without remote code
    model = load_model("runs/nano/base", dtype="float32", device="cpu")
    save_scalar(reward, "runs/nano/reward");  reward = load_scalar("runs/nano/reward")

A language model is a `Qwen2ForCausalLM` (without biases on Q, K, V a `LlamaForCausalLM`, which is the same network);
a reward or value model is the same family's `...ForSequenceClassification` with one label, whose head there is called
`score`. Settings that would change what the model computes and that are not supported are refused, not ignored.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwenkit.errors import UserError, nearest
from qwenkit.model.config import ModelConfig
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.records import as_path

Model = TypeVar("Model", Transformer, ScalarModel)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HEADS: dict[str, str] = {"score_head.weight": "score.weight"}
_SHARD_BYTES = 5 * 10**9


def save_model(model: Transformer, folder: str | Path, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write a language model; the folder is made when it is missing."""
    _save(model, Path(folder), "ForCausalLM", shard_bytes)


def save_scalar(model: ScalarModel, folder: str | Path, shard_bytes: int = _SHARD_BYTES) -> None:
    """Write a reward or value model."""
    _save(model, Path(folder), "ForSequenceClassification", shard_bytes)


def load_model(
    path: str | Path, dtype: str | torch.dtype = "auto", device: str = "auto", dropout: float = 0.0
) -> Transformer:
    """Read a language model. `dtype="auto"` is the folder's own, `device="auto"` the accelerator if there is one."""
    path = as_path(path, expected="a model's folder")
    found = _read_config(path)
    with torch.device("meta"):
        model = Transformer(replace(config_from_dict(found, where=_config_file(path)), dropout=dropout))
    return _fill(model, path, _pick_dtype(dtype, found), _pick_device(device))


def load_scalar(
    path: str | Path, dtype: str | torch.dtype = "auto", device: str = "auto", dropout: float = 0.0
) -> ScalarModel:
    """Read a reward or value model. A language model's folder is refused: its head would be random."""
    path = as_path(path, expected="a model's folder")
    found = _read_config(path)
    if not str((found.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        raise UserError(
            "this folder holds a language model, not one that scores",
            where=str(path),
            expected="a reward or preference model",
            mend="a node of kind `reward` makes one",
        )
    with torch.device("meta"):
        config = replace(config_from_dict(found, where=_config_file(path)), dropout=dropout)
        model = ScalarModel(Transformer(config))
    return _fill(model, path, _pick_dtype(dtype, found), _pick_device(device))


# ---- config.json ----------------------------------------------------------------------------------------------------

_SAME_NAME = (
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


def config_to_dict(config: ModelConfig, architecture: str, dtype: torch.dtype) -> dict[str, Any]:
    """What `config.json` says of a model."""
    family = "Qwen2" if config.qkv_bias else "Llama"
    labels = {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    return {
        "architectures": [family + architecture],
        "model_type": family.lower(),
        **{name: getattr(config, name) for name in _SAME_NAME},
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "pad_token_id": config.bos_token_id,  # <|endoftext|>, as Qwen pads; sequence classification needs it
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        **({"use_sliding_window": False} if config.qkv_bias else {"attention_bias": False, "mlp_bias": False}),
        **(labels if architecture == "ForSequenceClassification" else {}),
    }


def config_from_dict(found: dict[str, Any], where: str | None = None) -> ModelConfig:
    """The model that `config.json` describes; what we would compute differently is refused."""
    family = found.get("model_type")
    if family not in ("qwen2", "llama"):
        raise UserError(f"model_type {family!r} is not supported", where=where, expected="qwen2 or llama")
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    _refuse_unsupported(found, rope, family, where)
    values = {name: found[name] for name in _SAME_NAME if found.get(name) is not None}
    values["rope_theta"] = float(rope.get("rope_theta") or found.get("rope_theta") or 10000.0)
    if isinstance(values.get("eos_token_id"), list):
        values["eos_token_id"] = values["eos_token_id"][0]
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"missing: {', '.join(missing)}", where=where, nearest=nearest(missing[0], found))
    return ModelConfig(qkv_bias=family == "qwen2", **values)


def _refuse_unsupported(found: dict[str, Any], rope: dict[str, Any], family: str, where: str | None) -> None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    wrong = {
        f"rope type {kind!r}": kind != "default",
        "use_sliding_window": bool(found.get("use_sliding_window")),
        f"hidden_act {found.get('hidden_act')!r}": found.get("hidden_act", "silu") != "silu",
        "attention_bias": family == "llama" and bool(found.get("attention_bias")),
        "mlp_bias": bool(found.get("mlp_bias")),
        "quantization_config": found.get("quantization_config") is not None,
    }
    if asked := [name for name, asks in wrong.items() if asks]:
        raise UserError(
            f"not supported: {', '.join(asked)}",
            where=where,
            expected="plain rotary positions, full attention, silu, unquantized weights",
        )


def _config_file(folder: Path) -> str:
    return str(folder / "config.json")


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "no model here: config.json is missing",
            where=str(folder),
            expected="a folder with config.json and *.safetensors",
        ) from None
    except ValueError as broken:
        raise UserError(f"not valid JSON: {broken}", where=str(file)) from None
    if not isinstance(found, dict):
        raise UserError("not a JSON object", where=str(file))
    return found


# ---- tensors --------------------------------------------------------------------------------------------------------


def _save(model: Transformer | ScalarModel, folder: Path, architecture: str, shard_bytes: int) -> None:
    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _HEADS.get(name, name): tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()
    }
    dtype = next(iter(tensors.values())).dtype
    _write_json(folder / "config.json", config_to_dict(config, architecture, dtype))
    if architecture == "ForCausalLM":
        tokens = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
        _write_json(folder / "generation_config.json", {name: id for name, id in tokens.items() if id is not None})
    _write_shards(tensors, folder, shard_bytes)


def _write_shards(tensors: dict[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """One file while it fits, otherwise numbered shards and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        save_file(shard, folder / name, metadata={"format": "pt"})
    where = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _fill(model: Model, folder: Path, dtype: torch.dtype, device: torch.device) -> Model:
    """Put the folder's tensors into a model on the meta device; every mismatch is named at once."""
    wanted = {_HEADS.get(name, name): (name, tensor.shape) for name, tensor in model.state_dict().items()}
    found = _read_tensors(folder)
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    problems = _mismatches({name: shape for name, (_, shape) in wanted.items()}, found)
    if problems:
        raise UserError("the tensors do not fit config.json: " + "; ".join(problems), where=str(folder))
    state = {own: found[name].to(device=device, dtype=dtype) for name, (own, _) in wanted.items()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval()


def _mismatches(wanted: dict[str, torch.Size], found: dict[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshaped = [
        f"{name} is {list(found[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshaped))
    return [f"{kind}: {', '.join(names)}" for kind, names in groups if names]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        files = [folder / "model.safetensors"]
    if absent := [file.name for file in files if not file.exists()]:
        raise UserError(f"weights are missing: {', '.join(absent)}", where=str(folder), expected="*.safetensors")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as shard:
                tensors.update({name: shard.get_tensor(name) for name in shard.keys()})  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise UserError("the weights are damaged", where=str(file), mend="fetch or make them again") from error
    return tensors


def _pick_dtype(dtype: str | torch.dtype, found: dict[str, Any]) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    name = found.get("dtype") or found.get("torch_dtype") or "float32" if dtype == "auto" else dtype
    if not isinstance(name, str) or name not in _DTYPES:
        raise UserError(
            f"unknown dtype {name!r}", expected=", ".join(["auto", *_DTYPES]), nearest=nearest(str(name), _DTYPES)
        )
    return _DTYPES[name]


def _pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError):
        raise UserError(
            f"no device {device!r} on this machine", expected="auto, cpu, or cuda where there is one"
        ) from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
