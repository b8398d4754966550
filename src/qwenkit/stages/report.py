"""`report`: the results of a run in one file. `results.json` holds every node's metrics and headline, nothing that
differs between two clean runs.

The page for people, `report.html` (and `report.md`), is drawn into the run folder at the end of every run, because it
also shows what no digest may hold: times, memory, alarms.
"""

from __future__ import annotations

from typing import Any

from qwenkit.artifacts import MANIFEST, read_manifest
from qwenkit.config import StageConfig, edge
from qwenkit.errors import UserError
from qwenkit.records import write_json
from qwenkit.stages.base import Input, Result, Work, many

VERSION = 1


class Config(StageConfig):
    """What the report is about."""

    of: list[str] = edge(doc="the nodes whose results it gathers", many=True)


def run(config: Config, inputs: dict[str, Input], work: Work) -> Result:
    """Gather metrics and headlines."""
    results: dict[str, Any] = {}
    for source in many(inputs, "of"):
        if not (source.path / MANIFEST).exists():
            raise UserError("no artifact of a run", where=str(source.path), expected=f"a folder with {MANIFEST}")
        manifest = read_manifest(source.path)
        results[manifest.node] = {"kind": manifest.kind, "headline": manifest.headline, "metrics": manifest.metrics}
    write_json(work.out / "results.json", results)
    return Result({"nodes": len(results)}, f"results of {len(results)} nodes")
