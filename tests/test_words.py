"""The field's words: no participle stands for what a value is, and no phrase of our own comes back in prose."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qwenkit

SOURCE = Path(qwenkit.__file__).parent
PARTICIPLES = {"found", "told", "said", "seen", "held"}
"""They hide what a value is: `manifest`, `rows`, `match`, `counts` say it."""
DONE = ["data", "lineage", "stages", "chat",
        "tokenizer", "evaluation", "statistics", "nano", "cli", "errors.py", "records.py", "files.py",
        "templates.py", "compression.py", "rng.py", "hub.py", "platform.py", "lazy.py", "workers.py", "events.py",
        "schema.py"]  # fmt: skip
"""Packages and modules whose names are all of the field."""
PHRASES = re.compile(
    r"\bmend(s|ed)?\b (?!=)"
    r"|(?<!there )(?<!There )\bis no\s(?!longer)|\bwhole numbers?\b|\bstands twice\b|\bno list of\b"
)
"""What messages and docstrings said in a dialect of our own: hint, is not a, integer, is given twice."""


def modules(*names: str) -> list[Path]:
    return sorted(file for name in names for file in [SOURCE / name, *(SOURCE / name).rglob("*.py")] if file.is_file())


def named(file: Path) -> Iterator[tuple[int, str]]:
    """(Line, name) of everything that a file gives a name: variables, arguments and attributes."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


@pytest.mark.parametrize("name", DONE)
def test_names_are_nouns(name: str) -> None:
    places = [
        f"{file.relative_to(SOURCE)}:{line}: {word}"
        for file in modules(name)
        for line, word in named(file)
        if word in PARTICIPLES
    ]
    assert not places, f"named by a participle: {places}"


@pytest.mark.parametrize("name", sorted(path.name for path in SOURCE.iterdir() if modules(path.name)))
def test_messages_are_plain_english(name: str) -> None:
    places = [
        f"{file.relative_to(SOURCE)}:{node.lineno}: {match[0]}"
        for file in modules(name)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (match := PHRASES.search(node.value))
    ]
    assert not places, f"phrases of our own: {places}"
