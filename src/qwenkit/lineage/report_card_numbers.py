"""The number that stands for a node in the drawing of the family: a few words, where the headline is a line.

It is read from the metrics that the kind's page in docs/stages names. A kind that is not known here, or whose metrics
lack the number, is told by the first clause of its headline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from qwenkit.lineage.run_reader import NodeView, mapping, number

Metrics = Mapping[str, Any]


def headline_number(node: NodeView) -> str:
    """At most some forty characters."""
    found = NUMBERS[node.kind](node.metrics) if node.kind in NUMBERS else ""
    return found or re.split(r"[;:]\s", node.headline)[0]


def _count(value: Any, what: str) -> str:
    found = number(value)
    return "" if found is None else f"{found:,.0f} {what}"


def _questions(metrics: Metrics) -> str:
    known = [count for value in mapping(metrics.get("rows")).values() if (count := number(value)) is not None]
    return _count(sum(known), "questions") if known else ""


def _loss(metrics: Metrics) -> str:
    """Of the easiest and the hardest group, where there are several."""
    found = sorted(loss for value in mapping(metrics.get("heldout_loss")).values() if (loss := number(value)))
    return (
        "held-out loss " + " to ".join(f"{loss:.2f}" for loss in dict.fromkeys((found[0], found[-1]))) if found else ""
    )


def _means(table: Any) -> dict[str, float]:
    """The mean of every score in a table."""
    found = {str(name): number(mapping(score).get("mean")) for name, score in mapping(table).items()}
    return {name: mean for name, mean in found.items() if mean is not None}


def _percent(table: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in table.items())


def _rubric(metrics: Metrics) -> str:
    before, after = (number(mapping(metrics.get(f"rubric_{when}")).get("total")) for when in ("before", "after"))
    return "" if before is None or after is None else f"true rubric {before:.3f} → {after:.3f}"


def _right(metrics: Metrics) -> str:
    models = {name: mapping(mapping(table).get("rubric")) for name, table in mapping(metrics.get("models")).items()}
    return _percent(_means({name: rubric.get("right") for name, rubric in models.items()}))


NUMBERS: dict[str, Callable[[Metrics], str]] = {
    "world": lambda metrics: _count(mapping(metrics.get("rows")).get("pages"), "pages"),
    "testsets": _questions,
    "corpus": lambda metrics: _count(metrics.get("documents"), "documents"),
    "tokenizer": lambda metrics: _count(metrics.get("vocab_size"), "tokens"),
    "pretrain": _loss,
    "sft": _loss,
    "preference": lambda metrics: _percent(_means(metrics.get("accuracy"))),
    "reward": lambda metrics: _percent(_means(metrics.get("accuracy"))),
    "ppo": _rubric,
    "evaluate": _right,
}
