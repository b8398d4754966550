"""The scratch folders of a run, `.work/NODE-KEY`: what they are called, how often each was worked in, and which of
them an artifact has overtaken.

An artifact notes at publishing which other scratch folders of its node there were, and after how many starts
(`overtook` in run.json): those that were not worked in since are of other keys and of the past. No clock is asked, for
clocks are set and files are copied.
"""

from __future__ import annotations

from pathlib import Path

from qwenkit.artifacts import RUN
from qwenkit.errors import UserError
from qwenkit.records import read_json, read_object, write_json
from qwenkit.stages.results import mapping

WORK, ATTEMPTS, OVERTOOK = ".work", "attempts.json", "overtook"


def scratch_of(run_dir: Path, node: str, key: str) -> Path:
    """The scratch folder of a node with a key."""
    return run_dir / WORK / f"{node}-{key[:12]}"


def all_of(run_dir: Path) -> list[Path]:
    """Every scratch folder of a run."""
    return sorted((run_dir / WORK).glob("*"))


def node_of(scratch: Path) -> str:
    """The node that a scratch folder is of; empty where its name is of no node."""
    return scratch.name.rpartition("-")[0]


def attempts_of(scratch: Path) -> int:
    """How often work was started in a scratch folder; what cannot be read counts as never."""
    try:
        attempts = read_json(scratch / ATTEMPTS)
    except UserError:
        return 0
    return attempts if isinstance(attempts, int) and attempts > 0 else 0


def count_attempt(scratch: Path) -> int:
    """How often this node's work has been started, this time included."""
    attempts = 1 + attempts_of(scratch)
    write_json(scratch / ATTEMPTS, attempts)
    return attempts


def others_of(scratch: Path) -> dict[str, int]:
    """The other scratch folders of the same node, and how often each was worked in."""
    known = (path for path in all_of(scratch.parent.parent) if node_of(path) == node_of(scratch))
    return {path.name: attempts_of(path) for path in known if path != scratch}


def overtaken(scratch: Path, run_dir: Path) -> bool:
    """Whether the published artifact of the node came after the last work in this scratch folder."""
    try:
        noted = mapping(read_object(run_dir / node_of(scratch) / RUN).get(OVERTOOK))
    except UserError:
        return False
    return noted.get(scratch.name) == attempts_of(scratch) and type(noted[scratch.name]) is int
