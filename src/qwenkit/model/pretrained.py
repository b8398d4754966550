"""Pretrained models on disk, in Hugging Face's format (config.json, *.safetensors, generation_config.json), or GGUF.

    model = load_model("runs/nano/base", dtype="float32", device="cpu")
    model = load_model("model.gguf")                        # `gguf_import.py`; written by `export.py`
    model = load_model("base", adapter="adapter")           # `adapter_folder.py`; an adapter alone finds its base
    save_model(model, "out")                                # in the format it came in: Qwen, Qwen2, Qwen3, ...
    save_model(model, "out", model_type="qwen2")            # or in another one that computes the same
    save_scalar(reward, "runs/nano/reward");  reward = load_scalar("runs/nano/reward")

A language model is a `...ForCausalLM` of its family (`formats/`), a reward or value model the same family's
`...ForSequenceClassification` with one label, whose head there is called `score`. Tensors are mapped and taken over one
by one, so loading needs little more memory than the model. Settings that would change what the model computes and that
are not supported are refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from qwenkit import platform
from qwenkit.adapter_files import base_of, described_at, is_adapter, read_adapter_config, refuse_no_adapter
from qwenkit.errors import UserError, nearest, notice, within
from qwenkit.gguf_file import is_gguf, read_gguf
from qwenkit.hub import resolve
from qwenkit.model.adapter_folder import put_on, read_adapter
from qwenkit.model.checkpoint_validation import as_rows, check, check_copy, find_trunk, refuse_impossible, trunk_of
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats import FORMATS, Format, TensorMapping, as_qwen2, format_for, format_of
from qwenkit.model.formats.keys import accepted
from qwenkit.model.gguf_import import load_gguf
from qwenkit.model.gguf_import import stored_dtype as gguf_dtype
from qwenkit.model.gptq_checkpoint import (
    Layers,
    load_quantized,
    merge_quant_configs,
    quantized_layers,
    read_quant_config,
    save_quantized,
    write_quant_config,
)
from qwenkit.model.init import without_weights
from qwenkit.model.lora import merge_adapter
from qwenkit.model.mapped import release
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.model.weights import SHARD_BYTES, Tensors, write_json, write_shards
from qwenkit.records import read_object

Model = TypeVar("Model", Transformer, ScalarModel)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SCORE = {"score_head.weight": "score.weight"}
_SCORES = "ForSequenceClassification"


# ---- reading --------------------------------------------------------------------------------------------------------


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    *,
    dropout: float = 0.0,
    accept_unknown: Iterable[str] = (),
    merged: bool = False,
) -> Transformer:
    """Load a language model, in eval mode, from a folder or a GGUF file.

    `dtype="auto"` is the folder's own, `device="auto"` the accelerator if there is one; the path may be a model of the
    Hub, `org/name`, at a `revision`. `adapter` is the folder of an adapter that goes on it; the folder of an adapter
    alone stands for its model with it. `merged` adds an adapter to the weights, so that the model is a plain one.
    `accept_unknown` names keys of config.json that are not known here and change nothing. Raises a `UserError` for a
    folder that does not hold exactly such a model, and for an adapter of another one."""
    path, adapter_folder = _with_base(resolve(path, revision), adapter)
    model = _load_plain(path, dtype, device, dropout, accept_unknown)
    if adapter_folder is None:
        return model
    model = put_on(model, read_adapter(adapter_folder, model))
    return merge_adapter(model) if merged else model


def _with_base(path: Path, adapter: str | Path | None) -> tuple[Path, Path | None]:
    """Return the folder of a model and that of its adapter, which the first may be: then its model is found, with a
    notice."""
    if not is_adapter(path) and adapter is not None:
        folder = resolve(adapter)
        refuse_no_adapter(folder)
        return path, folder
    if not is_adapter(path):
        return path, None
    if adapter is not None:
        raise UserError("an adapter on top of an adapter", where=str(path), expected="a model, and one adapter",
                        hint="merge the first one: qwenkit merge MODEL ADAPTER --out FOLDER")  # fmt: skip
    base = base_of(path)
    notice(f"an adapter: its model is {base}", str(path))
    return base, path


def _load_plain(
    path: Path, dtype: str | torch.dtype, device: str, dropout: float, accept_unknown: Iterable[str]
) -> Transformer:
    """Load a language model without an adapter from a folder or a GGUF file."""
    if is_gguf(path):
        file, place = read_gguf(path), torch.device(platform.pick_device(device))
        kind = gguf_dtype(file) if dtype == "auto" else _pick_dtype(dtype, {})
        return load_gguf(file, kind, place, dropout=dropout, accept_unknown=accept_unknown)
    config_json, config, form = _described(path, accept_unknown)
    if _architecture(config_json, form).endswith(_SCORES):
        raise UserError("this folder holds a model that scores, not one that writes", where=str(path),
                        expected="a language model")  # fmt: skip
    quant_config = read_quant_config(config_json, str(path / "config.json"))
    place = torch.device(platform.pick_device(device))
    with Tensors(path) as tensors:
        kind = _pick_dtype(dtype, config_json, tensors)
        if quant_config is not None and dtype == "auto" and place.type == "cpu" and kind == torch.float16:
            kind = torch.bfloat16  # what the kernels of a CPU want; float16 folders are made for GPUs
        model = _made(Transformer, replace(config, dropout=dropout), tensors, quant_config)
        return _fill(model, tensors, form, kind, place, quant_config)


def load_scalar(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    *,
    dropout: float = 0.0,
    accept_unknown: Iterable[str] = (),
    merged: bool = False,
) -> ScalarModel:
    """Load a reward or value model, as `load_model` loads a language model.

    Raises a `UserError` also for the folder of a language model, unless it is that of an adapter which has a head: the
    head would be random."""
    path, adapter = _with_base(resolve(path, revision), None)
    if adapter is None:
        return _load_plain_scalar(path, dtype, device, dropout, accept_unknown)
    if scores(path):
        model = _load_plain_scalar(path, dtype, device, dropout, accept_unknown)
    else:
        model = ScalarModel(_load_plain(path, dtype, device, dropout, accept_unknown))
    model = put_on(model, read_adapter(adapter, model))
    return merge_adapter(model) if merged else model


def scores(folder: Path) -> bool:
    """Return whether a folder, or the one of an adapter, holds a model that scores, not one that writes."""
    if is_adapter(folder):
        return read_adapter_config(folder).get("task_type") == "SEQ_CLS"
    if is_gguf(folder):
        return False
    config_json = read_config(folder)
    return _architecture(config_json, format_of(config_json, str(folder / "config.json"))).endswith(_SCORES)


def _load_plain_scalar(
    path: Path, dtype: str | torch.dtype, device: str, dropout: float, accept_unknown: Iterable[str]
) -> ScalarModel:
    """Load a model that scores, without an adapter."""
    if is_gguf(path):
        raise UserError("a GGUF file holds a language model, not one that scores", where=str(path))
    config_json, config, form = _described(path, accept_unknown)
    if not _architecture(config_json, form).endswith(_SCORES):
        raise UserError(
            "this folder holds a language model, not one that scores",
            where=str(path),
            expected="a reward or preference model",
            hint="a node of kind `reward` makes one",
        )
    if read_quant_config(config_json, str(path / "config.json")) is not None:
        raise UserError("quantization_config: a quantized model that scores is not supported", where=str(path),
                        expected="weights as they were trained")  # fmt: skip
    place = torch.device(platform.pick_device(device))
    with Tensors(path) as tensors:
        model = _made(lambda shape: ScalarModel(Transformer(shape)), replace(config, dropout=dropout), tensors)
        return _fill(model, tensors, form, _pick_dtype(dtype, config_json, tensors), place)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype in which the tensors of a folder or a GGUF file are stored; of an adapter, its model's."""
    folder = described_at(folder)
    if is_gguf(folder):
        return gguf_dtype(read_gguf(folder))
    config_json = read_config(folder)
    if _stored_dtype_name(config_json) is not None:
        return _pick_dtype("auto", config_json)
    with Tensors(folder) as tensors:
        return tensors.dtype()


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json; raises a `UserError` that says why there is none."""
    file = folder / "config.json"
    if not (file.exists() or file.is_symlink()):
        raise UserError(
            "no model here: config.json is missing",
            where=str(folder),
            expected="a folder with config.json and *.safetensors",
            hint="name the folder, not a file in it" if folder.is_file() else None,
        )
    config_json, older = read_object(file), folder / "quantize_config.json"
    if older.exists():  # where GPTQ's tools wrote it first
        beside = {"quant_method": "gptq", **read_object(older)}
        config_json["quantization_config"] = merge_quant_configs(
            config_json.get("quantization_config"), beside, str(folder)
        )
    return config_json


def model_config(folder: Path) -> ModelConfig:
    """Return the configuration that a folder describes; of an adapter, its model's."""
    return _described(described_at(folder), ())[1]


