"""Runs of one recipe with other seeds, joined for the report: what of it is the recipe's, and what the seed's?

`join(folders, names, ...)` takes run folders, the first the report's own. It refuses what is not such a run, tells
which nodes all of them share, and gives every comparison of models twice: as the interval over seeds, and pooled over
all questions and seeds (`qwenkit.statistics.pooled`). It reads manifests and the items of evaluations, and never asks a
model again. Of kinds of nodes it knows nothing: what compares has an input `tests` and the metric `comparisons`, rows
with `a`, `b`, `set`, `component` and an interval; what ranks pairs of answers has the metric `accuracy`, with an
interval for each set of pairs. Values of another shape under these names are skipped: another kind may have them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from qwenkit.artifacts import MANIFEST, Manifest, read_manifest
from qwenkit.errors import UserError
from qwenkit.evaluation.tasks import Item, paired_scores
from qwenkit.records import read_jsonl
from qwenkit.schema import current_names
from qwenkit.statistics import across_seeds, pooled_mean
from qwenkit.toml_file import differences

Run = dict[str, Manifest]
COMPARED = ("a", "b", "set", "component")
"""What names a comparison: two models, the test set, the component of the score."""
INTERVAL = ("mean", "low", "high", "n")
SeedMetrics = Callable[[str], Sequence[str]]
"""The metrics of a kind that are told seed by seed, as dotted paths; `*` stands for every name."""


def join(
    folders: list[Path], names: Iterable[str], seed_metrics: SeedMetrics, views: Collection[str] = ()
) -> dict[str, Any]:
    """Return what the runs in these folders say together about the nodes of these names, and all they were made of.

    `views` are the kinds whose artifacts only show others: they may be of earlier ones. Raises a `UserError` for runs
    that are not of one recipe or are not finished, and for seeds that are not of one run each.
    """
    names = list(names)
    runs = [lineage(folder, names, views) for folder in folders]
    for folder, run in zip(folders[1:], runs[1:]):
        refuse_other_recipe(runs[0], run, folder)
    return {
        "seeds": seed_names(runs, folders),
        "nodes": {name: _node([run[name] for run in runs], seed_metrics) for name in sorted(runs[0])},
        "comparisons": [row for name in names for row in _comparisons(name, runs, folders)],
        "accuracies": [row for name in names for row in _accuracies(name, runs)],
    }


def lineage(folder: Path, names: list[str], views: Collection[str] = ()) -> Run:
    """Return these nodes of a run and all that they were made of. Raises a `UserError` for a missing or superseded one
    (of a kind that is not one of `views`)."""
    manifests: Run = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if not (folder / name / MANIFEST).exists():
            raise _unfinished(f"`{name}` is missing in this run", folder)
        if name not in manifests:
            manifests[name] = read_manifest(folder / name)
            waiting += _parents(manifests[name]).values()
    for name, manifest in manifests.items():
        for key, parent in _parents(manifest).items():
            if manifest.kind not in views and manifest.inputs[key]["digest"] != manifests[parent].digest:
                raise _unfinished(f"`{name}` was made of an earlier `{parent}`", folder)
    return manifests


def _parents(manifest: Manifest) -> dict[str, str]:
    return {key: item["node"] for key, item in manifest.inputs.items() if item["node"]}


def _unfinished(what: str, folder: Path) -> UserError:
    return UserError(
        what, where=str(folder), expected="a finished run of the same recipe", hint="`qwenkit run` goes on with it"
    )


def refuse_other_recipe(mine: Run, theirs: Run, folder: Path) -> None:
    """Raise a `UserError` where two runs differ in more than the seed."""
    old, new = ({name: _described(run[name]) for name in sorted(run)} for run in (mine, theirs))
    changes = differences(old, new)
    if changes:
        raise UserError(
            "a run of another recipe: " + "; ".join(changes),
            where=str(folder),
            expected="another seed and nothing else",
        )


def _described(manifest: Manifest) -> dict[str, Any]:
    """Return what a recipe says of a node: all but its seed. Of an input from outside only the bytes are known."""
    inputs = {f"input {key}": item["node"] or item["digest"][:12] for key, item in manifest.inputs.items()}
    return {
        "kind": manifest.kind,
        "version": manifest.version,
        **current_names(manifest.kind, manifest.config),
        **inputs,
    }


def seed_names(runs: list[Run], folders: list[Path]) -> list[str]:
    """Return the name of each run: its seeds, of those nodes whose seeds differ. There they must all differ: two runs
    that share one draw and not another are neither the same nor independent, which is a `UserError`."""
    seeds = {name: [run[name].seed for run in runs] for name in sorted(runs[0])}
    varied = [name for name, drawn in seeds.items() if len(set(drawn)) > 1]
    for name in varied or seeds:
        first = {seed: index for index, seed in reversed(list(enumerate(seeds[name])))}
        for index, seed in enumerate(seeds[name]):
            if first[seed] != index:
                raise UserError(
                    f"`{name}` has the seed {seed} twice",
                    where=f"{folders[first[seed]]} and {folders[index]}",
                    expected="a seed of its own for every run",
                )
    return ["+".join(map(str, sorted({seeds[name][index] for name in varied}))) for index in range(len(runs))]


def _node(made: list[Manifest], seed_metrics: SeedMetrics) -> dict[str, Any]:
    """Return one node over all seeds: whether all share it, and its headline numbers."""
    paths = seed_metrics(made[0].kind)
    rows = [{key: value for path in paths for key, value in _numbers(m.metrics, path.split("."))} for m in made]
    keys = dict.fromkeys(key for row in rows for key in row)
    numbers = {key: _spread([row.get(key) for row in rows]) for key in keys}
    return {"kind": made[0].kind, "shared": len({m.digest for m in made}) == 1, "numbers": numbers}


def _numbers(value: Any, path: list[str]) -> Iterator[tuple[str, float]]:
    """Yield (dotted name, number) of every leaf at a path; a score with its interval counts as its mean."""
    if not path:
        mean = value.get("mean") if isinstance(value, dict) else value
        if isinstance(mean, int | float):
            yield "", float(mean)
    elif isinstance(value, dict):
        for key in value if path[0] == "*" else {path[0]} & value.keys():
            yield from (
                (f"{key}.{rest}".rstrip("."), value_there) for rest, value_there in _numbers(value[key], path[1:])
            )


def _spread(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"by_seed": values, "mean": sum(known) / len(known), "min": min(known), "max": max(known)}


def _comparisons(name: str, runs: list[Run], folders: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield every comparison of an evaluation: by seed, over seeds, and pooled over questions and seeds."""
    exams = [run[name] for run in runs]
    if not all("tests" in exam.inputs for exam in exams):
        return
    rows_by_seed = [_comparison_rows(exam) for exam in exams]
    for row in rows_by_seed[0]:
        asked = {key: row[key] for key in COMPARED}
        matches = [next((r for r in rows if asked.items() <= r.items()), None) for rows in rows_by_seed]
        by_seed = [match for match in matches if match is not None]
        if len(by_seed) < len(exams):
            continue
        pooled = pooled_mean(_differences(asked, exams, [folder / name for folder in folders]), seed=exams[0].seed)
        yield {
            "exam": name, **asked,
            "by_seed": [{key: r[key] for key in INTERVAL} for r in by_seed],
            "across_seeds": across_seeds([r["mean"] for r in by_seed])._asdict(), "pooled": pooled._asdict(),
        }  # fmt: skip


