"""Every mistake is answered by one exact message and exit code, and leaves nothing half-written."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.errors.cases import CASES, Case
from tests.errors.cases.case import SFT
from tests.errors.desk import Desk, call

KEY = re.compile(r"-[0-9a-f]{12}(?=[/:])")
BOOKS = {"run.json", "events.jsonl", ".lock"}
REAL_PROCESS = {"broken TOML: value missing", "unknown verb", "chat on nothing", "status of nothing"}


def tree(folder: Path) -> dict[str, str]:
    """Every file and the digest of its bytes; folders have none."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def test_there_are_enough_cases_with_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 45
    assert {case.code for case in CASES} >= {1, 2}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_message(case: Case, desk: Desk) -> None:
    case.prepare(desk)
    before = tree(desk.tmp)
    code, _, err = call(case.command)
    assert KEY.sub("-KEY", err.replace(str(desk.tmp), "{tmp}")) == case.stderr
    assert code == case.code
    changed = {name for name, digest in tree(desk.tmp).items() if before.get(name) != digest}
    unwanted = [name for name in changed if not (case.started and in_order(name))]
    assert not unwanted and not before.keys() - tree(desk.tmp).keys()


def in_order(name: str) -> bool:
    """What a run that began may leave: its books and its scratch, but no artifact and no temporary file."""
    parts = Path(name).parts
    if name.endswith((".tmp", ".part")) or (".work" in parts and parts[-1] == "manifest.json"):
        return False
    return name == "runs" or len(parts) <= 2 or parts[2] in BOOKS | {".work"}


@pytest.mark.parametrize("case", [c for c in CASES if c.name in REAL_PROCESS], ids=lambda case: case.name)
def test_message_of_a_real_process(case: Case, desk: Desk) -> None:
    case.prepare(desk)
    command = [sys.executable, "-m", "qwenkit.cli", *case.command.split()]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (found.stderr, found.returncode) == (case.stderr, case.code)


def test_a_disk_that_fills_while_a_checkpoint_is_written(desk: Desk) -> None:
    """Simulated by the largest size of a file, which a quota would set as well; torch's own words for it are none."""
    desk.family()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, usual[1]))
    try:
        code, _, err = call(f"{SFT.replace('bad.jsonl', 'chat.jsonl')} --warmup-steps 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (KEY.sub("-KEY", err), code) == (
        "error: runs/o/.work/sft-KEY/checkpoints/step-00000001.part: the disk is full, `sft` stopped\n"
        "  hint: free some space (`qwenkit clean` keeps unfinished work), then the same command goes on from here\n", 2
    )  # fmt: skip
    assert not (desk.tmp / "runs/o/sft").exists()
    assert call(f"{SFT.replace('bad.jsonl', 'chat.jsonl')} --warmup-steps 0 -q")[0] == 0
