"""The field's words: no participle stands for what a value is, no phrase of our own comes back in prose, and
examples and tables in docstrings keep their layout."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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


GAP = re.compile(r"\S {2,}\S")
CODE = re.compile(r"[\w.]+(, [\w.]+)* = \S|[\w.]+\(.*\)( *->| *#|  |$)|(with|for|def|from|import) .*: ?\.\.\.|.* # ")
CELL = re.compile(r"\b[a-z]+_[a-z_]+ [a-z]+ [a-z]+\b")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, lines without the indentation of the code) of every docstring."""
    for node in ast.walk(tree):
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            match child:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    indent = " " * child.col_offset
                    yield child.lineno, [line.removeprefix(indent) for line in text.split("\n")]


def broken_layout(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (index, line) of an example or table that is not indented, or whose lines were joined by a reflow.

    `ruff format` dedents an example that ends a docstring without a sentence after it."""
    doctest = False
    for index, line in enumerate(lines[1:], 1):
        text = line.strip()
        doctest = bool(text) and (doctest or text.startswith(">>>"))
        if doctest or re.match(r"\||[-*] |\d+[.)] ", text):
            continue
        if not line.startswith(" "):
            broken = GAP.search(text) or CODE.match(text)
        else:  # two comments or results in a line; or a name followed by prose with no gap between the columns
            joined = len(re.findall(r"(?:^| )#(?: |$)", text)) > 1 or text.count(" -> ") > 1
            cell = CELL.search(re.sub(r"`[^`]*`", "", re.split(r" # | -> ", text)[0]))
            broken = joined or (cell and not GAP.search(text))
        if broken:
            yield index, text


@pytest.mark.parametrize("name", PACKAGES)
def test_examples_and_tables_keep_their_layout(name: str) -> None:
    places = [
        f"{file.relative_to(SOURCE)}:{start + index}: {line}"
        for file in modules(name)
        for start, lines in docstrings(ast.parse(file.read_text("utf-8")))
        for index, line in broken_layout(lines)
    ]
    assert not places, f"indent examples (with a sentence after them), part columns by two blanks: {places}"


@pytest.mark.parametrize(
    "line",
    [
        "with evaluating(model): ...",
        "names = source_names(world=True, extra=2)",
        "save_corpus(result, named_tests, out)",
        "ENDS, PAUSES     signs of a pattern",
        "    with opened(path) as file: ... # a file for part in blocks(path): ... #",
        "    read_part a part of a source: documents -> rows",
        "    of those rows -> signatures n-grams of the tests -> in how many",
        "    candidates of a shard (a task a shard) join_copies pairs verified by exact Jaccard",
    ],
)
def test_a_reflowed_example_is_reported(line: str) -> None:
    assert list(broken_layout(["Summary.", "", line])) == [(2, line.strip())]


@pytest.mark.parametrize(
    "line",
    [
        "with the renderer's loss mask: `train_pairs` of the text.",
        "    read_part     a part of a source: documents   -> rows",
        "    rows = read_split(split, quarantine)   # rows of a split",
        "    read = quarantined + held_out + kept",
        "| dynamic NTK   | first Qwen  |",
        "* C4: `c4_bad_words` needs the list",
    ],
)
def test_a_good_layout_is_not_reported(line: str) -> None:
    assert not list(broken_layout(["Summary.", "", line]))
