"""`qwenkit clean` frees what nothing reads again; what a run would go on with it keeps unless asked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.lineage.gc import clean
from qwenkit.lineage.scratch import count_attempt
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
    """A node stopped under some keys and was then finished under others. What was worked in after that stays, whatever
    the clocks say."""
    old, again = scratch("two-0123456789ab", 100), scratch("two-abcdef012345", 1000)
    for folder in (old, again):
        count_attempt(folder)
    shutil.move(RUN / ".work", "kept")
    go(toy)
    (RUN / ".work").rmdir()
    shutil.move("kept", RUN / ".work")
    assert list(clean(RUN).kept) == [old.name, again.name]  # nothing says that they are of the past
    with pytest.raises(Stopped):
        go(toy, "two.text=explode")
    go(toy, "two.text=c")
    count_attempt(again)
    new = scratch("two-fedcba987654", 10)
    os.utime(RUN / "two/manifest.json", (2**33, 2**33))
    found = clean(RUN)
    assert found.freed > 100 and list(found.kept) == [again.name, new.name]
    assert sorted(path.name for path in (RUN / ".work").iterdir()) == [again.name, new.name]


@pytest.mark.parametrize("name", [".old", ".work", ".work/two-0123456789ab", ".work/two-0123456789ab/checkpoints"])
def test_nothing_behind_a_link_is_removed(toy: Path, name: str) -> None:
    go(toy)
    victim = Path("victim/two-0123456789ab")
    victim.mkdir(parents=True)
    (victim / "mine").write_text("mine")
    if name == ".work":
        (RUN / name).rmdir()
    (RUN / name).parent.mkdir(parents=True, exist_ok=True)
    (RUN / name).symlink_to(Path("victim").resolve(), target_is_directory=True)
    for refused in (lambda: clean(RUN, unfinished=True), lambda: go(toy, "two.text=c")):
        with pytest.raises(UserError, match="a link in a run folder"):
            refused()
    assert (victim / "mine").read_text() == "mine"


def test_a_superseded_link_goes_alone(toy: Path) -> None:
    go(toy)
    Path("victim").mkdir()
    (Path("victim") / "mine").write_text("mine")
    shutil.rmtree(RUN / "two")
    (RUN / "two").symlink_to(Path("victim").resolve(), target_is_directory=True)
    assert go(toy) == ["two"]
    assert clean(RUN).freed == 0 and (Path("victim") / "mine").exists() and not (RUN / ".old").exists()


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
