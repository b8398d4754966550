"""Check that the tensors of a folder make up the model that its config.json describes. Everything that does not fit is
named before any tensor is read.

    refuse_impossible(config, tensors)                       # before a module is built
    find_trunk(tensors)                                      # weights that a wrapper saved under names of its own
    check(weights, wanted, tensors, form)

Programs that wrap a model save its weights under longer names (`module.`, `_orig_mod.`, `base_model.model.`), and a
decoder without its head has shorter ones. Where the folder holds exactly one decoder, that is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from qwenkit.errors import UserError, listed, notice
from qwenkit.model.config import ModelConfig
from qwenkit.model.formats import Format, TensorMapping
from qwenkit.model.weights import Tensors

_MANY = 20_000
"""Models with more tensors are checked against the weights before they are built, which takes seconds and memory."""
_TRUNKS = {"model.": ("embed_tokens.weight", "norm.weight"), "transformer.": ("wte.weight", "ln_f.weight")}
"""Prefixes of a decoder, and two tensors of every one: the embedding table and the last norm."""
_HEADS = ("lm_head.weight", "score.weight")
_WRAPPED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_ADAPTED = re.compile(r"\.(lora_[A-Za-z]\w*|base_layer|modules_to_save|original_module|lora_magnitude_vector)\.")


def refuse_impossible(config: ModelConfig, tensors: Tensors, packed: bool) -> None:
    """Raise a `UserError` for a config.json that describes far more parameters than the folder's tensors can hold.

    `packed` says that the weights may be quantized, so that one int32 holds up to eight of them."""
    stored = sum(shape.numel() for shape in tensors.shapes.values()) * (8 if packed else 1)
    wanted = config.parameters - 2 * config.vocab_size * config.hidden_size
    if config.tensors > _MANY and wanted > stored:
        raise UserError(f"config.json describes {wanted:,} weights in {config.tensors:,} tensors, here are {stored:,}",
                        where=str(tensors.folder), expected="the config.json of these weights")  # fmt: skip


def find_trunk(tensors: Tensors, trunk: str) -> None:
    """Rename the tensors to the family's own names, where a wrapper saved them under other names.

    `trunk` is the prefix of the family's decoder. Raises a `UserError` for an unmerged adapter and for several
    decoders."""
    if adapted := [name for name in tensors.shapes if _ADAPTED.search(f".{name}")]:
        raise UserError(f"the weights are of an adapter that was not merged: {listed(adapted, 2)}",
                        where=str(tensors.folder), expected="a complete model",
                        hint="merge it (merge_and_unload in peft) and save that")  # fmt: skip
    names = {name: _WRAPPED.sub("", name) for name in tensors.shapes}
    table, norm = _TRUNKS[trunk]
    present = frozenset(names.values())
    places = {name.removesuffix(table) for name in present if name.endswith(table)}
    places = {place for place in places if place + norm in present and (not place or place.endswith("."))}
    if places and trunk not in places:
        if len(places) > 1:
            raise UserError(
                f"several trunks: {listed(sorted(places))}", where=str(tensors.folder), expected="one model"
            )
        names = {name: _moved(plain, min(places), trunk) for name, plain in names.items()}
    changed = {name: new for name, new in names.items() if name != new}
    if changed:
        old, new = next(iter(changed.items()))
        tensors.call(changed)
        notice(f"the weights have other names than the model's: {old} is read as {new}", str(tensors.folder))


def _moved(name: str, place: str, trunk: str) -> str:
    """Return the name of a tensor once the decoder at `place` has its own name; a head lies beside it or above."""
    for head in _HEADS:
        outer = name.removesuffix(head)
        if name.endswith(head) and place.startswith(outer):
            return head
    return trunk + name.removeprefix(place) if name.startswith(place) else name


def trunk_of(form: Format) -> str:
    """Return the prefix by which a family calls the tensors of its decoder."""
    return "transformer." if form.model_type == "qwen" else "model."


def check(weights: list[TensorMapping], wanted: Mapping[str, Tensor], tensors: Tensors, form: Format) -> None:
    """Raise a `UserError` for a folder that does not hold exactly the model, naming the first tensors of each kind."""
    stored = tensors.shapes
    known = {weight.hf_name: [wanted[name].shape for name in weight.param_names] for weight in weights}
    spare = {"lm_head.weight"} if "lm_head.weight" not in wanted else set()  # a tied copy, or under a scoring head
    groups = {
        "missing": [name for name in known if name not in stored],
        "unexpected": [name for name in stored if name not in known and not name.endswith((*form.ignored, *spare))],
        "wrong shape": [
            f"{name} is {list(stored[name])}, not {_stacked(shapes)}"
            for name, shapes in known.items()
            if name in stored and not _fits(stored[name], shapes)
        ],
        "integers": [name for name in known if tensors.is_integer(name)],
    }
    if problems := [f"{kind}: {listed(names)}" for kind, names in groups.items() if names]:
        raise UserError("the tensors do not fit config.json: " + "; ".join(problems), where=str(tensors.folder),
                        hint=_hint(groups["missing"], groups["unexpected"]))  # fmt: skip


def _hint(missing: list[str], unexpected: list[str]) -> str | None:
    if missing == ["lm_head.weight"] and not unexpected:
        return "a trunk without a head cannot write; tie_word_embeddings = true where its head is the embedding's table"
    if any(name.endswith((".qweight", ".weight_packed", ".weight_scale", ".absmax", ".SCB")) for name in unexpected):
        return "the weights are quantized, and config.json has no quantization_config that is read here"
    return None


def check_copy(tensors: Tensors) -> None:
    """Raise a `UserError` where a head stored beside tied embeddings is not a copy of their table.

    transformers would use such a head, so the two programs would compute different things."""
    heads = [name for name in tensors.shapes if name.endswith("lm_head.weight")]
    tables = [tensors.read(name) for name in tensors.shapes if name.endswith(("embed_tokens.weight", "wte.weight"))]
    pairs = [(tensors.read(head), table) for head in heads for table in tables]
    if any(head.dtype != table.dtype or not torch.equal(head, table) for head, table in pairs):
        raise UserError(
            f"{heads[0]} is not a copy of the embedding, but config.json ties them",
            where=str(tensors.folder),
            expected="a copy, none at all, or tie_word_embeddings = false",
        )


def as_rows(stack: Tensor) -> Tensor:
    """Return a block of experts, [experts, N, K], as one stack of rows [experts * N, K]; anything else unchanged."""
    return stack.flatten(0, -2) if stack.dim() > 2 else stack


def _stacked(shapes: list[torch.Size]) -> list[int]:
    return [sum(shape[0] for shape in shapes), *shapes[0][1:]]


def _fits(shape: torch.Size, shapes: list[torch.Size]) -> bool:
    """Return whether a tensor is those stacked by rows, or blocks of them (experts)."""
    wanted = _stacked(shapes)
    return list(shape) == wanted or (len(shapes) > 1 and len(shape) == 3 and [shape[0] * shape[1], shape[2]] == wanted)
