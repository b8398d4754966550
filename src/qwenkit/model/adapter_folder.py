"""Adapters on disk, in peft's format (`adapter_config.json`, `adapter_model.safetensors`), both ways.

    adapter = read_adapter(folder, model)            # checked against the model: names, shapes, digest of its tensors
    put_on(model, adapter)                           # what `load_model(path, adapter=folder)` does
    save_adapter(model, folder, base="../base")      # what is trained of a model with an adapter, and nothing else

Tensors have the names of the folder format that the model came in: Hugging Face's, or the first Qwen's, whose `c_attn`
is three layers here. Its A is given to each of them, and its B is cut by rows. The way back stacks the three A's and
lays the B's along a diagonal, so the rank is three times as high and the product the same; read again, it is taken
apart. `adapter_base.json` keeps a digest of the model that the adapter was trained on (`tensors_digest`).

Legend: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qwenkit.adapter_files import BASE, CONFIG, PICKLED, WEIGHTS, read_adapter_config
from qwenkit.errors import UserError, listed
from qwenkit.files import refuse_pointer_at
from qwenkit.model.adapter_config import peft_config, read_config
from qwenkit.model.formats import format_for
from qwenkit.model.lora import LoRALinear, adapted_layers, add_adapter, linear_layers, part_head
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.trainable import load_trainable_state, trainable_state
from qwenkit.model.transformer import ScalarModel, Transformer
from qwenkit.records import read_object, write_json

Model = TypeVar("Model", Transformer, ScalarModel)
_PREFIX = "base_model.model."
_PARTS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude"}
_OWN = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
_SCORE = ("score.weight", "score_head.weight")
_SAMPLES = 64
"""Values of each tensor that a digest covers."""


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read: its settings, whose targets are the layers that have tensors, and the tensors by the
    names of `trainable_state`."""

    config: LoRAConfig
    tensors: dict[str, Tensor]


# ---- reading --------------------------------------------------------------------------------------------------------


def read_adapter(folder: Path, model: Transformer | ScalarModel) -> Adapter:
    """Return the adapter of a folder for a model that has none. A model with tied embeddings gets a head of its own
    where the adapter has one.

    Raises a `UserError` for pickles, cut files, tensors that peft does not write, and where it is the adapter of
    another model: by names, by shapes, or by the digest of the model's tensors."""
    config, where = read_config(folder), str(folder / WEIGHTS)
    _refuse_other_head(folder, model)
    given = {_plain_name(name, where): tensor for name, tensor in _read_tensors(folder).items()}
    layers = _by_layer({name: tensor for name, tensor in given.items() if _OWN.fullmatch(name)}, where)
    saved = {name: tensor for name, tensor in given.items() if not _OWN.fullmatch(name)}
    if not layers:
        raise UserError("no tensor of LoRA is in it", where=where, expected="lora_A and lora_B of some layer")
    _check_ranks(layers, config, where)
    parts, origin = _split(layers, model, folder)
    tensors = {f"{name}.lora.{key}": tensor for name, own in parts.items() for key, tensor in own.items()}
    sizes = {name: (own["A"].shape[0], config.scale_of(origin[name])) for name, own in parts.items()}
    config = _with_patterns(replace(config, targets=tuple(parts)), sizes)
    whole = _saved_tensors(saved, model, folder)
    tied = config.tied or "lm_head.weight" in saved  # a copy of the saved table, or a head that has been given already
    names = sorted({name.rpartition(".")[0] for name in whole} - {"score_head"})
    _refuse_other_base(folder, model)
    return Adapter(replace(config, modules_to_save=tuple(names), tied=tied), tensors | whole)


def put_on(model: Model, adapter: Adapter) -> Model:
    """Put an adapter on a model, in place, and return the model; saved modules take the dtype of its weights."""
    dtype = model.model.embed_tokens.weight.dtype
    model = add_adapter(model, adapter.config)
    load_trainable_state(model, adapter.tensors, "the adapter")
    for name in (*(adapter.config.modules_to_save or ()), *(["score_head"] if isinstance(model, ScalarModel) else [])):
        model.get_submodule(name).to(dtype)
    return model.eval()


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter's file."""
    file = folder / WEIGHTS
    if not file.exists():
        pickled = (folder / PICKLED).exists()
        raise UserError(f"a pickled adapter: {PICKLED} alone" if pickled else "the adapter's tensors are missing",
                        where=str(folder), expected=WEIGHTS,
                        hint="a pickle may run anything: where you trust it, load it with peft and save it again"
                        if pickled else None)  # fmt: skip
    refuse_pointer_at(file)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError("not a file of tensors, or cut", where=str(file), hint="get it again") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            what = "NaN or infinite values" if tensor.is_floating_point() else f"{tensor.dtype}"
            raise UserError(f"{name} holds {what}", where=str(file), expected="finite floating point numbers")
    return tensors


