"""A model as a folder: config.json, *.safetensors, generation_config.json.

    model = load_model("runs/nano/base", dtype="float32", device="cpu")
    save_model(model, "out")                                # in the form it came in: Qwen, Qwen2, Qwen3, ...
    save_model(model, "out", model_type="qwen2")            # or in another one that computes the same
    save_scalar(reward, "runs/nano/reward");  reward = load_scalar("runs/nano/reward")

A language model is a `...ForCausalLM` of its family (`formats/`), a reward or value model the same family's
`...ForSequenceClassification` with one label, whose head there is called `score`. Tensors are mapped and taken over one
by one, so loading needs little more memory than the model. Settings that would change what the model computes and that
are not supported are refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from qwenkit.errors import UserError, nearest, within
from qwenkit.hub import resolve
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats import Format, Weight, as_qwen2, format_for, format_of
from qwenkit.model.quantized import Scheme
from qwenkit.model.quantized_folder import Layers, give, layers_of, scheme_of, settings_of, take
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.model.weights import SHARD_BYTES, Tensors, write_json, write_shards
from qwenkit.records import read_object

Model = TypeVar("Model", Transformer, ScalarModel)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SCORE = {"score_head.weight": "score.weight"}


# ---- reading --------------------------------------------------------------------------------------------------------


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    *,
    dropout: float = 0.0,
) -> Transformer:
    """Read a language model. `dtype="auto"` is the folder's own, `device="auto"` the accelerator if there is one; the
    path may be a model of the Hub, `org/name`. Adapters are not read yet: any is refused."""
    if adapter is not None:
        raise UserError(f"adapter = {adapter!r}", expected="None: adapters are not supported yet",
                        mend="merge the adapter into its model, and load that")  # fmt: skip
    path = resolve(path, revision)
    found, config, form = _described(path)
    if _architecture(found).endswith("ForSequenceClassification"):
        raise UserError("this folder holds a model that scores, not one that writes", where=str(path),
                        expected="a language model")  # fmt: skip
    with torch.device("meta"):
        model = Transformer(replace(config, dropout=dropout))
    scheme, place = scheme_of(found, str(path / "config.json")), _pick_device(device)
    kind = _pick_dtype(dtype, found)
    if scheme is not None and dtype == "auto" and place.type == "cpu" and kind == torch.float16:
        kind = torch.bfloat16  # what the kernels of a CPU want; float16 folders are made for GPUs
    return _fill(model, path, form, kind, place, scheme)


def load_scalar(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    *,
    dropout: float = 0.0,
) -> ScalarModel:
    """Read a reward or value model. A language model's folder is refused: its head would be random."""
    path = resolve(path, revision)
    found, config, form = _described(path)
    if not _architecture(found).endswith("ForSequenceClassification"):
        raise UserError(
            "this folder holds a language model, not one that scores",
            where=str(path),
            expected="a reward or preference model",
            mend="a node of kind `reward` makes one",
        )
    with torch.device("meta"):
        model = ScalarModel(Transformer(replace(config, dropout=dropout)))
    return _fill(model, path, form, _pick_dtype(dtype, found), _pick_device(device))


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype in which a folder's tensors are stored."""
    return _pick_dtype("auto", read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says, or an error that says why there is none."""
    file = folder / "config.json"
    if not (file.exists() or file.is_symlink()):
        raise UserError(
            "no model here: config.json is missing",
            where=str(folder),
            expected="a folder with config.json and *.safetensors",
        )
    found, older = read_object(file), folder / "quantize_config.json"
    if "quantization_config" not in found and older.exists():  # where GPTQ's tools wrote it first
        found["quantization_config"] = {"quant_method": "gptq", **read_object(older)}
    return found


def _described(folder: Path) -> tuple[dict[str, Any], ModelConfig, Format]:
    """What config.json says, the shape that it means, and the family's format."""
    found, where = read_config(folder), str(folder / "config.json")
    form = format_of(found, where)
    with within(where):
        return found, form.read_config(found), form


def _architecture(found: dict[str, Any]) -> str:
    named = found.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _fill(
    model: Model, folder: Path, form: Format, dtype: torch.dtype, device: torch.device, scheme: Scheme | None = None
) -> Model:
    """Put the folder's tensors into a model on the meta device; every mismatch is named before one is read."""
    wanted = model.state_dict()
    with Tensors(folder) as tensors:
        weights = _table(form, wanted, frozenset(tensors.shapes))
        if scheme is not None:
            weights = take(model, weights, tensors, scheme, device)
        _check(weights, wanted, tensors, form, folder)
        if isinstance(model, Transformer) and model.config.tie_word_embeddings:
            _check_copy(tensors, folder)
        state: dict[str, Tensor] = {}
        for weight in weights:
            rows = [wanted[name].shape[0] for name in weight.ours]
            for name, part in zip(weight.ours, _rows(tensors.read(weight.theirs)).split(rows)):
                state[name] = part.to(device=device, dtype=dtype)
    model.load_state_dict(state, assign=True, strict=False)  # quantized layers are in already
    return model.requires_grad_(True).eval()


def _table(form: Format, wanted: dict[str, Tensor], present: frozenset[str]) -> list[Weight]:
    """The format's table; the head of a model that scores has a name of its own."""
    table = form.renames([name for name in wanted if name not in _SCORE], present)
    return [*table, *(Weight(theirs, (ours,)) for ours, theirs in _SCORE.items() if ours in wanted)]


def _check(weights: list[Weight], wanted: dict[str, Tensor], tensors: Tensors, form: Format, folder: Path) -> None:
    """Refuse a folder that does not hold exactly the model, naming every tensor."""
    found = tensors.shapes
    known = {weight.theirs: [wanted[name].shape for name in weight.ours] for weight in weights}
    spare = {"lm_head.weight"} if "lm_head.weight" not in wanted else set()  # a tied copy, or under a scoring head
    groups = {
        "missing": [name for name in known if name not in found],
        "unexpected": [name for name in found if name not in known and not name.endswith((*form.ignored, *spare))],
        "wrong shape": [
            f"{name} is {list(found[name])}, not {_stacked(shapes)}"
            for name, shapes in known.items()
            if name in found and not _fits(found[name], shapes)
        ],
        "integers": [name for name in known if name in tensors.integers],
    }
    if problems := [f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names]:
        raise UserError("the tensors do not fit config.json: " + "; ".join(problems), where=str(folder))


def _check_copy(tensors: Tensors, folder: Path) -> None:
    """A head beside tied embeddings may only be a copy of their table: transformers would use it."""
    heads = [name for name in tensors.shapes if name.endswith("lm_head.weight")]
    tables = [tensors.read(name) for name in tensors.shapes if name.endswith(("embed_tokens.weight", "wte.weight"))]
    pairs = [(tensors.read(head), table) for head in heads for table in tables]
    if any(head.dtype != table.dtype or not torch.equal(head, table) for head, table in pairs):
        raise UserError(f"{heads[0]} is no copy of the embedding, but config.json ties them", where=str(folder),
                        expected="a copy, none at all, or tie_word_embeddings = false")  # fmt: skip


def _rows(stack: Tensor) -> Tensor:
    """A block of experts as one stack of rows; anything else as it is."""
    return stack.flatten(0, -2) if stack.dim() > 2 else stack


def _stacked(shapes: list[torch.Size]) -> list[int]:
    return [sum(shape[0] for shape in shapes), *shapes[0][1:]]


def _fits(found: torch.Size, shapes: list[torch.Size]) -> bool:
    """Whether a tensor is those stacked by rows, or blocks of them (experts)."""
    wanted = _stacked(shapes)
    return list(found) == wanted or (len(shapes) > 1 and len(found) == 3 and [found[0] * found[1], found[2]] == wanted)


# ---- writing --------------------------------------------------------------------------------------------------------


def save_model(
    model: Transformer, folder: str | Path, shard_bytes: int = SHARD_BYTES, model_type: str | None = None
) -> None:
    """Write a language model; the folder is made when it is missing. A form that cannot say it is refused."""
    _save(model, model.config, Path(folder), format_for(model.config, model_type), shard_bytes)


def save_scalar(model: ScalarModel, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a reward or value model. The first Qwen has no class for it: its trunk is written as Qwen2's."""
    config, form = model.config, format_for(model.config)
    if not form.scalar:
        config, _ = as_qwen2(config)
        form = format_for(config)
    _save(model, config, Path(folder), form, shard_bytes)


def _save(model: Transformer | ScalarModel, config: ModelConfig, folder: Path, form: Format, shard_bytes: int) -> None:
    state = model.state_dict()
    dtype = state["model.embed_tokens.weight"].dtype
    layers = layers_of(model)
    settings = {**_head_settings(model, config, form, dtype), **form.write_config(config), **settings_of(layers)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)
    if isinstance(model, Transformer):
        tokens = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
        write_json(folder / "generation_config.json", {name: id for name, id in tokens.items() if id is not None})
    write_shards(_named_tensors(form, state, layers), folder, shard_bytes)


def _named_tensors(form: Format, state: dict[str, Tensor], layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """Everything that a folder holds of a model, in its names."""
    inside = tuple(f"{name}." for name in layers)
    plain = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    yield from _stacks(_table(form, plain, frozenset()), plain)
    yield from give(form.renames([f"{name}.weight" for name in layers], frozenset()), layers)


def _stacks(weights: list[Weight], state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The folder's tensors, made one at a time."""
    for weight in weights:
        parts = [state[name].detach().cpu() for name in weight.ours]
        yield weight.theirs, (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


def _head_settings(
    model: Transformer | ScalarModel, config: ModelConfig, form: Format, dtype: torch.dtype
) -> dict[str, Any]:
    """What config.json says of every family alike."""
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


def _pick_dtype(dtype: str | torch.dtype, found: dict[str, Any]) -> torch.dtype:
    """The one asked for; the folder's, which the first Qwen tells by flags."""
    if isinstance(dtype, torch.dtype):
        return dtype
    flags = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    flagged = next((name for flag, name in flags.items() if found.get(flag) is True), "float32")
    name = found.get("dtype") or found.get("torch_dtype") or flagged if dtype == "auto" else dtype
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
