"""How large a training is, known before anything runs: weights, tokens, floating-point operations, memory.

The memory is a floor: weights, gradients and the optimizer's moments in float32. Activations come on top, so what is
refused here could never run, and what is not refused may still be too large.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenkit import platform
from qwenkit.errors import UserError
from qwenkit.lineage import graph
from qwenkit.lineage.recipe import Node, Recipe, load_recipe, packaged
from qwenkit.records import read_object
from qwenkit.stages import pretrain, tokenizer

BYTES = {"adamw": 16, "muon": 12}  # of float32 for each weight: itself, its gradient, and two moments or one
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Size:
    """What one pretraining takes."""

    parameters: int
    tokens: float
    flops: float
    """6 for each weight and token, the usual estimate."""
    memory: int
    """Bytes, at the least."""

    def text(self) -> str:
        """In words, for people."""
        return (
            f"{short(self.parameters)} parameters, {short(self.tokens)} tokens, {self.flops:.1e} FLOPs,"
            f" more than {self.memory / 1e9:.3g} GB of memory"
        )


def short(number: float) -> str:
    """Three digits and a unit: `7.72 B`."""
    scale, unit = next((pair for pair in UNITS if number >= pair[0]), (1.0, ""))
    return f"{number / scale:.3g} {unit}".rstrip()


def sizes(recipe: Recipe) -> dict[str, Size]:
    """The size of each pretraining whose vocabulary is known."""
    found: dict[str, Size] = {}
    for node in recipe.nodes.values():
        rows = _vocab_rows(node, recipe)
        if rows and isinstance(node.config, pretrain.Config):
            weights, tokens = pretrain.parameters(node.config, rows), node.config.tokens
            memory = BYTES[node.config.optimizer] * weights
            found[node.name] = Size(weights, tokens, 6 * weights * tokens, memory)
    return found


def offered() -> list[dict[str, Any]]:
    """The recipes that come with the package, smallest first: what each makes, its size, the keys that take data.
    They are read where they lie, so that nothing in the present folder is taken for theirs."""
    rows: list[dict[str, Any]] = []
    for name, path in packaged().items():
        recipe = load_recipe(str(path))
        size = next(iter(sizes(recipe).values()), None)  # a recipe that starts from a published model says no size
        known = asdict(size) if size else dict.fromkeys(Size.__dataclass_fields__)
        data = [f"{node.name}.{key}" for node in recipe.nodes.values() for key in node.data_keys()]
        rows.append({"recipe": name, "about": recipe.about, **known, "data": data})
    return sorted(rows, key=lambda row: row["flops"] or 0)


def _vocab_rows(node: Node, recipe: Recipe) -> int | None:
    """Rows of the embedding: planned by a node, or written in a tokenizer's folder; None where neither tells."""
    kind, target = node.inputs.get("tokenizer", ("", ""))
    if kind == "node":
        config = recipe.nodes[target].config
        return tokenizer.vocab_rows(config) if isinstance(config, tokenizer.Config) else None
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
