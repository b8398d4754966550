"""A run of the version before: read by every command that reads runs; only what is computed otherwise is made again.

`run_of_schema_1.tar.gz` is the family of `tests/errors/desk.py` as qwenkit 0.1.0 made it, with its recipe of schema 1
and its data files.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from tests.errors.desk import call

RUN = Path("runs/family")
NOT_TRAINED = {"tokenizer"}


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(Path(__file__).with_name("run_of_schema_1.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def artifacts(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of every artifact."""
    files = (path for path in sorted(folder.glob("*/*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_trained_otherwise_now_would_be_made_again_and_says_why(old_run: Path) -> None:
    before = artifacts(RUN)
    code, out, err = call("run family.toml --dry-run --json --allow-env-change")
    assert code == 0 and "names of schema 1" in err and "`row` is now `seq_length`" in err
    entries = {entry["node"]: entry for entry in json.loads(out)}
    states = {name: entry["state"] for name, entry in entries.items()}
    assert {name for name, state in states.items() if state == "done"} == NOT_TRAINED
    assert "the stage changed (version 4 -> 5)" in entries["base"]["why"]
    assert artifacts(RUN) == before


def test_status_and_verify_read_it(old_run: Path) -> None:
    code, out, _ = call(f"status {RUN} --json")
    assert code == 0 and {node["state"] for node in json.loads(out)["nodes"]} == {"done"}
    code, out, _ = call(f"verify {RUN} --json")
    assert code == 0 and not any(json.loads(out).values())


def test_a_report_on_it_is_made_and_shows_its_settings_by_their_names_today(old_run: Path) -> None:
    code, _, err = call(f"report --of {RUN}/base --of {RUN}/chat --out again -q")
    assert code == 0, err
    assert call("run family.toml --only exam -q")[0] == 0
    code, out, _ = call("run family.toml --dry-run --json --allow-env-change --set base.row=64")
    assert code == 0 and "seq_length: 32 -> 64" in out
