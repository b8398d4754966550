"""`report`: the results of a run in one file, and what other seeds say of them. `results.json` holds every node's
metrics and summary, `seeds.json` joins them with those of other seeds; nothing in them differs between two clean runs.

The page for people, `report.html` (and `report.md`), is drawn into the run folder at the end of every run, because it
also shows what no digest may hold: times, memory, alarms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenkit.artifacts import MANIFEST, is_run, read_manifest, run_artifacts
from qwenkit.config import StageConfig, edge
from qwenkit.errors import UserError
from qwenkit.evaluation.seed_report import join
from qwenkit.records import write_json
from qwenkit.stages import seed_metrics, views
from qwenkit.stages.base import Input, Result, StageContext, many

SUMMARY = "write the report card of the run"
EXAMPLE = "--of runs/nano/base --of runs/nano/exam"
ORDER = 140
VIEW = True
VERSION = 1
PRODUCES = ("report",)


class Config(StageConfig):
    """What the report is about."""

    of: list[str] = edge(
        doc="the nodes whose results it gathers; a run folder stands for all its nodes",
        many=True,
        with_manifest=True,
        accepts="anything",
        min_length=1,
    )
    seeds: list[str] = edge([], doc="run folders of the same recipe with another seed", many=True, accepts="run")


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Gather metrics and summaries, and join the runs of other seeds."""
    folders = [folder for source in many(inputs, "of") for folder in _artifacts(source.path)]
    results: dict[str, Any] = {}
    for folder in folders:
        manifest = read_manifest(folder)
        results[manifest.node] = {"kind": manifest.kind, "headline": manifest.headline, "metrics": manifest.metrics}
    write_json(context.out / "results.json", results)
    others = [source.path for source in many(inputs, "seeds")]
    if not others:
        return Result({"nodes": len(results)}, f"results of {len(results)} nodes")
    joined = join([_one_run(folders), *map(_run, others)], [folder.name for folder in folders], seed_metrics, views())
    write_json(context.out / "seeds.json", joined)
    seeds = joined["seeds"]
    return Result({"nodes": len(results), "seeds": seeds}, f"results of {len(results)} nodes, seeds {', '.join(seeds)}")


def _artifacts(path: Path) -> list[Path]:
    """Return the artifact in a folder, or all of a run but those that only show others."""
    if is_run(path):
        return [path / name for name in run_artifacts(path, views())]
    if not (path / MANIFEST).exists():
        raise UserError("no artifact of a run", where=str(path), expected=f"a folder with {MANIFEST}, or a run folder")
    return [path]


def _one_run(folders: list[Path]) -> Path:
    """Return the run in which all these artifacts lie: the other seeds' nodes are found by the same names."""
    runs = sorted({folder.parent for folder in folders})
    if len(runs) != 1:
        raise UserError(
            "`seeds` joins nodes of one run, `of` names others",
            where=", ".join(map(str, runs)) or None,
            expected="nodes of one run in `of`",
        )
    return runs[0]


def _run(path: Path) -> Path:
    """Return the folder of a run; a `UserError` where it is none."""
    if not is_run(path):
        raise UserError("no run in this folder", where=str(path), expected="a folder that `qwenkit run` made")
    return path
