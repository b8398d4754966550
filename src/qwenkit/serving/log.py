"""The log of a server: one JSON object a line, one line for each request, and no texts unless they are asked for.

    log = RequestLog(sys.stderr)                          # or LogFile(Path("log.jsonl"))
    log.write("request", id="req-1", key="alice", face="chat_completions", status=200, seconds=0.41)

A line is written at once and completely. What a client sent (ids, names of models, a user agent) is shortened, and JSON
escapes what would break a line or move a terminal's cursor. A log that cannot be written stops no answer: whoever runs
the server is told once, and when it can be written again its next line says how many are missing.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from qwenkit.errors import notice

LONGEST = 500
"""Characters of a value that came from outside."""


class Lines(Protocol):
    """Where lines go: a text stream, or a `LogFile`."""

    def write(self, text: str, /) -> object:
        """Write a line."""
        ...

    def flush(self) -> None:
        """Write at once what waits to be written."""
        ...


class LogFile:
    """A file of whole lines, at the end of what is there: a line that the disk has room for in part is cut off by the
    end of a line, so that the next one is whole."""

    def __init__(self, path: Path) -> None:
        """Open a file, which others cannot write, nor people outside of its group read; raises an `OSError`."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._is_cut = False

    def write(self, text: str, /) -> None:
        """Write a line; raises an `OSError` where it is not complete."""
        data = (b"\n" if self._is_cut else b"") + text.encode()
        written = os.write(self._file, data)
        if written < len(data):
            self._is_cut = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_cut = False

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def __enter__(self) -> Self:
        """Return the file, which leaving the block closes."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        os.close(self._file)


class RequestLog:
    """Writes lines to a stream; None: nowhere."""

    def __init__(self, stream: Lines | None, texts: bool = False) -> None:
        """Write to a stream; `texts` says whether prompts and answers are written."""
        self._stream, self.texts, self._lock = stream, texts, threading.Lock()
        self._lost = 0
        """Lines that could not be written since the last one that could."""

    def write(self, event: str, *, text: dict[str, object] | None = None, **values: object) -> None:
        """Write one line; values that are None are left out, and `text` unless texts are asked for."""
        if self._stream is None:
            return
        row = _row(event, values)
        if self.texts and text:
            row |= text
        with self._lock:
            lost = [_row("lost", {"lines": self._lost})] if self._lost else []
            try:
                self._stream.write("".join(json.dumps(each, default=str) + "\n" for each in (*lost, row)))
                self._stream.flush()
                self._lost = 0
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        self._lost += 1
        if self._lost == 1:
            reason = getattr(error, "strerror", None) or str(error)
            notice(f"the log cannot be written ({reason}); its lines are lost until it can")


def _row(event: str, values: Mapping[str, object]) -> dict[str, object]:
    row: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    return row | {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    """Return a value as the log holds it."""
    if isinstance(value, float):
        return round(value, 6)
    return value if not isinstance(value, str) or len(value) <= LONGEST else value[:LONGEST] + "..."
