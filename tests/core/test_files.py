"""The gate for files from outside, and JSON within limits: what is refused, in which words, and what passes."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from qwenkit import records
from qwenkit.errors import UserError
from qwenkit.files import read_bytes, read_text
from qwenkit.records import Quarantine, parse_json, read_json, read_jsonl, read_object, read_parquet

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # its name may be a hundred characters long
        made.bind(path.name)


SPECIAL = {"a pipe": _pipe, "a device": _device, "a socket": _socket, "a folder": Path.mkdir}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [read_json, read_object, read_text, lambda p: list(read_jsonl(p))])
def test_only_files_are_read(kind: str, read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SPECIAL[kind](tmp_path / "config.json")
    (tmp_path / "link.json").symlink_to("config.json")
    for name in ("config.json", "link.json"):
        with pytest.raises(UserError, match=f"{name}: {kind}, where a file was expected"):
            read(tmp_path / name)  # type: ignore[operator]


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_json(tmp_path / "b.json") == {"a": 1}


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "round.json").symlink_to("round.json")
    cases = {"round.json": "cannot be read", "n" * 300: "cannot be read", "nothing.json": "no such file"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="NUL"):
        read_json("a\0b")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * 100)
    os.truncate(tmp_path / "a.json", 1 << 40)
    with pytest.raises(UserError, match="larger than 64 MB"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [read_json, read_text, lambda p: list(read_jsonl(p)), lambda p: list(read_parquet(p))])
def test_a_pointer_of_git_lfs_is_named(read: object, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(POINTER)
    with pytest.raises(UserError, match="a git-lfs pointer"):
        read(tmp_path / "a")  # type: ignore[operator]


REFUSED = {
    "[" * 200_000: "nested too deeply",
    '{"a":' * 200_000: "nested too deeply",
    "[" * 201 + "]" * 201: "nested too deeply",
    '{"x": ' + "9" * 6000 + "}": "too many digits",
    "-" + "1" * 301: "too many digits",
    '{"a": "\\ud800"}': "half of a character",
    '{"a": 1, "b": 2, "a": 3}': "twice \\(`a`\\)",
    '{"a": tru}': "line 1: broken JSON: Expecting value",
    "": "broken JSON",
    "\0": "broken JSON",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_json_beyond_limits_is_refused_in_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=REFUSED[text]) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path}/a.json") and "Error" not in str(caught.value)
    if text:
        (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + text.replace("\n", " ") + "\n")
        quarantine = Quarantine()
        assert list(read_jsonl(tmp_path / "a.jsonl", quarantine)) == [{"a": 1}] and len(quarantine) == 1


def test_json_within_limits_passes() -> None:
    deep = "[" * 200 + "]" * 200
    assert json.dumps(parse_json(deep, "x")) == deep
    assert parse_json("[" + ",".join(["[]"] * 1000) + "]", "x") == [[]] * 1000
    assert parse_json('{"a": 1, "a": 1, "b": "\\ud83d\\ude00[[["}', "x") == {"a": 1, "b": "\U0001f600[[["}
    assert parse_json("9" * 300, "x") == int("9" * 300)


def test_many_empty_lists_are_no_memory_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CONTAINERS", 1000)
    with pytest.raises(UserError, match="too many lists"):
        parse_json("[" + "[]," * 1000 + "[]]", "x")


def test_marks_and_encodings_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('\ufeff{"a": 1}\r\n'.encode())
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_bytes('\ufeff{"a": 1}'.encode("utf-16-le"))
    with pytest.raises(UserError, match="UTF-16"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"a":\n "\xff"}')
    with pytest.raises(UserError, match="line 2: invalid UTF-8"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"


def test_a_line_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LINE_BYTES", 2 * records.MEGABYTE)
    long = b'{"text": "' + b"x" * (3 * records.MEGABYTE + 5) + b'"}'
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + long + b'\n{"n": 2}\n' + long)
    quarantine = Quarantine()
    assert [row["n"] for row in read_jsonl(tmp_path / "a.jsonl", quarantine)] == [1, 2]
    assert [row["line"] for row in quarantine.rows] == [2, 4]
    with pytest.raises(UserError, match="line 2: a line of more than 2 MB"):
        list(read_jsonl(tmp_path / "a.jsonl"))


def test_bytes_have_a_limit_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert len(read_bytes(tmp_path / "a", 11)) == 11
    with pytest.raises(UserError, match="larger"):
        read_bytes(tmp_path / "a", 10)


@pytest.mark.skipif(sys.platform != "linux", reason="a file of the system that has no size")
def test_the_size_that_a_file_claims_is_not_believed() -> None:
    assert read_text("/proc/self/status").startswith("Name:")