def _comparison_rows(exam: Manifest) -> list[dict[str, Any]]:
    """Return the rows of the metric `comparisons` that compare two models on a set, with an interval."""
    rows = exam.metrics.get("comparisons")
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if _is_interval(row) and all(isinstance(row.get(key), str) for key in COMPARED)
    ]


def _is_interval(value: object) -> bool:
    """Return whether a value is an interval as manifests have it; an end may be None, where nothing is known of it."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), int | float) for key in ("mean", "n"))
        and all(isinstance(value.get(key, ""), int | float | None) for key in ("low", "high"))
    )


def _differences(asked: dict[str, str], exams: list[Manifest], folders: list[Path]) -> list[dict[str, float]]:
    """Return for each seed the difference on every question; questions are the same where the test sets are."""
    same = len({exam.inputs["tests"]["digest"] for exam in exams}) == 1
    by_seed = []
    for index, folder in enumerate(folders):
        a, b = (read_jsonl(folder / f"{asked[side]}.{asked['set']}.jsonl") for side in ("a", "b"))
        pairs = paired_scores(cast("Iterator[Item]", a), cast("Iterator[Item]", b), asked["component"])
        by_seed.append({row if same else f"{index}/{row}": ours - theirs for row, (ours, theirs) in pairs.items()})
    return by_seed


def _accuracies(name: str, runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield how often a model ranks the better answer first, by seed and over those seeds that had pairs to ask."""
    metrics = [run[name].metrics.get("accuracy") for run in runs]
    accuracies = [
        {part: score for part, score in metric.items() if _is_interval(score)} if isinstance(metric, dict) else {}
        for metric in metrics
    ]
    for part in dict.fromkeys(part for scores in accuracies for part in scores):
        by_seed = [scores.get(part) for scores in accuracies]
        over = across_seeds([score["mean"] for score in by_seed if score])
        yield {"node": name, "set": part, "by_seed": by_seed, "across_seeds": over._asdict()}
