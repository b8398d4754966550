"""The log: one line each, no texts unless they are asked for, nothing that could forge a line."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from qwenkit.errors import Notice
from qwenkit.serving.log import LONGEST, LogFile, RequestLog


def test_a_line_is_one_object_without_texts() -> None:
    stream = io.StringIO()
    RequestLog(stream).write("request", id="a\n\x1b[2J", seconds=0.123456789, model=None, text={"prompt": "secret"})
    (line,) = stream.getvalue().splitlines()
    row = json.loads(line)
    assert row.pop("time").endswith("+00:00")
    assert row == {"event": "request", "id": "a\n\x1b[2J", "seconds": 0.123457}
    assert "\x1b" not in line and "secret" not in line


def test_texts_where_they_are_asked_for_and_long_values_cut() -> None:
    stream = io.StringIO()
    RequestLog(stream, texts=True).write("request", path="/" + "x" * 1000, text={"prompt": "what is said"})
    row = json.loads(stream.getvalue())
    assert row["prompt"] == "what is said" and len(row["path"]) == LONGEST + 3


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """It is said once, and the log itself says later how many lines are missing."""

    class Full(io.StringIO):
        full = True

        def write(self, text: str, /) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    log = RequestLog(stream)
    with pytest.warns(Notice) as told:
        log.write("request", id="a")
        log.write("request", id="b")
    assert [str(each.message) for each in told] == [
        "the log cannot be written (No space left on device); its lines are lost until it can"
    ]
    stream.full = False
    log.write("request", id="c")
    log.write("request", id="d")
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row.get("lines", row.get("id")) for row in rows] == [2, "c", "d"] and rows[0]["event"] == "lost"
    stream.close()
    with pytest.warns(Notice):
        log.write("request", id="a")
    RequestLog(None).write("request", id="a")


def test_a_file_of_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with LogFile(path) as file:
        file.write("one\n")
        monkeypatch.setattr(os, "write", lambda number, data: write(number, data[:2]))
        with pytest.raises(OSError, match="No space left"):
            file.write("two\n")
        monkeypatch.undo()
        file.write("three\n")
        file.flush()
    assert path.read_text() == "before\none\ntw\nthree\n"
    LogFile(tmp_path / "new").__exit__()
    assert (tmp_path / "new").stat().st_mode & 0o777 & ~0o640 == 0


write = os.write
