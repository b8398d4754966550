"""Where the seconds of a run of tests went: a line for each package beside its budget, at the end of `make test`.

`tests/conftest.py` takes the hooks from here; `--budgets` prints the table. Nothing fails on time here: the machine may
be busy. That the quick tier keeps its budgets on an idle one is a test of the long tier
(`tests/packaging/test_budgets.py`).
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
TOP = "tests"
"""What the tests that lie in no package are counted as."""
_seconds: Counter[str] = Counter()
_tests: Counter[str] = Counter()


def budgets() -> dict[str, float]:
    """Return the seconds that each package of tests may take on two idle cores."""
    return tomllib.loads((TESTS / "budgets.toml").read_text(encoding="utf-8"))["seconds"]


def package_of(path: str) -> str:
    """Return the package that a test lies in: `chat` of `tests/chat/test_render.py`."""
    parts = path.split("::")[0].split("/")
    return parts[1] if len(parts) > 2 else TOP


def table(seconds: Mapping[str, float], tests: Mapping[str, int], limits: Mapping[str, float]) -> list[str]:
    """Return a line for each package, the slowest first; an overrun is marked."""
    lines = [f"{'package':<14}{'tests':>7}{'seconds':>10}{'budget':>9}"]
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        limit = limits.get(name)
        mark = "  no budget in tests/budgets.toml" if limit is None else "  over" if seconds[name] > limit else ""
        lines.append(f"{name:<14}{tests[name]:>7}{seconds[name]:>10.1f}{limit or 0:>9.0f}{mark}")
    total = sum(limits.get(name, 0) for name in seconds)
    return [*lines, f"{'all':<14}{sum(tests.values()):>7}{sum(seconds.values()):>10.1f}{total:>9.0f}"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--budgets`."""
    parser.addoption("--budgets", action="store_true", help="at the end: seconds of each package beside its budget")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the seconds of a test with those of its fixtures, which the test that comes first pays."""
    package = package_of(report.nodeid)
    _seconds[package] += report.duration
    _tests[package] += report.when == "call"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table before the closing line."""
    if config.getoption("--budgets") and _seconds:
        terminalreporter.section("seconds of each package")
        for line in table(_seconds, _tests, budgets()):
            terminalreporter.write_line(line)
