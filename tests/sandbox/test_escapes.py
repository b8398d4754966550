"""The escape suite: programs that try to get out, or to take more than they may, in each tier that works here, run by
root and by an ordinary user. A program that is not refused says `ESCAPED`; one that could not be run at all says
nothing, and fails as well."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qwenkit
from qwenkit.sandbox import places, probe
from qwenkit.sandbox.probe import BACKENDS

HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in (HERE / "escapes").glob("*.py"))
USER = 54_321
"""An ordinary user whom nobody else is."""
PLACES = [(tier, who) for tier in BACKENDS for who in ("root", "user")]


def python_for(who: str) -> str:
    """Return a Python that this user may run; skip where there is none."""
    if who == "user" and os.geteuid() == 0:
        candidates = [sys.executable, "/usr/bin/python3"]
        source = Path(qwenkit.__file__).parent
        for path in candidates:
            if os.access(path, os.X_OK) and all(map(places.enterable, [os.path.realpath(path), path, str(source)])):
                return path
        pytest.skip("an ordinary user can reach no Python, or not this package")
    if who == "root" and os.geteuid() != 0:
        pytest.skip("the tests are not run by root")
    return sys.executable


@functools.cache
def records(tier: str, who: str) -> dict[str, Any]:
    """Return what came of all programs, by name; "" has what was left behind."""
    python = python_for(who)
    if tier == "bwrap" or who == "root":
        state = probe(tier)  # pyright: ignore[reportArgumentType]
        if not state.works and (tier == "bwrap" or os.geteuid() == 0):
            pytest.skip(f"the tier does not work here: {state.reason}")
    user: dict[str, Any] = dict(user=USER, group=USER, extra_groups=[]) if who == "user" and os.geteuid() == 0 else {}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(qwenkit.__file__).parents[1])}
    command = [python, "-B", str(HERE / "runner.py"), tier]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd="/", env=environment, **user)
    if "there is no sandbox here" in done.stderr:
        pytest.skip(f"the tier does not work here for this user: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}


def test_there_are_enough() -> None:
    assert len(PROGRAMS) >= 80


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("tier", "who"), PLACES)
def test_a_program_stays_inside(tier: str, who: str, name: str) -> None:
    record = records(tier, who)[name]
    first = (HERE / "escapes" / f"{name}.py").read_text("utf-8").splitlines()[0]
    text = record["stdout"] + record["stderr"]
    assert not record["touched"]
    assert not [line for line in text.splitlines() if line.startswith("ESCAPED")]
    assert "refused" in record["stdout"], text[-1000:]
    assert record["status"] in first.removeprefix("# ends: ").split("|"), text[-1000:]


@pytest.mark.parametrize(("tier", "who"), PLACES)
def test_nothing_is_left_behind(tier: str, who: str) -> None:
    """No process, folder or cgroup; and the host's own memory does not grow by what programs take."""
    record = records(tier, who)[""]
    assert record["left"] == []
    assert record["megabytes"] < 200
