"""Read a run folder for the report card and `qwenkit status`: artifacts, events, numbers.

Nothing here fails on a run that stopped half way: what is missing is absent (`None`, an empty list), and the card says
"not run". Views of the event log keep, for each (node, step), the row that was written last; a node that was started
afresh (`node_start`, as opposed to `resumed`) forgets the rows of its superseded artifact. Only the alarms of a node's
last attempt count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.errors import UserError
from qwenkit.events import read_events
from qwenkit.json_values import mapping, number, sequence
from qwenkit.records import Row, read_json
from qwenkit.stages import KINDS, load_stage

NOT_RUN, DONE, FAILED, UNFINISHED = "not run", "done", "failed", "not finished"


@dataclass
class NodeView:
    """One node of a run as the report card shows it."""

    name: str
    kind: str = ""
    state: str = NOT_RUN
    headline: str = ""
    reason: str = ""  # why it failed
    planned_minutes: float | None = None
    planned_mb: float | None = None
    checkpoint: tuple[int, int] | None = None  # the last step saved, and the last step of all
    manifest: Row = field(default_factory=dict)
    run: Row = field(default_factory=dict)
    steps: list[Row] = field(default_factory=list)
    evals: list[Row] = field(default_factory=list)
    alarms: list[Row] = field(default_factory=list)
    earlier_alarms: list[Row] = field(default_factory=list)  # of attempts before the last one

    @property
    def metrics(self) -> Row:
        """Return the metrics of the manifest."""
        return mapping(self.manifest.get("metrics"))

    @property
    def older_code(self) -> str:
        """Return a note that another version of its stage made the artifact, or ""."""
        made, kind = self.manifest.get("version"), str(self.manifest.get("kind", ""))
        present = load_stage(kind).VERSION if kind in KINDS else made
        return "" if made == present else f"made by version {made} of `{kind}`, now {present}"

    @property
    def parents(self) -> list[str]:
        """Return the names of the nodes that this one reads, each once."""
        return list(dict.fromkeys(self.sources.values()))

    @property
    def sources(self) -> dict[str, str]:
        """Return the nodes that this one reads, by the name of the input."""
        nodes = {key: mapping(item).get("node") for key, item in mapping(self.manifest.get("inputs")).items()}
        return {key: name for key, name in nodes.items() if isinstance(name, str) and name}


@dataclass
class RunView:
    """A whole run: its nodes in the order in which they ran; `about` is the recipe's description of itself."""

    name: str
    nodes: dict[str, NodeView]
    run: Row
    seeds: Row = field(default_factory=dict)  # what the report node says of other seeds; empty when it joins none
    about: str = ""

    def of_kind(self, *kinds: str) -> Iterator[NodeView]:
        """Return the published nodes of these kinds."""
        return (node for node in self.nodes.values() if node.kind in kinds and node.state == DONE)

    def first(self, kind: str) -> NodeView | None:
        """Return the first published node of a kind, or None."""
        return next(self.of_kind(kind), None)


def load_run(run_dir: Path, report: Path | None = None) -> RunView:
    """Return everything that the report card needs of `run_dir`, and of the artifact of a report. Unreadable parts
    count as missing.

    Raises a `UserError` where there is no such folder."""
    if not run_dir.is_dir():
        raise UserError("no such run folder", where=str(run_dir), expected="a folder runs/NAME made by `qwenkit run`")
    run = _json(run_dir / "run.json")
    nodes = {name: _planned(name, mapping(row)) for name, row in mapping(run.get("nodes")).items()}
    for event in read_events(run_dir / "events.jsonl"):
        _take_event(event, nodes)
    for path in sorted(run_dir.glob("*/manifest.json")):
        _take_artifact(path.parent, nodes)
    for node in nodes.values():
        node.steps, node.evals = (_in_order(rows) for rows in (node.steps, node.evals))
    seeds = _json(report / "seeds.json") if report else {}
    name, about = str(run.get("recipe") or run_dir.resolve().name), str(run.get("about") or "")
    return RunView(name, _by_start(nodes), run, seeds, about)


def _planned(name: str, row: Row) -> NodeView:
    minutes, memory = _plans(row)
    return NodeView(name, str(row.get("kind", "")), planned_minutes=minutes, planned_mb=memory)


def _plans(row: Row) -> tuple[float | None, float | None]:
    """Return the planned minutes and memory."""
    return number(row.get("planned_minutes")), number(row.get("planned_mb"))


def _take_event(event: Row, nodes: dict[str, NodeView]) -> None:
    kind, name = event["event"], event.get("node")
    if kind == "run_start":
        for planned in sequence(event.get("nodes")):
            nodes.setdefault(str(planned), NodeView(str(planned)))
    if not isinstance(name, str):
        return
    node = nodes.setdefault(name, NodeView(name))
    if kind == "node_start":
        node.steps, node.evals, node.alarms, node.earlier_alarms, node.checkpoint = [], [], [], [], None
    if kind in ("node_start", "resumed"):
        node.state, node.reason = UNFINISHED, ""
        node.earlier_alarms, node.alarms = node.earlier_alarms + node.alarms, []
    elif kind in ("node_done", "node_skipped"):
        node.state, node.reason = DONE, ""
    elif kind == "node_failed":
        node.state, node.reason = FAILED, str(event.get("reason") or event.get("error") or "")
    elif kind == "checkpoint" and isinstance(event.get("step"), int) and isinstance(event.get("until"), int):
        node.checkpoint = (event["step"], event["until"])
    elif kind in ("step", "eval", "alarm"):
        {"step": node.steps, "eval": node.evals, "alarm": node.alarms}[kind].append(event)


def _take_artifact(folder: Path, nodes: dict[str, NodeView]) -> None:
    manifest = _json(folder / "manifest.json")
    if not manifest:
        return
    node = nodes.setdefault(folder.name, NodeView(folder.name))
    node.manifest, node.run = manifest, _json(folder / "run.json")
    minutes, memory = _plans(node.run)
    node.planned_minutes, node.planned_mb = node.planned_minutes or minutes, node.planned_mb or memory
    node.kind, node.headline = str(manifest.get("kind", "")), str(manifest.get("headline", ""))
    if node.state == NOT_RUN or (node.state == UNFINISHED and _published_after(node, folder)):
        node.state = DONE


def _published_after(node: NodeView, folder: Path) -> bool:
    """Return whether the artifact was published after the last start: a node at work has a scratch folder."""
    return not any((folder.parent / ".work").glob(f"{node.name}-*"))


def _in_order(rows: list[Row]) -> list[Row]:
    latest = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
    return [latest[step] for step in sorted(latest)]


def _by_start(nodes: dict[str, NodeView]) -> dict[str, NodeView]:
    """Return parents before children, otherwise in the order of the log, then by start time."""
    waiting = sorted(nodes.values(), key=lambda node: number(node.run.get("started")) or math.inf)
    placed: dict[str, NodeView] = {}
    while waiting:
        ready = next((n for n in waiting if all(p in placed or p not in nodes for p in n.parents)), waiting[0])
        waiting.remove(ready)
        placed[ready.name] = ready
    return placed


def _json(path: Path) -> Row:
    try:
        return mapping(read_json(path))
    except (UserError, OSError, RecursionError):
        return {}