def _described(folder: Path, accept_unknown: Iterable[str]) -> tuple[dict[str, Any], ModelConfig, Format]:
    """Return config.json, the configuration that it describes, and the family's format."""
    config_json, where = read_config(folder), str(folder / "config.json")
    form = format_of(config_json, where)
    with within(where):
        config = form.config_of(config_json, accept_unknown)
        _refuse_architecture(config_json, form, accept_unknown)
    return config_json, config, form


def _architecture(config_json: dict[str, Any], form: Format) -> str:
    """Return the class that the folder names, or the family's language model where it names none."""
    named = config_json.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else form.head(False)


def _refuse_architecture(config_json: dict[str, Any], form: Format, accept_unknown: Iterable[str]) -> None:
    """Raise a `UserError` for a class of none of the families: it computes something else. Which family it is
    `model_type` says, as in transformers, and the tensors confirm it."""
    known = {
        name for each in FORMATS.values() for name in (each.head(False), each.head(True), f"{each.architecture}Model")
    }
    if (name := _architecture(config_json, form)) not in known and "architectures" not in accepted(accept_unknown):
        raise UserError(f"architectures {name!r:.100} is not supported for model_type {form.model_type!r}",
                        expected=f"{form.head(False)}, or {form.head(True)} for a model that scores",
                        hint='accept_unknown = ["architectures"] where it computes the same')  # fmt: skip


