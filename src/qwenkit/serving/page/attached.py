"""Text files that a page sends with a message, as JSON: `[{"name": ..., "text": ...}]`.

The browser reads them, so nothing is uploaded or written to disk. It refuses what is too large or not text, and here
everything is checked again.
"""

from __future__ import annotations

import json
from typing import Any, cast

from qwenkit.errors import UserError
from qwenkit.serving.page.texts import Language, text
from qwenkit.serving.page.tree import TextFile

MOST_FILES = 8
MOST_CHARACTERS = 200_000
"""Of one file."""


def read_files(value: object, language: Language) -> tuple[TextFile, ...]:
    """Return the files; raises a `UserError` for too many, too large ones, and what is not text."""
    try:
        rows: Any = json.loads(value) if isinstance(value, str) and value.strip() else []
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise UserError(text("bad_file", language, name="?"))
    if len(rows := cast("list[Any]", rows)) > MOST_FILES:
        raise UserError(text("many_files", language, most=MOST_FILES))
    return tuple(_file(row, language) for row in rows)


def _file(row: Any, language: Language) -> TextFile:
    name, content = (row.get("name"), row.get("text")) if isinstance(row, dict) else (None, None)
    label = " ".join(str(name).split())[:100] or "?"
    if not isinstance(name, str) or not isinstance(content, str) or "\0" in content or "\ufffd" in content:
        raise UserError(text("bad_file", language, name=label))
    if len(content) > MOST_CHARACTERS:
        raise UserError(text("large_file", language, name=label, size=len(content), most=MOST_CHARACTERS))
    return TextFile(label, content)
