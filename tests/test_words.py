"""The field's words: no participle stands for what a value is, and no phrase of our own comes back in prose."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from benchmarks.code_metrics import PARTICIPLES, assigned

import qwenkit

SOURCE = Path(qwenkit.__file__).parent
PHRASES = re.compile(
    r"\bmend(s|ed)?\b (?!=)"
    r"|(?<!there )(?<!There )\bis no\s(?!longer)|\bwhole numbers?\b|\bstands twice\b|\bno list of\b"
)
"""What messages and docstrings said in a dialect of our own: hint, is not a, integer, is given twice."""


def modules(*names: str) -> list[Path]:
    return sorted(file for name in names for file in [SOURCE / name, *(SOURCE / name).rglob("*.py")] if file.is_file())


PACKAGES = sorted(path.name for path in SOURCE.iterdir() if modules(path.name))


@pytest.mark.parametrize("name", PACKAGES)
def test_names_are_nouns(name: str) -> None:
    """`found` and its kin hide what a variable holds: call it `manifest`, `rows`, `match`, `counts`."""
    places = [
        f"{file.relative_to(SOURCE)}:{line}: {word}"
        for file in modules(name)
        for line, word in assigned(ast.parse(file.read_text("utf-8")))
        if word in PARTICIPLES
    ]
    assert not places, f"named by a participle: {places}"


@pytest.mark.parametrize("name", PACKAGES)
def test_messages_are_plain_english(name: str) -> None:
    places = [
        f"{file.relative_to(SOURCE)}:{node.lineno}: {match[0]}"
        for file in modules(name)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (match := PHRASES.search(node.value))
    ]
    assert not places, f"phrases of our own: {places}"
