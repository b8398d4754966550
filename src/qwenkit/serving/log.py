"""The log of a server: one JSON object a line, one line for each request, and no texts unless they are asked for.

    log = RequestLog(sys.stderr)
    log.write("request", id="req-1", key="alice", face="chat_completions", status=200, seconds=0.41)

A line is written at once and completely. What a client sent (ids, names of models, a user agent) is shortened, and JSON
escapes what would break a line or move a terminal's cursor. A log that cannot be written stops no answer.
"""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime
from typing import TextIO

LONGEST = 500
"""Characters of a value that came from outside."""


class RequestLog:
    """Writes lines to a stream; None: nowhere."""

    def __init__(self, stream: TextIO | None, texts: bool = False) -> None:
        """Write to a stream; `texts` says whether prompts and answers are written."""
        self._stream, self.texts, self._lock = stream, texts, threading.Lock()

    def write(self, event: str, *, text: dict[str, object] | None = None, **values: object) -> None:
        """Write one line; values that are None are left out, and `text` unless texts are asked for."""
        if self._stream is None:
            return
        row: dict[str, object] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        row |= {name: _plain(value) for name, value in values.items() if value is not None}
        if self.texts and text:
            row |= text
        line = json.dumps(row, default=str) + "\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line)
            self._stream.flush()


def _plain(value: object) -> object:
    """Return a value as the log holds it."""
    if isinstance(value, float):
        return round(value, 6)
    return value if not isinstance(value, str) or len(value) <= LONGEST else value[:LONGEST] + "..."
