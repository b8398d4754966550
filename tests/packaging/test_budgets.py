"""Time is printed for each package beside its budget, and the quick tier keeps its budgets on an idle machine."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.timing import TOP, budgets, package_of, table


def test_every_package_of_tests_has_a_budget_and_all_are_twenty_minutes() -> None:
    packages = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert set(budgets()) == packages | {TOP}
    assert sum(budgets().values()) <= 20 * 60 * 2  # seconds of a process; there are two at once on two cores


def test_a_test_belongs_to_the_folder_it_lies_in() -> None:
    assert package_of("tests/data/html/test_a.py::test_b") == "data"
    assert package_of("tests/test_start.py::test_b") == TOP


def test_an_overrun_is_marked_and_the_slowest_comes_first() -> None:
    lines = table({"chat": 1.0, "data": 9.0, "new": 2.0}, {"chat": 3, "data": 4, "new": 1}, {"chat": 5, "data": 5})
    assert [line.split()[0] for line in lines] == ["package", "data", "new", "chat", "all"]
    assert [line.split()[-1] for line in lines] == ["budget", "over", "tests/budgets.toml", "5", "10"]


def test_the_table_stands_before_the_closing_line() -> None:
    command = [sys.executable, "-m", "pytest", "--budgets", "tests/packaging/test_budgets.py", "-k", "folder"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert any(line.split()[:2] == ["packaging", "1"] for line in out)
    assert out[-1].startswith("1 passed")


@pytest.mark.soak
def test_the_quick_tier_keeps_its_budgets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", f"--junitxml={tmp_path / 'all.xml'}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=7200)
    seconds: Counter[str] = Counter()
    for case in ET.parse(tmp_path / "all.xml").iter("testcase"):
        seconds[package_of(case.attrib["classname"].replace(".", "/") + ".py")] += float(case.attrib["time"])
    over = {name: round(value, 1) for name, value in seconds.items() if value > budgets()[name]}
    assert not over, f"over their budgets: {over}"
