"""The status of a run folder: every node of the recipe and how far it is, every artifact and whether it is intact.

One broken manifest never hides the rest: what cannot be read is a line like the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from qwenkit import artifacts
from qwenkit.artifacts import MANIFEST
from qwenkit.errors import UserError
from qwenkit.json_values import number
from qwenkit.lineage.run_reader import DONE, FAILED, NOT_RUN, UNFINISHED, NodeView, load_run
from qwenkit.records import Row

DAMAGED, NEWER = "damaged", "newer"
HINT = "remove the folder; the next `qwenkit run` makes it again"


@dataclass(frozen=True)
class NodeStatus:
    """One node: `state` is that of the report card, or `damaged` (corrupted), or `newer` (than this qwenkit); `detail`
    is its headline, or what keeps it from one."""

    node: str
    kind: str
    state: str
    detail: str
    planned_minutes: float | None
    minutes: float | None
    attempts: int | None
    digest: str
    older_code: str
    """A note where another version of the stage made it; else empty."""


@dataclass(frozen=True)
class RunStatus:
    """All nodes, parents before children; the alarms of their last attempts; and messages about artifacts that are
    corrupted or of a newer qwenkit."""

    nodes: list[NodeStatus]
    alarms: list[Row]
    damage: list[str]
    newer: list[str]

    def plain(self) -> Row:
        """Return the status as JSON values."""
        return asdict(self)


def read_status(run_dir: Path) -> RunStatus:
    """Return the status of a run folder; raises a `UserError` only where it is not one."""
    refuse_no_run(run_dir)
    nodes: list[NodeStatus] = []
    view = load_run(run_dir)
    folders = artifact_folders(run_dir)
    for name in dict.fromkeys([*view.nodes, *(folder.name for folder in folders)]):
        state, fault = _fault(run_dir / name) if run_dir / name in folders else ("", "")
        nodes.append(_status(view.nodes.get(name) or NodeView(name), state, fault))
    damage, newer = ([node.detail for node in nodes if node.state == state] for state in (DAMAGED, NEWER))
    return RunStatus(nodes, [alarm for node in view.nodes.values() for alarm in node.alarms], damage, newer)


def refuse_no_run(run_dir: Path, where: str | None = None) -> None:
    """Raise a `UserError` for a folder that is not a run: a run has a run.json and is not an artifact."""
    if not artifacts.is_run(run_dir):
        where = where or str(run_dir)
        raise UserError("no run in this folder", where=where, expected="a folder that `qwenkit run` made")


def artifact_folders(run_dir: Path) -> list[Path]:
    """Return every folder of a run in which an artifact is, or should be."""
    known = load_run(run_dir).nodes
    folders = (path for path in sorted(run_dir.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [path for path in folders if path.name in known or (path / MANIFEST).exists()]


def _fault(folder: Path) -> tuple[str, str]:
    """Return whether and why the manifest or run.json of an artifact cannot be read; `qwenkit verify` checks its
    files."""
    try:
        artifacts.read_manifest(folder)
        artifacts.read_run(folder)
    except UserError as error:
        return NEWER if artifacts.is_newer(folder) else DAMAGED, error.text()
    return "", ""


def _status(node: NodeView, fault: str, why: str) -> NodeStatus:
    state, detail = (fault, why) if fault else _progress(node)
    seconds, attempts = number(node.run.get("seconds")), number(node.run.get("attempts"))
    return NodeStatus(
        node.name, node.kind, state, detail, node.planned_minutes,
        None if seconds is None else seconds / 60, None if attempts is None else int(attempts),
        str(node.manifest.get("digest", "")), "" if fault else node.older_code,
    )  # fmt: skip


def _progress(node: NodeView) -> tuple[str, str]:
    """Return how far a node is, and the words for it."""
    if node.state == DONE and not node.manifest:
        return NOT_RUN, "its artifact is gone"
    if node.state == FAILED:
        return FAILED, node.reason
    if node.state == UNFINISHED:
        step, until = node.checkpoint or (0, 0)
        return UNFINISHED, f"checkpoint at step {step} of {until}" if until else "no checkpoint yet"
    return node.state, node.headline


def verify(run_dir: Path) -> dict[Path, list[str]]:
    """Return what is wrong with every artifact of a run, or with one alone, after hashing all files; empty for intact
    ones."""
    if (run_dir / MANIFEST).exists():
        return {run_dir: _wrong(run_dir)}
    refuse_no_run(run_dir)
    return {folder: _wrong(folder) for folder in artifact_folders(run_dir)}


def hint_of(faults: dict[Path, list[str]]) -> str | None:
    """Return what to do about the faults that `verify` returned, or None. Artifacts of a newer qwenkit are intact, and
    their own line says to upgrade."""
    wrong = [line for folder, lines in faults.items() for line in lines if not artifacts.is_newer(folder)]
    if not wrong:
        return None
    return artifacts.MOVE if artifacts.only_stray(wrong) else HINT


def _wrong(folder: Path) -> list[str]:
    try:
        return [f"{folder / line}" for line in artifacts.damage(folder)]
    except UserError as error:
        return [error.text()]
