"""What one cell has written, drawn and raised, collected from a kernel's messages within bounds.

Messages come from a process that runs untrusted code: each value is taken only where it has its type, and what is
beyond a bound is counted.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from qwenkit.json_values import mapping, sequence
from qwenkit.sandbox.session import DRAIN, Clipped

FILES = "application/vnd.qwenkit.files"
"""The kind of content by which files come."""
TEXT, PNG = "text/plain", "image/png"
KINDS = (TEXT, "text/html", "text/markdown", "text/latex", "image/svg+xml", PNG, "image/jpeg", "application/json")
"""Kinds of content that are kept of a display."""
_BINARY = (PNG, "image/jpeg")
_DISPLAYS, _DISPLAY_BYTES = 64, 32 << 20
_COLORS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

Display = Mapping[str, "str | bytes"]
"""Contents of one thing that was shown, by kind; pictures as bytes."""


class CellOutput:
    """Takes the messages of one cell."""

    def __init__(self, limit: int) -> None:
        """Keep so many bytes of standard output, of standard error, and of the value's text."""
        self._limit = limit
        self._streams = {"stdout": Clipped(limit), "stderr": Clipped(limit)}
        self._value = Clipped(limit)
        self._room = _DISPLAY_BYTES
        self.error = ""
        self.displays: list[Display] = []
        self.omitted_displays = 0
        self.has_failed = False

    @property
    def is_full(self) -> bool:
        """Whether the cell has written far more than is kept."""
        return any(stream.total > self._limit + DRAIN for stream in self._streams.values())

    def take(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message."""
        if kind == "stream":
            stream, text = self._streams.get(str(content.get("name"))), content.get("text")
            if stream is not None and isinstance(text, str):
                stream.add(text.encode("utf-8", "replace"))
        elif kind == "error":
            self._raise(content)
        elif kind in ("execute_result", "display_data", "update_display_data"):
            self._show(mapping(content.get("data")), kind == "execute_result")

    def _raise(self, content: Mapping[str, Any]) -> None:
        lines = [line for line in sequence(content.get("traceback")) if isinstance(line, str)]
        kept = Clipped(self._limit)
        kept.add(_COLORS.sub("", "\n".join(lines)).rstrip().encode("utf-8", "replace"))
        self.error = (
            kept.value()[0].decode("utf-8", "replace") or f"{content.get('ename')}: {content.get('evalue')}"[:1000]
        )
        self.has_failed = True

    def _show(self, data: Mapping[str, Any], is_value: bool) -> None:
        """Keep what is shown; the text of a value is also the cell's text."""
        text = data.get(TEXT)
        if is_value and isinstance(text, str):
            self._value.add(text.encode("utf-8", "replace"))
        display = {kind: content for kind in KINDS if (content := _content(kind, data.get(kind))) is not None}
        size = sum(len(content) for content in display.values())
        if is_value and display.keys() <= {TEXT}:
            return
        if not display:
            return
        if len(self.displays) >= _DISPLAYS or size > self._room:
            self.omitted_displays += 1
            return
        self._room -= size
        self.displays.append(display)

    @property
    def text(self) -> str:
        """Return the text of the cell's value, "" where it has none."""
        return self._value.value()[0].decode("utf-8", "replace")

    def stream(self, name: str) -> str:
        """Return what came on `stdout` or `stderr`: front and end, where it was too long."""
        return self._streams[name].value()[0].decode("utf-8", "replace")

    @property
    def omitted(self) -> dict[str, int]:
        """Return how many bytes of what, and how many displays, are left out; without zeros."""
        counts = {name: stream.value()[1] for name, stream in self._streams.items()}
        counts |= {"text": self._value.value()[1], "displays": self.omitted_displays}
        return {name: count for name, count in counts.items() if count}


class FileOutput:
    """Takes the message by which the files of a kernel's folder come."""

    def __init__(self) -> None:
        """Begin without files."""
        self.files: dict[str, bytes] = {}
        self.omitted = 0
        self.came = False

    is_full = False

    def take(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message."""
        table = mapping(mapping(content.get("data")).get(FILES)) if kind == "display_data" else {}
        if not table:
            return
        self.came = True
        for path, body in mapping(table.get("files")).items():
            if (data := _decoded(body)) is not None and is_relative(path):
                self.files[path] = data
        omitted = table.get("omitted")
        self.omitted = omitted if isinstance(omitted, int) and not isinstance(omitted, bool) and omitted > 0 else 0


def is_relative(path: object) -> bool:
    """Return whether a path, which a kernel has named, stays below its folder."""
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _content(kind: str, value: object) -> str | bytes | None:
    """Return content of a kind as it is kept, None for what is none."""
    if kind in _BINARY:
        return _decoded(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "".join(value)
    return value if isinstance(value, str) else None


def _decoded(value: object) -> bytes | None:
    try:
        return base64.b64decode(value, validate=False) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        return None
