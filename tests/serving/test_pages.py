"""SECURITY.md and docs/serving.md say what is there: tests, flags, figures, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from qwenkit.cli.app import app
from qwenkit.serving.metrics import Metric, ServerMetrics
from qwenkit.serving.settings import Limits
from tests.conftest import ROOT

SECURITY, SERVING = ROOT / "SECURITY.md", ROOT / "docs" / "serving.md"
COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMAND = COMMANDS["serve"]
FLAGS, BENCH_FLAGS = (
    {name for parameter in COMMANDS[command].params for name in parameter.opts} for command in ("serve", "bench")
)


def names_of_tests() -> set[str]:
    files = (ROOT / "tests" / "serving").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M)}


def test_every_refusal_has_its_test_and_its_flag() -> None:
    text = SECURITY.read_text("utf-8").partition("## Programs that nobody trusts")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    for what, how, flag, test in rows:
        named = re.findall(r"`(test_\w+)`", test)
        assert set(named) <= names_of_tests() and (named or "tests/serving" in test), what
        assert set(re.findall(r"`(--[\w-]+)`", flag)) <= FLAGS, what
        assert how and flag, what


def test_the_sizes_of_the_page_are_the_codes() -> None:
    text, limits = SECURITY.read_text("utf-8"), Limits()
    for words in (
        f"a body over {limits.body_bytes >> 20} MB; all bodies together over {limits.all_body_bytes >> 20} MB",
        f"more than {limits.body_seconds:.0f} s; a compressed one", f"fields over {limits.header_bytes // 1024} kB",
        f"without a complete request for {limits.idle_seconds:.0f} s", f"takes nothing for {limits.send_seconds:.0f} s",
        f"more than {limits.answers} answers", f"more than {limits.connections:,} connections",
        f"where {limits.max_queue} wait",
        f"more than {limits.request_seconds:.0f} s",
    ):  # fmt: skip
        assert words in text, words


def test_the_commands_of_the_pages_are_ones() -> None:
    text = SERVING.read_text("utf-8")
    lines = [
        line for line in re.findall(r"qwenkit serve ([^\n`]+)", text) if "..." not in line and "--help" not in line
    ]
    assert len(lines) >= 3
    for line in lines:
        COMMAND.make_context("serve", shlex.split(line.partition("#")[0]))
    assert (
        set(re.findall(r"(?<![\w-])--[a-z][\w-]+", " ".join(re.findall(r"`(--[^`]+)`", text)))) <= FLAGS | BENCH_FLAGS
    )


def test_the_figures_of_the_page_are_all() -> None:
    named = set(re.findall(r"`(qwenkit_\w+)`", SERVING.read_text("utf-8")))
    metrics = {metric.name for metric in vars(ServerMetrics()).values() if isinstance(metric, Metric)}
    assert named <= metrics and metrics - named <= {"qwenkit_request_prompt_tokens", "qwenkit_request_generated_tokens"}


@pytest.mark.parametrize("name", ["SECURITY.md", "Containerfile", "docs/serving.md"])
def test_what_is_shipped_is_in_the_source_archive(name: str) -> None:
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert f"/{Path(name).parts[0]}" in patterns["include"]
