"""`qwenkit clean` frees what nothing reads again; what a run would go on with it keeps unless asked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.lineage.cleaning import clean
from tests.errors.desk import call
from tests.lineage.test_runner import go

RUN = Path("runs/toy")


def scratch(name: str, size: int) -> Path:
    folder = RUN / ".work" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "state").write_bytes(b"x" * size)
    return folder


def test_superseded_goes_and_unfinished_stays(toy: Path) -> None:
    go(toy)
    go(toy, "two.text=c")
    with pytest.raises(Stopped):
        go(toy, "two.text=explode")
    (unfinished,) = (RUN / ".work").iterdir()
    assert list((RUN / ".old").iterdir())
    found = clean(RUN)
    assert found.freed > 0 and list(found.kept) == [unfinished.name]
    assert (unfinished / "attempts.json").exists() and not (RUN / ".old").exists()
    assert go(toy, "two.text=c") == []
    assert clean(RUN, unfinished=True).kept == {} and not (RUN / ".work").exists()


def test_scratch_that_an_artifact_has_overtaken_goes(toy: Path) -> None:
    """A node stopped under some keys and was then finished under others."""
    go(toy)
    old, new = scratch("two-0123456789ab", 100), scratch("big-0123456789ab", 10)
    for path in (old, *old.rglob("*")):
        os.utime(path, ns=(0, 0))
    found = clean(RUN)
    assert (found.freed, found.kept) == (100, {new.name: 10})
    assert new.exists() and not old.exists()


def test_the_command_tells_what_it_kept(toy: Path) -> None:
    go(toy)
    scratch("two-0123456789ab", 2_000_000)
    assert call("clean runs/toy")[1] == (
        "freed 0.0 MB\nkept two-0123456789ab (2.0 MB): the next run goes on from there; --unfinished removes it\n"
    )
    assert json.loads(call("clean runs/toy --json")[1]) == {"freed": 0, "kept": {"two-0123456789ab": 2_000_000}}
    assert json.loads(call("clean runs/toy --unfinished --json")[1]) == {"freed": 2_000_000, "kept": {}}
    with pytest.raises(UserError, match="no run in this folder"):
        clean(Path("."))
