"""`qwenkit clean`: what can be removed from a run folder without losing work.

Superseded artifacts (`.old`) can, and scratch folders that the published artifact of their node has overtaken
(`scratch`). Scratch that was worked in later holds checkpoints of a node that a kill, a full disk or a Ctrl-C stopped:
it is removed only on request. Links are never followed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from qwenkit.artifacts import locked, refuse_links
from qwenkit.errors import UserError
from qwenkit.lineage.scratch import WORK, all_of, overtaken
from qwenkit.lineage.status import refuse_no_run


@dataclass(frozen=True)
class Cleaned:
    """The bytes that were freed, and the scratch folders that were kept, each with its bytes."""

    freed: int = 0
    kept: dict[str, int] = field(default_factory=dict)


def clean(run_dir: Path, unfinished: bool = False) -> Cleaned:
    """Remove what no run will read again; with `unfinished` also what a run would continue."""
    refuse_no_run(run_dir)
    refuse_links(run_dir)
    with locked(run_dir, "run folder"):
        kept = [folder for folder in all_of(run_dir) if not unfinished and not overtaken(folder, run_dir)]
        gone = [*(run_dir / ".old").glob("*"), *(folder for folder in all_of(run_dir) if folder not in kept)]
        cleaned = Cleaned(sum(map(size, gone)), {folder.name: size(folder) for folder in kept})
        for folder in gone:
            remove(folder)
        for parent in (run_dir / ".old", run_dir / WORK):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    return cleaned


def remove(path: Path) -> None:
    """Remove a folder, a file or a link; never what a link points to."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise UserError(f"it cannot be removed ({error.strerror})", where=str(error.filename or path)) from error


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder, or of a file."""
    if folder.is_symlink():
        return 0
    files = [folder] if folder.is_file() else folder.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