def _plain_name(name: str, where: str) -> str:
    """Return a tensor's name without what peft puts around it: its prefix, and the adapter's name in it."""
    if not name.startswith(_PREFIX):
        raise UserError(f"{name:.200} is not a name that peft writes", where=where, expected=f"{_PREFIX}...")
    plain = re.sub(r"\.(lora_A|lora_B)\.default\.", r".\1.", name.removeprefix(_PREFIX))
    plain = re.sub(r"\.lora_magnitude_vector(\.default)?(\.weight)?$", ".lora_magnitude_vector", plain)
    plain = plain.replace(".modules_to_save.default.", ".")
    if re.search(r"\.(lora_|token_adapter|base_layer)", plain) and not _OWN.fullmatch(plain):
        raise UserError(f"{plain:.200} is not supported", where=where, expected="LoRA of linear layers")
    return plain


Parts = dict[str, Tensor]
"""A [R, K], B [N, R] and, with DoRA, `magnitude` [N] of one layer."""


def _by_layer(tensors: Mapping[str, Tensor], where: str) -> dict[str, Parts]:
    """Return the tensors by the layer that they belong to."""
    layers: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        match = _OWN.fullmatch(name)
        assert match is not None
        layers.setdefault(match[1], {})[_PARTS[match[2]]] = tensor.float()
    for layer, own in layers.items():
        if missing := [end for end, part in _PARTS.items() if part not in own and part != "magnitude"]:
            raise UserError(f"{layer} has no {missing[0].partition('.')[0]}", where=where, expected="A and B of each")
        a, b = own["A"], own["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise UserError(f"{layer}: lora_A is {list(a.shape)}, lora_B {list(b.shape)}", where=where,
                            expected="[R, K] and [N, R], R from 1 on")  # fmt: skip
    return layers


def _check_ranks(layers: Mapping[str, Parts], config: LoRAConfig, where: str) -> None:
    """Raise a `UserError` where tensors are not those that the settings describe: the scale would be another."""
    for name, own in layers.items():
        if (rank := own["A"].shape[0]) != config.rank_of(name):
            raise UserError(f"{name} has rank {rank}, and {CONFIG} says {config.rank_of(name)}", where=where)
        if ("magnitude" in own) is not config.dora:
            raise UserError(f"{name} has {'' if 'magnitude' in own else 'no '}norms of DoRA, and {CONFIG} says "
                            f"use_dora = {str(config.dora).lower()}", where=where)  # fmt: skip


def _names(model: Transformer | ScalarModel) -> dict[str, tuple[str, ...]]:
    """Return the layers here that each linear layer of the model's folder format is, by its name there."""
    weights = [f"{name}.weight" for name in linear_layers(model) if name != "score_head"]
    table = format_for(model.config).map_names(weights, frozenset())
    return {each.hf_name.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in each.param_names)
            for each in table}  # fmt: skip


def _split(
    layers: Mapping[str, Parts], model: Transformer | ScalarModel, folder: Path
) -> tuple[dict[str, Parts], dict[str, str]]:
    """Return the tensors by layers of the model, and the name in the folder that each layer's came under."""
    names, sizes = _names(model), linear_layers(model)
    _refuse(folder, [f"no layer {name}" for name in layers if name not in names])
    wrong: list[str] = []
    parts: dict[str, Parts] = {}
    origin: dict[str, str] = {}
    for name, own in layers.items():
        rows = [sizes[part].out_features for part in names[name]]
        columns = sizes[names[name][0]].in_features
        shapes = (own["B"].shape[0], own["A"].shape[1])
        if shapes != (sum(rows), columns) or own.get("magnitude", own["B"][:, 0]).shape != (sum(rows),):
            wrong.append(f"{name} is [{sum(rows)}, {columns}] there, [{shapes[0]}, {shapes[1]}] in the adapter")
            continue
        for part, each in zip(names[name], _cut(own, rows), strict=True):
            parts[part], origin[part] = each, name
    _refuse(folder, wrong)
    return {name: parts[name] for name in sizes if name in parts}, origin


