"""A toy family of three kinds, so that lineage is tested without a model: source -> double -> join."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

import qwenkit.stages as stages
from qwenkit.config import StageConfig, content, edge, runtime
from qwenkit.stages.base import Result

RUNS: list[str] = []


class Source(StageConfig):
    text: str = content("a", doc="what to write")
    chatter: int = runtime(0, doc="changes nothing")


class Double(StageConfig):
    source: str = edge(doc="what to double")
    times: int = content(2, doc="how often", ge=1)


class Join(StageConfig):
    parts: list[str] = edge(doc="what to join", many=True)


def run_source(config: Any, inputs: Any, context: Any) -> Result:
    RUNS.append(context.node)
    if config.text == "explode":
        raise RuntimeError("exploded on purpose")
    if config.text == "full":
        raise OSError(28, "No space left on device", "somewhere")
    (context.out / "text").write_text(config.text.strip())
    return Result({"length": len(config.text.strip())}, f"{len(config.text.strip())} characters")


def run_double(config: Any, inputs: Any, context: Any) -> Result:
    RUNS.append(context.node)
    (context.out / "text").write_text((inputs["source"].path / "text").read_text() * config.times)
    return Result()


def run_join(config: Any, inputs: Any, context: Any) -> Result:
    RUNS.append(context.node)
    (context.out / "text").write_text("+".join((i.path / "text").read_text() for i in inputs.values()))
    return Result()


RECIPE = """\
seed = 1
threads = 1

[one]
kind = "source"
text = "a"

[two]
kind = "source"
text = "b"

[big]
kind = "double"
source = "one"

[all]
kind = "join"
parts = ["big", "two"]
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The toy recipe's path; `RUNS` collects which nodes ran."""
    for name, config, run in (("source", Source, run_source), ("double", Double, run_double), ("join", Join, run_join)):
        module = types.ModuleType(f"qwenkit.stages.{name}")
        module.Config, module.VERSION, module.run = config, 1, run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"qwenkit.stages.{name}", module)
        monkeypatch.setitem(stages.KINDS, name, "a toy")
    monkeypatch.chdir(tmp_path)
    RUNS.clear()
    path = tmp_path / "toy.toml"
    path.write_text(RECIPE)
    return path
