"""The words of the code: a name says what it holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from benchmarks.code_metrics import PARTICIPLES, assigned

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "qwenkit"


def participles(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (f"{path.relative_to(ROOT)}: {name}" for name in assigned(tree) if name in PARTICIPLES)


def test_names_are_nouns() -> None:
    """`found` and its kin hide what a variable holds: call it `manifest`, `rows`, `match`, `counts`."""
    assert not [place for path in sorted(PACKAGE.rglob("*.py")) for place in participles(path)]