def _cut(own: Parts, rows: list[int]) -> list[Parts]:
    """Return the adapters of layers that are stacked by rows: with the one A each, or with the parts of a diagonal."""
    columns, count = {key: tensor.split(rows) for key, tensor in own.items() if key != "A"}, len(rows)
    blocks = [part.chunk(count, dim=1) for part in columns["B"]]
    rank = own["A"].shape[0]
    diagonal = count > 1 and rank % count == 0 and not any(
        bool(block.any()) for i, row in enumerate(blocks) for j, block in enumerate(row) if i != j
    )  # fmt: skip
    a_parts = own["A"].chunk(count) if diagonal else [own["A"]] * count
    cut = [{key: tensor[i] for key, tensor in columns.items()} for i in range(count)]
    return [{"A": a_parts[i], **part, "B": blocks[i][i] if diagonal else part["B"]} for i, part in enumerate(cut)]


def _with_patterns(config: LoRAConfig, layers: Mapping[str, tuple[int, float]]) -> LoRAConfig:
    """Return the settings with patterns for the layers whose rank or scale, given by name, is not the general one."""
    ranks = {re.escape(name): rank for name, (rank, _) in layers.items() if rank != config.rank}
    alphas = {name: scale * (rank**0.5 if config.rslora else rank) for name, (rank, scale) in layers.items()}
    other = {re.escape(name): round(alpha, 6) for name, alpha in alphas.items() if abs(alpha - config.alpha) > 1e-5}
    return replace(config, rank_pattern=ranks, alpha_pattern=other)


