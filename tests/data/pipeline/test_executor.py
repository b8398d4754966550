"""Shards that an earlier start left: used when they are what was written, made again when not; workers end in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qwenkit.artifacts import signature
from qwenkit.data.pipeline.config import CorpusConfig
from qwenkit.data.pipeline.executor import Executor
from qwenkit.data.pipeline.steps import read_part
from qwenkit.data.readers.documents import Source, SourceSplit
from qwenkit.errors import UserError

TASKS = [(n,) for n in range(3)]


def square(out: Path, number: int) -> dict[str, Any]:
    (out / "rows").write_text(str(number**2) * 100)
    return {"number": number, "times": {3: 0.5, 20: None}}


def build(folder: Path) -> list[float]:
    """Make what is to be made; the times at which the chunks were."""
    with Executor(folder) as work:
        marks = work.run_phase("squares", 1, TASKS, square)
    assert [mark["number"] for mark in marks] == [0, 1, 2]
    return [(folder / f"squares/0000{n}/rows").stat().st_mtime_ns for n in range(3)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a bit": lambda chunk: flip(chunk / "rows"),
    "cut": lambda chunk: (chunk / "rows").write_text("1"),
    "gone": lambda chunk: (chunk / "rows").unlink(),
    "one more": lambda chunk: (chunk / "more").write_text(""),
    "no mark": lambda chunk: (chunk / "mark.json").unlink(),
    "an empty mark": lambda chunk: (chunk / "mark.json").write_text(""),
    "a mark of nothing": lambda chunk: (chunk / "mark.json").write_text("{}"),
    "another mark": lambda chunk: (chunk / "mark.json").write_text(
        (chunk / "mark.json").read_text().replace('"number": 1', '"number": 2')
    ),
    "a list": lambda chunk: (chunk / "mark.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_chunk_alone_is_made_again(tmp_path: Path, damage: Any) -> None:
    before = build(tmp_path)
    assert build(tmp_path) == before
    damage(tmp_path / "squares/00001")
    after = build(tmp_path)
    assert [old == new for old, new in zip(before, after)] == [True, False, True]
    assert (tmp_path / "squares/00001/rows").read_text() == "1" * 100 and build(tmp_path) == after


@pytest.mark.parametrize("text", ["", "{", "null"])
def test_a_damaged_key_makes_the_phase_anew(tmp_path: Path, text: str) -> None:
    before = build(tmp_path)
    (tmp_path / "squares/key.json").write_text(text)
    after = build(tmp_path)
    assert all(old != new for old, new in zip(before, after)) and build(tmp_path) == after


def test_what_a_kill_left_half_goes(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "squares/00001.4711.part").mkdir()
    build(tmp_path)
    assert not list(tmp_path.glob("*/*.part"))


WORK = """
import os, sys, time
from pathlib import Path
from qwenkit.data.pipeline.executor import Executor

def wait(out, folder):
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(600)

if __name__ == "__main__":
    with Executor(Path(sys.argv[1]) / "work", workers=2) as work:
        work.run_phase("wait", 1, [(sys.argv[1],), (sys.argv[1],)], wait)
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    while len(workers := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(map(alive, workers)):  # the suite's own limit ends this where they live on
        time.sleep(0.05)
    with Executor(tmp_path / "work") as work:
        assert work.run_phase("wait", 1, TASKS, square)


def alive(pid: int) -> bool:
    """Whether a process works; one that nobody has asked after yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def swap(path: Path, text: str) -> None:
    """Another file in its place, of the same size and time."""
    stat = path.stat()
    path.with_name("new").write_text(text)
    path.with_name("new").replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_file_that_was_replaced_is_not_read_under_the_old_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "the old text"}))
    seen = [signature(path)]
    swap(path, json.dumps({"text": "the new text"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="the file changed while it was read"):
        read_part(tmp_path / "out", SourceSplit((str(path),)), Source("a", path), CorpusConfig(), seen)
