"""`testsets`: gather test questions, kept apart from all training text; the corpus is decontaminated against them.

Files: `base.jsonl` (continuations and multiple choice), `chat.jsonl` (instructions with a rubric), `pairs.jsonl`
(comparisons by policies that write no training pair), and one file for each extra set.
"""

from __future__ import annotations

import shutil
from typing import Any

from pydantic import model_validator

from qwenkit.compression import opened, unpacked_name
from qwenkit.config import StageConfig, edge
from qwenkit.data.test_sets import read_test_set
from qwenkit.errors import UserError
from qwenkit.json_values import mapping, number
from qwenkit.stages.base import Input, Result, StageContext, many
from qwenkit.stages.results import Metrics, counted

SUMMARY = "gather test sets, kept apart from all training text"
EXAMPLE = "--world runs/nano/world"
ORDER = 20
VERSION = 1
PRODUCES = ("tests", "comparisons")
NAMES = ("base", "chat", "pairs")


class Config(StageConfig):
    """Where the questions come from."""

    world: str | None = edge(None, doc="a world, whose tests are taken", accepts="world")
    extra: list[str] = edge([], doc="more test sets: JSONL files", accepts="questions", many=True)

    @model_validator(mode="after")
    def _given(self) -> Config:
        if not (self.world or self.extra):
            raise ValueError("no test sets: neither `world` nor `extra`")
        return self


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Copy every set; count its rows."""
    sets = [inputs["world"].file(f"tests/{name}.jsonl") for name in NAMES] if "world" in inputs else []
    sets += [source.path for source in many(inputs, "extra")]
    counts: dict[str, Any] = {}
    for path in sets:
        stem = unpacked_name(path).stem
        if stem in counts:
            raise UserError(f"two test sets are named `{stem}`", where=str(path), hint="rename one of the files")
        counts[stem] = len(read_test_set(path))
        with opened(path) as rows, (context.out / f"{stem}.jsonl").open("wb") as out:
            shutil.copyfileobj(rows, out)
    total = sum(counts.values())
    return Result({"rows": counts}, f"{total} questions in {len(counts)} sets")


def card_number(metrics: Metrics) -> str:
    """Return how many questions there are."""
    known = [count for value in mapping(metrics.get("rows")).values() if (count := number(value)) is not None]
    return counted(sum(known), "questions") if known else ""