def _saved_tensors(saved: Mapping[str, Tensor], model: Transformer | ScalarModel, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of saved modules by the names here."""
    if (
        isinstance(model, Transformer)
        and "lm_head.weight" in saved
        and not _is_tied_copy("lm_head.weight", saved, model)
    ):
        part_head(model)
    table = format_for(model.config).map_names([name for name in model.state_dict() if name != _SCORE[1]], frozenset())
    known = {each.hf_name: each.param_names[0] for each in table if len(each.param_names) == 1}
    known |= {_SCORE[0]: _SCORE[1]} if isinstance(model, ScalarModel) else {}
    named = {name: tensor for name, tensor in saved.items() if not _is_tied_copy(name, saved, model)}
    _refuse(folder, [f"no tensor {name}" for name in named if name not in known])
    state = model.state_dict()
    _refuse(folder, [f"{name} is {list(state[known[name]].shape)} there, {list(tensor.shape)} in the adapter"
                     for name, tensor in named.items() if state[known[name]].shape != tensor.shape])  # fmt: skip
    return {known[name]: tensor.float() for name, tensor in named.items()}


def _is_tied_copy(name: str, saved: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Return whether a saved head is a copy of the saved table in a model that ties the two."""
    table = saved.get("model.embed_tokens.weight")
    if name != "lm_head.weight" or hasattr(model, "lm_head") or table is None:
        return False
    return torch.equal(saved[name], table)


# ---- whose adapter it is --------------------------------------------------------------------------------------------


def _refuse(folder: Path, problems: list[str]) -> None:
    """Raise the `UserError` of an adapter whose names or shapes are not the model's."""
    if problems:
        raise UserError(f"this is the adapter of another model: {listed(problems, 2)}", where=str(folder),
                        expected=f"an adapter of this one; it names {_named_base(folder)}")  # fmt: skip


def _named_base(folder: Path) -> str:
    return str(read_adapter_config(folder).get("base_model_name_or_path") or "no model")[:200]


def _refuse_other_head(folder: Path, model: Transformer | ScalarModel) -> None:
    scores = read_adapter_config(folder).get("task_type") == "SEQ_CLS"
    if scores is not isinstance(model, ScalarModel):
        kinds = ("one that writes", "one that scores")
        raise UserError(f"this is an adapter of {kinds[scores]}, not of {kinds[not scores]}", where=str(folder))


def _refuse_other_base(folder: Path, model: Transformer | ScalarModel) -> None:
    """Raise a `UserError` where the adapter keeps the digest of other tensors than the model's."""
    if not (folder / BASE).exists():
        return
    known = read_object(folder / BASE).get("tensors")
    if known is not None and known != tensors_digest(model):
        raise UserError("this is the adapter of another model: the tensors differ from those that it was trained on",
                        where=str(folder), expected=f"the model that it names, {_named_base(folder)}",
                        hint=f"to put it on this one all the same, take {BASE} away")  # fmt: skip


@torch.no_grad()
def tensors_digest(model: Transformer | ScalarModel) -> str:
    """Return the SHA-256 of the names, the shapes and 64 evenly spaced values of each tensor in the decoder of a model
    without an adapter.

    Values count as bf16: so it is the same in whichever format, shards and dtype of at least its precision a model is
    stored. It tells models apart and proves nothing about single values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        flat = tensor.reshape(-1)
        picks = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat)), dtype=torch.float64).round().long()
        values = flat[picks.to(flat.device)].cpu()
        values = values.bfloat16().view(torch.int16) if values.is_floating_point() else values.long()
        digest.update(f"{name} {list(tensor.shape)}\n".encode() + values.numpy().tobytes())
    return digest.hexdigest()


# ---- writing --------------------------------------------------------------------------------------------------------


def save_adapter(
    model: Transformer | ScalarModel,
    folder: Path,
    base: str | None,
    revision: str | None = None,
    digest: str | None = None,
) -> None:
    """Write what is trained of a model with an adapter; the folder is created when it is missing.

    `base` names the model that it belongs to, `digest` is `tensors_digest` of that. Raises a `UserError` for a model
    without an adapter."""
    config = model.adapter
    if config is None:
        raise UserError("the model has no adapter to save", expected="a model after `add_adapter`")
    names = _names(model)
    layers = {name: (layer, config.rank_of(name), config.scale_of(name)) for name, layer in adapted_layers(model)}
    joined = {hf: _join([layers.get(part) for part in own], [linear_layers(model)[part].out_features for part in own])
              for hf, own in names.items() if any(part in layers for part in own)}  # fmt: skip
    config = _with_patterns(config, {name: (rank, scale) for name, (_, rank, scale) in joined.items()})
    tensors = {f"{_PREFIX}{name}.{end}": parts[part].contiguous() for name, (parts, _, _) in joined.items()
               for end, part in _PARTS.items() if part in parts}  # fmt: skip
    saved = {name: tensor for name, tensor in trainable_state(model).items() if ".lora." not in name}
    table = format_for(model.config).map_names([name for name in saved if name != _SCORE[1]], frozenset())
    hf_names = {each.param_names[0]: each.hf_name for each in table} | {_SCORE[1]: _SCORE[0]}
    tensors |= {f"{_PREFIX}{hf_names[name]}": tensor.detach().cpu().contiguous() for name, tensor in saved.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    ends = [hf_names[name].removesuffix(".weight").removeprefix("model.") for name in saved]
    scalar, tied = isinstance(model, ScalarModel), "embed_tokens" in ends and model.config.tie_word_embeddings
    write_json(folder / CONFIG, peft_config(config, _short(list(joined), list(names)), ends, scalar=scalar,
                                            tied=tied and not scalar, base=base, revision=revision))  # fmt: skip
    if digest is not None:
        write_json(folder / BASE, {"schema": 1, "tensors": digest})


Joined = tuple[Parts, int, float]
"""The tensors of one layer of the folder, its rank and its scale."""


def _join(parts: list[tuple[LoRALinear, int, float] | None], rows: list[int]) -> Joined:
    """Return the adapters of layers that are stacked by rows as one."""
    present = [part for part in parts if part is not None]
    own = [{name: p.detach().cpu() for name, p in part[0].lora.named_parameters()} for part in present]
    if len(parts) == 1:
        return own[0], present[0][1], present[0][2]
    if any(part is None for part in parts) or len({part[1:] for part in present}) > 1:
        raise UserError(
            "a folder of the first Qwen stores q_proj, k_proj and v_proj as one matrix, and the adapter does not treat "
            "them alike",
            where="adapter.targets",
            expected="c_attn, or all three",
        )
    joined = {"A": torch.cat([each["A"] for each in own]), "B": torch.block_diag(*(each["B"] for each in own))}
    if "magnitude" in own[0]:
        joined["magnitude"] = torch.cat([each["magnitude"] for each in own])
    return joined, len(parts) * present[0][1], present[0][2]


def _short(targets: list[str], names: Iterable[str]) -> list[str]:
    """Return the last parts of the targets' names, where those mean the targets and no other layer; else whole
    names."""
    ends = {name.rpartition(".")[2] for name in targets}
    return sorted(ends if {name for name in names if name.rpartition(".")[2] in ends} == set(targets) else targets)
