"""The log: one line each, no texts unless they are asked for, nothing that could forge a line."""

from __future__ import annotations

import io
import json

from qwenkit.serving.log import LONGEST, RequestLog


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
    stream = io.StringIO()
    stream.close()
    RequestLog(stream).write("request", id="a")
    RequestLog(None).write("request", id="a")
