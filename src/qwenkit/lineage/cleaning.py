"""`qwenkit clean`: what of a run folder can go without losing work.

Superseded artifacts (`.old`) can, and scratch that the published artifact of its node has overtaken. Scratch that was
worked at later holds checkpoints of a node that a kill, a full disk or a Ctrl-C stopped: it goes only when asked for.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.artifacts import MANIFEST, locked
from qwenkit.lineage.status import refuse_no_run


@dataclass(frozen=True)
class Cleaned:
    """Bytes that were freed, and the scratch folders that were kept, each with its bytes."""

    freed: int = 0
    kept: dict[str, int] = field(default_factory=dict)


def clean(run_dir: Path, unfinished: bool = False) -> Cleaned:
    """Remove what no run will read again; with `unfinished` also what a run would go on with."""
    refuse_no_run(run_dir)
    with locked(run_dir, "run folder"):
        scratch = sorted((run_dir / ".work").glob("*"))
        kept = [folder for folder in scratch if not unfinished and not overtaken(folder, run_dir)]
        gone = [*(run_dir / ".old").glob("*"), *(folder for folder in scratch if folder not in kept)]
        found = Cleaned(sum(map(size, gone)), {folder.name: size(folder) for folder in kept})
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in (run_dir / ".old", run_dir / ".work"):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    return found


def overtaken(scratch: Path, run_dir: Path) -> bool:
    """Whether the node's artifact was published after the last work in this scratch, which is of other keys then."""
    published = run_dir / scratch.name.rpartition("-")[0] / MANIFEST
    last = max(path.stat().st_mtime_ns for path in [scratch, *scratch.rglob("*")])
    return published.exists() and published.stat().st_mtime_ns > last


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
