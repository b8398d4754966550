"""The scratch folders of a run, `.work/NODE-KEY`: their names, how often work was started in each, and which of them an
artifact has overtaken.

When an artifact is published it records which other scratch folders of its node there were, and after how many starts
(`overtook` in run.json): those without a later start belong to other keys and are outdated. No clock is used, as clocks
are set and files are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qwenkit.artifacts import RUN
from qwenkit.errors import UserError
from qwenkit.json_values import mapping, sequence
from qwenkit.records import read_json, read_object, write_json
from qwenkit.toml_file import differences

WORK, ATTEMPTS, VERSIONS, OVERTOOK = ".work", "attempts.json", "versions.json", "overtook"


def scratch_of(run_dir: Path, node: str, key: str) -> Path:
    """Return the scratch folder of a node with a key."""
    return run_dir / WORK / f"{node}-{key[:12]}"


def all_of(run_dir: Path) -> list[Path]:
    """Return every scratch folder of a run."""
    return sorted((run_dir / WORK).glob("*"))


def node_of(scratch: Path) -> str:
    """Return the node of a scratch folder, or "" for another name."""
    return scratch.name.rpartition("-")[0]


def attempts_of(scratch: Path) -> int:
    """Return how often work was started in a scratch folder; 0 where that cannot be read."""
    try:
        attempts = read_json(scratch / ATTEMPTS)
    except UserError:
        return 0
    return attempts if isinstance(attempts, int) and attempts > 0 else 0


def count_attempt(scratch: Path) -> int:
    """Record one more start of work in a scratch folder; return how many there were."""
    attempts = 1 + attempts_of(scratch)
    write_json(scratch / ATTEMPTS, attempts)
    return attempts


def note_versions(scratch: Path, versions: Mapping[str, str]) -> list[str]:
    """Record the versions that work goes on with, after its attempt was counted. Return which ones have changed since
    the first attempt, in words and in order: what is continued may be of each of them."""
    changes: list[str] = []
    if attempts_of(scratch) > 1:
        try:
            known = mapping(read_json(scratch / VERSIONS))
        except UserError:
            known = {}
        earlier = mapping(known.get("versions"))
        new = differences(earlier, {**versions}) if earlier else ["those of earlier attempts are not known"]
        changes = [*map(str, sequence(known.get("changes"))), *new]
    write_json(scratch / VERSIONS, {"versions": {**versions}, "changes": changes})
    return changes


def others_of(scratch: Path) -> dict[str, int]:
    """Return the other scratch folders of the same node, and how often work was started in each."""
    known = (path for path in all_of(scratch.parent.parent) if node_of(path) == node_of(scratch))
    return {path.name: attempts_of(path) for path in known if path != scratch}


def overtaken(scratch: Path, run_dir: Path) -> bool:
    """Return whether the node's artifact was published after the last work in this scratch folder."""
    try:
        noted = mapping(read_object(run_dir / node_of(scratch) / RUN).get(OVERTOOK))
    except UserError:
        return False
    return noted.get(scratch.name) == attempts_of(scratch) and type(noted[scratch.name]) is int
