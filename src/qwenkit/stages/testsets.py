"""`testsets`: gather test questions, kept apart from all training text; the corpus is decontaminated against them.

Files: `base.jsonl` (continuations and multiple choice), `chat.jsonl` (instructions with a rubric), `pairs.jsonl`
(comparisons by policies that write no training pair), and one file for each extra set.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import model_validator

from qwenkit.compression import opened, unpacked_name
from qwenkit.config import StageConfig, edge
from qwenkit.errors import UserError
from qwenkit.records import Row
from qwenkit.stages.base import Input, Result, StageContext, many
from qwenkit.stages.validation import check_test, read_checked, texts_of

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
        counts[stem] = len(read(path))
        with opened(path) as rows, (context.out / f"{stem}.jsonl").open("wb") as out:
            shutil.copyfileobj(rows, out)
    total = sum(counts.values())
    return Result({"rows": counts}, f"{total} questions in {len(counts)} sets")


def overlap_13gram(training: Iterable[str], tests: Iterable[str]) -> int:
    """How many training texts share 13 units with a test text; about a million characters are looked at together."""
    from qwenkit.data.decontamination import TestIndex

    index, found, size = TestIndex(tests), 0, 0
    together: list[str] = []
    for text in training:
        together.append(text)
        size += len(text)
        if size >= 1 << 20:
            found, size = found + sum(index.holding(together)), 0
            together.clear()
    return found + sum(index.holding(together))


def read(path: Path) -> list[Row]:
    """The rows of a test set; an empty set, a row that says nothing and a doubled id are refused."""
    return read_checked(path, "questions", check_test, (), stem=path.stem, once=True)


def texts(testsets: Path) -> list[str]:
    """What no training document may hold of any set: questions and their answers, right and wrong."""
    return [text for _, text in named_texts(testsets)]


def named_texts(testsets: Path) -> list[tuple[str, str]]:
    """The same, each after the name of the question that it is of: `chat/17`."""
    found: list[tuple[str, str]] = []
    files = sorted(testsets.glob("[!.]*.jsonl")) if testsets.is_dir() else [testsets]
    if not files:
        raise UserError("no test set in this folder", where=str(testsets), expected="*.jsonl")
    for path in files:
        for row in read(path):
            found += ((f"{path.stem}/{row['id']}", text) for text in texts_of(row) if text)
    return found
