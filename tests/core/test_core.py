"""The core: draws, rows, events, TOML with line numbers, configs whose every key has a role."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit import rng
from qwenkit.config import StageConfig, content, validate
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, canonical, read_jsonl, replacing, write_bytes, write_json, write_jsonl
from qwenkit.toml_file import key_lines, parse_value, toml_value


def test_draws_are_uniform_independent_and_reproducible() -> None:
    u = rng.uniform(7, 1, np.arange(100_000))
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    v = rng.uniform(7, 2, np.arange(100_000))
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.02 and abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert rng.uniform(7, 1, 42) == u[42]


def test_draws_never_change() -> None:
    """Frozen values: a change here changes every run of every user."""
    assert [int(x) for x in rng.random_bits(1, [0, 1, 2])] == [
        15204172177749531820,
        16294208416658607535,
        5026954255020281043,
    ]


@given(st.integers(0, 2**63 - 1), st.integers(1, 200), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_permutation_is_one(seed: int, count: int, epoch: int) -> None:
    assert sorted(rng.permutation(seed, count, epoch).tolist()) == list(range(count))


def test_jsonl_counts_add_up(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\xff\xfe\n[1]\n\n{"a": 2}\n')
    quarantine = Quarantine()
    assert [row["a"] for row in read_jsonl(path, quarantine)] == [1, 2]
    assert len(quarantine) == 3
    assert [(row["line"], row["reason"]) for row in quarantine.rows] == [
        (2, "broken JSON"), (3, "invalid UTF-8"), (4, "a list where an object was expected"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="line 2: broken JSON"):
        list(read_jsonl(path))


def test_cut_gzip_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rows = [{"n": n, "text": f"{n * 7919 % 1000:04d}" * 50} for n in range(2000)]
    write_jsonl(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    quarantine = Quarantine()
    kept = list(read_jsonl(path, quarantine))
    assert 0 < len(kept) < 2000 and kept == rows[: len(kept)]
    assert quarantine.counts == {"truncated file": 1}


def test_jsonl_gz_is_deterministic(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jsonl(tmp_path / name, [{"中": "文", "lone": "\ud800"}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()))["lone"] == "\ud800"


def test_canonical_refuses_nan() -> None:
    assert canonical({"b": 1, "a": "中"}) == '{"a":"中","b":1}'.encode()
    with pytest.raises(ValueError):
        canonical(float("nan"))


names = st.text("abcdefgh_-", min_size=1, max_size=6)
scalars = st.one_of(st.integers(-99, 99), st.booleans(), st.text(max_size=8), st.lists(st.integers(0, 9), max_size=3))


@given(st.dictionaries(names, st.dictionaries(names, scalars, max_size=5), max_size=5))
@settings(max_examples=200, deadline=None)
def test_line_scanner_agrees_with_tomllib(data: dict[str, dict[str, object]]) -> None:
    """Every key is found on the line where it stands, whatever the values look like."""
    lines, text = {}, ""
    for table, keys in data.items():
        lines[(table,)] = text.count("\n") + 1
        text += f"[{table}] # comment with = and [x]\n"
        for key, value in keys.items():
            lines[(table, key)] = text.count("\n") + 1
            shown = toml_value(value)
            text += f"{key} = " + (shown.replace(", ", ",\n  ") if isinstance(value, list) else shown) + "\n"
    assert tomllib.loads(text) == data
    assert key_lines(text) == lines


def test_multi_line_strings_hide_no_keys() -> None:
    text = 'a = """\nb = 1\n[c]\n"""\nd = 2\n'
    assert key_lines(text) == {("a",): 1, ("d",): 5}


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("true", True), ("a/b", "a/b"), ('["x"]', ["x"]), ("", "")]
)
def test_set_values(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_a_key_without_a_role_is_refused() -> None:
    with pytest.raises(TypeError, match="has no role"):

        class Bad(StageConfig):
            loose: int = 3


def test_all_mistakes_of_a_table_are_told_at_once() -> None:
    class Good(StageConfig):
        steps: int = content(3, doc="steps", gt=0)
        rate: float = content(doc="rate")

    with pytest.raises(UserError) as caught:
        validate(Good, {"step": 1, "steps": 0}, "r.toml", {("n", "step"): 4, ("n", "steps"): 5, ("n",): 3}, "n")
    text = caught.value.text()
    assert "r.toml, line 4: unknown key `n.step`" in text and "nearest: steps" in text
    assert "r.toml, line 5: `n.steps` is 0\n  expected: greater than 0" in text
    assert "r.toml, line 3: missing key `n.rate`" in text


def test_import_is_light_and_silences_telemetry() -> None:
    code = (
        "import sys, os, qwenkit; assert 'torch' not in sys.modules and 'numpy' not in sys.modules;"
        "assert os.environ['DO_NOT_TRACK'] == '1'; print(sorted(dir(qwenkit))[:1])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def written(path: Path, failing: type[BaseException] | None = None) -> None:
    with replacing(path) as file:
        file.write(b"new")
        if failing:
            raise failing


@pytest.mark.parametrize("failing", [OSError, ValueError, KeyboardInterrupt])
def test_what_stood_there_is_left_where_writing_breaks_off(tmp_path: Path, failing: type[BaseException]) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(failing):
        written(path, failing)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    path.unlink()
    with pytest.raises(failing):
        written(path, failing)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        for write in (lambda: write_bytes(path, b"x" * 9000), lambda: write_json(path, "x" * 9000)):
            with pytest.raises(OSError, match="File too large") as caught:
                write()
            assert caught.value.filename == str(path) and path.read_text() == "old"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_a_mode_kept(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    (tmp_path / "link.tmp").symlink_to(victim)  # as of a temporary name that somebody knows
    written(link)
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)
    victim.chmod(0o600)
    written(victim)
    assert victim.stat().st_mode & 0o777 == 0o600 and victim.read_text() == "new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    written(pipe)
    assert os.read(reader, 9) == b"new"
    os.close(reader)


def test_a_quarantine_tells_itself_in_a_line() -> None:
    quarantine = Quarantine()
    assert quarantine.words() == ""
    for line in (3, 5):
        quarantine.add("broken JSON", "a.jsonl", line=line)
    quarantine.add("truncated file", "b.gz", offset=9)
    expected = "3 quarantined, which cannot be read: 2 broken JSON, 1 truncated file; first a.jsonl, line 3"
    assert quarantine.words() == expected