def _made(
    make: Callable[[ModelConfig], Model], config: ModelConfig, tensors: Tensors, quant_config: QuantConfig | None = None
) -> Model:
    """Return a model on the meta device, after a check that the weights are enough for it."""
    refuse_impossible(config, tensors, packed=quant_config is not None)
    with without_weights():
        return make(config)


def _fill(
    model: Model,
    tensors: Tensors,
    form: Format,
    dtype: torch.dtype,
    device: torch.device,
    quant_config: QuantConfig | None = None,
) -> Model:
    """Load the folder's tensors into a model on the meta device; every mismatch is named before one is read."""
    wanted = model.state_dict()
    find_trunk(tensors, trunk_of(form))
    weights = _table(form, wanted, frozenset(tensors.shapes))
    if quant_config is not None:
        weights = load_quantized(model, weights, tensors, quant_config, device)
    check(weights, wanted, tensors, form)
    if isinstance(model, Transformer) and model.config.tie_word_embeddings:
        check_copy(tensors)
    state: dict[str, Tensor] = {}
    for weight in weights:
        rows, stored = [wanted[name].shape[0] for name in weight.param_names], tensors.read(weight.hf_name)
        for name, part in zip(weight.param_names, as_rows(stored).split(rows)):
            state[name] = part.to(device=device, dtype=dtype)
        if stored.dtype != dtype or stored.device != device:  # else it stays where it is, mapped
            release(stored)
    model.load_state_dict(state, assign=True, strict=False)  # quantized layers are in already
    return model.requires_grad_(True).eval()


def _table(form: Format, wanted: dict[str, Tensor], present: frozenset[str]) -> list[TensorMapping]:
    """Return the format's table of tensors; the head of a scalar model is called `score` there."""
    table = form.map_names([name for name in wanted if name not in _SCORE], present)
    return [*table, *(TensorMapping(hf_name, (name,)) for name, hf_name in _SCORE.items() if name in wanted)]


