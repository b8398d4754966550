"""The card's section on other seeds: what `seeds.json` of the report node says, as plain values and one drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenkit.json_values import mapping, number, sequence
from qwenkit.lineage import report_card_claims
from qwenkit.records import Row
from qwenkit.stages import claims, results

EXPLAINED = (
    "Differences with 95 % intervals, each seed's own over its questions. Pooled: questions, with the answers of all "
    "seeds, and seeds are resampled, so it speaks of other questions and other seeds. Over seeds alone: Student's t on "
    "one number a seed, for these questions; wide where seeds are few, and the one to believe where their noise is the "
    "greater one. A claim holds where every seed has its sign and the pooled interval excludes zero, one "
    "on the total only if `right` did not fall; "
    f"that a model keeps what it knew, where neither falls below a loss of {claims.TOLERATED_LOSS}."
)


def seeds_view(seeds: Row) -> Row:
    """Names of the seeds, the nodes they share, comparisons, accuracies and headline numbers."""
    nodes = {str(name): mapping(node) for name, node in mapping(seeds.get("nodes")).items()}
    names = [str(name) for name in sequence(seeds.get("seeds"))]
    comparisons = [mapping(row) for row in sequence(seeds.get("comparisons"))]
    varied = {name: node for name, node in nodes.items() if node.get("shared") is not True}
    return {
        "names": names,
        "shared": [name for name in nodes if name not in varied],
        "varied": list(varied),
        "plot": _plot(comparisons, names),
        "comparisons": [_comparison(row, comparisons) for row in comparisons],
        "accuracies": [_accuracy(mapping(row)) for row in sequence(seeds.get("accuracies"))],
        "numbers": [row for name, node in varied.items() for row in _numbers(name, node)],
        "explained": EXPLAINED,
    }


def _plot(comparisons: list[dict[str, Any]], names: list[str]) -> str:
    from qwenkit.lineage import report_card_plots

    rows: list[tuple[str, list[float], dict[str, Any]]] = []
    for row in comparisons:
        means = [number(mapping(score).get("mean")) for score in sequence(row.get("by_seed"))]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(names):
            rows.append((_label(row), known, mapping(row.get("pooled"))))
    return report_card_plots.differences("seeds", "Difference by seed", rows, names) if rows and names else ""


def _label(row: Mapping[str, Any]) -> str:
    return f"{row.get('a')} − {row.get('b')}: {row.get('set')}, {row.get('component')}"


def _comparison(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    outcome, _ = claims.outcome_beside(row, rows)
    return {
        "label": _label(row), "outcome": outcome, "mark": report_card_claims.MARKS[outcome],
        "by_seed": [results.signed(mapping(score)) for score in sequence(row.get("by_seed"))],
        "pooled": results.signed(mapping(row.get("pooled"))),
        "across": results.signed(mapping(row.get("across_seeds"))),
    }  # fmt: skip


def _accuracy(row: Mapping[str, Any]) -> dict[str, Any]:
    over = {name: value for name, value in mapping(row.get("across_seeds")).items() if name != "n"}
    return {
        "label": f"{row.get('node')}, {row.get('set')}", "across": results.share(over),
        "by_seed": [results.share(mapping(score)) for score in sequence(row.get("by_seed"))],
    }  # fmt: skip


def _numbers(node: str, view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each headline number of a node: by seed, then mean, least and most."""
    rows = {str(key): mapping(row) for key, row in mapping(view.get("numbers")).items()}
    return [
        {"label": f"{node}: {key.removeprefix('models.').replace('.', ' ').replace('_', ' ')}",
         "values": [*sequence(row.get("by_seed")), *(row.get(name) for name in ("mean", "min", "max"))]}
        for key, row in rows.items()
    ]  # fmt: skip
