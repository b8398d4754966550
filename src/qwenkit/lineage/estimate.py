"""How large a training is, known before anything runs: parameters, tokens, floating-point operations, memory. What a
kind of node takes, its stage says (`estimate`); here that is asked of a whole recipe."""

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
    """Return what each training takes whose vocabulary is known."""
    estimates: dict[str, Estimate] = {}
    for node in recipe.nodes.values():
        estimate, rows = getattr(load_stage(node.kind), "estimate", None), _vocab_rows(node, recipe)
        if estimate is not None and rows:
            estimates[node.name] = estimate(node.config, rows)
    return estimates


def offered() -> list[Row]:
    """The recipes that come with the package, smallest first: what each makes, its size, the keys that take data.
    They are read where they lie, so that nothing in the present folder is taken for theirs."""
    rows: list[Row] = []
    for name, path in packaged().items():
        recipe = load_recipe(str(path))
        size = next(iter(sizes(recipe).values()), None)  # a recipe that starts from a published model says no size
        known = asdict(size) if size else dict.fromkeys(Estimate.__dataclass_fields__)
        data = [f"{node.name}.{key}" for node in recipe.nodes.values() for key in node.data_keys()]
        rows.append({"recipe": name, "about": recipe.about, **known, "data": data})
    return sorted(rows, key=lambda row: row["flops"] or 0)


def _vocab_rows(node: Node, recipe: Recipe) -> int | None:
    """Rows of the embedding: planned by a node, or written in a tokenizer's folder; None where neither tells."""
    kind, target = node.inputs.get("tokenizer", ("", ""))
    if kind == "node":
        rows_of = getattr(load_stage(recipe.nodes[target].kind), "vocab_rows", None)
        return rows_of(recipe.nodes[target].config) if rows_of is not None else None
    path = Path(target) / "tokenizer_config.json"
    rows = read_object(path).get("model_vocab_size") if kind == "path" and path.exists() else None
    return rows if isinstance(rows, int) else None


def refuse_too_large(recipe: Recipe, wanted: list[str], runs: list[Path]) -> None:
    """A model that this machine could not even hold is refused now, and not after weeks of work on its data; one that
    one of the runs has trained already may be used."""
    room = platform.usable_memory(recipe.device)
    for name, size in sizes(recipe).items():
        made = [manifest.config for run in runs if (manifest := graph.current(run, name))]
        if name in wanted and recipe.nodes[name].identity() not in made and size.memory > room:
            raise UserError(
                f"`{name}` cannot be trained here: {size.text()}, where {room / 1e9:.3g} GB are",
                where=recipe.source,
                hint=f"a larger machine, or a smaller [{name}]",
            )
