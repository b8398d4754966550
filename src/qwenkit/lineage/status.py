"""What stands in a run folder: every node of the recipe and how far it is, every artifact and whether it is whole.

One broken manifest never hides the rest: what cannot be read is a line like the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenkit import artifacts
from qwenkit.artifacts import MANIFEST
from qwenkit.errors import UserError
from qwenkit.lineage.view import DONE, FAILED, NOT_RUN, UNFINISHED, NodeView, load_run, number

DAMAGED = "damaged"
MEND = "remove the folder; the next `qwenkit run` makes it again"


@dataclass(frozen=True)
class NodeStatus:
    """One node: `state` is that of the report card, or `damaged`; `detail` its headline, or what keeps it from one."""

    node: str
    kind: str
    state: str
    detail: str
    planned_minutes: float | None
    minutes: float | None
    attempts: int | None
    digest: str


@dataclass(frozen=True)
class RunStatus:
    """All nodes, parents before children; the alarms of their last attempts; what is damaged, as told to the user."""

    nodes: list[NodeStatus]
    alarms: list[dict[str, Any]]
    damage: list[str]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def read_status(run_dir: Path) -> RunStatus:
    """Read a run folder; a `UserError` only where it is none."""
    refuse_no_run(run_dir)
    nodes, damage = [], []
    view = load_run(run_dir)
    folders = artifact_folders(run_dir)
    for name in dict.fromkeys([*view.nodes, *(folder.name for folder in folders)]):
        fault = _fault(run_dir / name) if run_dir / name in folders else None
        nodes.append(_status(view.nodes.get(name) or NodeView(name), fault))
        damage += [fault] if fault else []
    return RunStatus(nodes, [alarm for node in view.nodes.values() for alarm in node.alarms], damage)


def refuse_no_run(run_dir: Path, where: str | None = None) -> None:
    """A run folder has a run.json and is no artifact."""
    if not artifacts.is_run(run_dir):
        where = where or str(run_dir)
        raise UserError("no run in this folder", where=where, expected="a folder that `qwenkit run` made")


def artifact_folders(run_dir: Path) -> list[Path]:
    """Every folder of a run in which an artifact stands, or should stand."""
    known = load_run(run_dir).nodes
    folders = (path for path in sorted(run_dir.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [path for path in folders if path.name in known or (path / MANIFEST).exists()]


def _fault(folder: Path) -> str | None:
    """Why the books of an artifact cannot be read; its files are not looked at, `qwenkit verify` hashes them."""
    try:
        artifacts.read_manifest(folder)
        artifacts.read_run(folder)
    except UserError as error:
        return error.text()
    return None


def _status(node: NodeView, fault: str | None) -> NodeStatus:
    state, detail = (DAMAGED, fault) if fault else _progress(node)
    seconds, attempts = number(node.run.get("seconds")), number(node.run.get("attempts"))
    return NodeStatus(
        node.name, node.kind, state, detail, node.planned_minutes,
        None if seconds is None else seconds / 60, None if attempts is None else int(attempts),
        str(node.manifest.get("digest", "")),
    )  # fmt: skip


def _progress(node: NodeView) -> tuple[str, str]:
    """How far a node is, and the words for it."""
    if node.state == DONE and not node.manifest:
        return NOT_RUN, "its artifact is gone"
    if node.state == FAILED:
        return FAILED, node.reason
    if node.state == UNFINISHED:
        step, until = node.checkpoint or (0, 0)
        return UNFINISHED, f"checkpoint at step {step} of {until}" if until else "no checkpoint yet"
    return node.state, node.headline


def verify(run_dir: Path) -> dict[Path, list[str]]:
    """Hash every artifact again, of a run or one alone: what is wrong with each, nothing for a whole one."""
    if (run_dir / MANIFEST).exists():
        return {run_dir: _wrong(run_dir)}
    refuse_no_run(run_dir)
    return {folder: _wrong(folder) for folder in artifact_folders(run_dir)}


def _wrong(folder: Path) -> list[str]:
    try:
        return [f"{folder / line}" for line in artifacts.damage(folder)]
    except UserError as error:
        return [error.text()]
