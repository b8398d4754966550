"""Estimate how large a training is before anything runs: parameters, tokens, floating-point operations, memory. What a
kind of node takes, its stage says (`estimate`); this module asks for a whole recipe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from qwenkit import platform
from qwenkit.errors import UserError
from qwenkit.lineage import graph
from qwenkit.lineage.recipe import Node, Recipe, load_recipe, packaged
from qwenkit.records import Row, read_object
from qwenkit.stages import load_stage
from qwenkit.stages.results import Estimate


def sizes(recipe: Recipe) -> dict[str, Estimate]:
    """Return the estimate of each training whose vocabulary size is known."""
    estimates: dict[str, Estimate] = {}
    for node in recipe.nodes.values():
        estimate, rows = getattr(load_stage(node.kind), "estimate", None), _vocab_rows(node, recipe)
        if estimate is not None and rows:
            estimates[node.name] = estimate(node.config, rows)
    return estimates


def offered() -> list[Row]:
    """Return the recipes that come with the package, the smallest first: what each makes, its size, the keys that take
    data.

    They are read from the package, so that no file of the working directory is taken for one of them."""
    rows: list[Row] = []
    for name, path in packaged().items():
        recipe = load_recipe(str(path))
        size = next(iter(sizes(recipe).values()), None)  # a recipe that starts from a published model says no size
        known = asdict(size) if size else dict.fromkeys(Estimate.__dataclass_fields__)
        data = [f"{node.name}.{key}" for node in recipe.nodes.values() for key in node.data_keys()]
        rows.append({"recipe": name, "about": recipe.about, **known, "data": data})
    return sorted(rows, key=lambda row: row["flops"] or 0)


def _vocab_rows(node: Node, recipe: Recipe) -> int | None:
    """Return the rows of the embedding, planned by a node or written in a tokenizer's folder, or None."""
    kind, target = node.inputs.get("tokenizer", ("", ""))
    if kind == "node":
        rows_of = getattr(load_stage(recipe.nodes[target].kind), "vocab_rows", None)
        return rows_of(recipe.nodes[target].config) if rows_of is not None else None
    path = Path(target) / "tokenizer_config.json"
    rows = read_object(path).get("model_vocab_size") if kind == "path" and path.exists() else None
    return rows if isinstance(rows, int) else None


def refuse_too_large(recipe: Recipe, wanted: list[str], runs: list[Path]) -> None:
    """Raise a `UserError` for a model that this machine cannot hold in memory, before weeks of work on its data.

    A model that one of the `runs` has already trained may be used."""
    room = platform.usable_memory(platform.pick_device("auto") if recipe.device == "auto" else recipe.device)
    for name, size in sizes(recipe).items():
        made = [manifest.config for run in runs if (manifest := graph.current(run, name))]
        if name not in wanted or recipe.nodes[name].identity() in made:
            continue
        needed = size.devices(room)
        if needed > 1:
            raise UserError(
                f"`{name}` cannot be trained here: {size.text()}, where a device has {room / 1e9:.3g} GB",
                where=recipe.source,
                hint=f"at least {needed} such devices, and a recipe trains on one: a larger one, or a smaller [{name}]",
            )