# ---- writing --------------------------------------------------------------------------------------------------------


def save_model(
    model: Transformer, folder: str | Path, shard_bytes: int = SHARD_BYTES, model_type: str | None = None
) -> None:
    """Write a language model; the folder is created when it is missing.

    `model_type` is the format (None: the one it came in). Raises a `UserError` for one that cannot express it."""
    _save(model, model.config, Path(folder), format_for(model.config, model_type), shard_bytes)


def save_scalar(model: ScalarModel, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a reward or value model. The first Qwen has no class for it: its trunk is written as Qwen2's."""
    config, form = model.config, format_for(model.config)
    if not form.scalar:
        config, _ = as_qwen2(config)
        form = format_for(config)
    _save(model, config, Path(folder), form, shard_bytes)


def _save(model: Transformer | ScalarModel, config: ModelConfig, folder: Path, form: Format, shard_bytes: int) -> None:
    if model.adapter is not None:
        raise UserError("the model has an adapter, and a folder of weights has no place for it", where=str(folder),
                        expected="a plain model", hint="merge_adapter(model) first, or save_adapter")  # fmt: skip
    state = model.state_dict()
    dtype = state["model.embed_tokens.weight"].dtype
    layers = quantized_layers(model)
    settings = {**_head_settings(model, config, form, dtype), **form.write_config(config), **write_quant_config(layers)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)
    if isinstance(model, Transformer):
        tokens = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}  # a tuple is a list there
        write_json(folder / "generation_config.json", {name: id for name, id in tokens.items() if id is not None})
    write_shards(_named_tensors(form, state, layers), folder, shard_bytes)


def _named_tensors(form: Format, state: dict[str, Tensor], layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a model by the names that they have in the folder."""
    inside = tuple(f"{name}." for name in layers)
    plain = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    yield from _stacks(_table(form, plain, frozenset()), plain)
    yield from save_quantized(form.map_names([f"{name}.weight" for name in layers], frozenset()), layers)


def _stacks(weights: list[TensorMapping], state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the folder's tensors, made one at a time."""
    for weight in weights:
        parts = [state[name].detach().cpu() for name in weight.param_names]
        yield weight.hf_name, (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


def _head_settings(
    model: Transformer | ScalarModel, config: ModelConfig, form: Format, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the keys of config.json that all families have."""
    scalar = isinstance(model, ScalarModel)
    labels = {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    return {
        "architectures": [form.head(scalar)],
        "model_type": form.model_type,
        "pad_token_id": config.bos_token_id,  # <|endoftext|>, as Qwen pads; sequence classification needs it
        "torch_dtype": str(dtype).removeprefix("torch."),
        **(labels if scalar else {}),
    }


# ---- where and in which precision -----------------------------------------------------------------------------------


def _pick_dtype(dtype: str | torch.dtype, config_json: dict[str, Any], tensors: Tensors | None = None) -> torch.dtype:
    """Return the dtype asked for; with `auto` that of config.json, or of the weights where it names none."""
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype
    if dtype == "auto":
        stored = _stored_dtype_name(config_json)
        if stored is None and tensors is not None:
            return tensors.dtype()
        name = stored.removeprefix("torch.") if isinstance(stored, str) else stored
    if not isinstance(name, str) or name not in _DTYPES:
        raise UserError(
            f"unknown dtype {name!r:.80}", expected=", ".join(["auto", *_DTYPES]), nearest=nearest(str(name), _DTYPES)
        )
    return _DTYPES[name]


def _stored_dtype_name(config_json: dict[str, Any]) -> Any:
    """Return the dtype in config.json: `dtype` before `torch_dtype`, or the first Qwen's flags."""
    names = [config_json[key] for key in ("dtype", "torch_dtype") if config_json.get(key) not in (None, "auto")]
    if len(names) == 2 and names[0] != names[1]:
        notice(f"dtype = {names[0]!r:.80} goes before torch_dtype = {names[1]!r:.80}", "config.json")
    flags = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    return names[0] if names else next((name for flag, name in flags.items() if config_json.get(flag) is True), None)
