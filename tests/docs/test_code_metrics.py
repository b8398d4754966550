"""What the code looks like in figures, and that the script that prints them counts rightly."""

from __future__ import annotations

from pathlib import Path

from benchmarks.code_metrics import count

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "qwenkit"


def test_what_the_script_counts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "class A:\n"
        "    def f(self, x: Any) -> list[Any]:\n"
        "        '''Return x.'''\n"
        "        found = x\n"
        "        def g(y: Any): ...\n"
        "        return found\n"
        "def _h(z: Any): ...\n"
    )
    counts = count(tmp_path)
    assert counts.functions == [5, 1, 1] and counts.files == [7]
    assert (counts.public, counts.undocumented, counts.any_public, counts.any_everywhere) == (2, 1, 2, 4)
    assert counts.participles == 1


def test_code_is_read_at_a_sitting() -> None:
    rows = count(PACKAGE).table()
    assert float(rows["lines of a function, median"]) <= 10
    assert int(rows["lines of a function, 95th percentile"]) <= 60
    assert int(rows["lines of the longest file"]) < 500
