"""`world`: invent the nano world from a seed: web pages, plain text, instructions, chats, comparisons, prompts, tests,
and the ground truth; with the running Python's own library as real text.

Files: `pages.warc.gz`, `stdlib.jsonl`, `text.jsonl`, `instructions.jsonl`, `chat.jsonl`, `pmp_pairs.jsonl`,
`prompts.jsonl`, `tests/{base,chat,pairs}.jsonl`, `truth.jsonl`. How many of all training texts hold 13 units of a test
question is counted here, at the source; answers count where `corpus` and `sft` drop what shares 13 units with a test.
"""

from __future__ import annotations

import platform
from typing import Literal

from qwenkit.config import StageConfig, content
from qwenkit.data.decontamination import overlap_13gram
from qwenkit.json_values import mapping
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input, Result, StageContext
from qwenkit.stages.results import Metrics, counted

SUMMARY = "invent the nano world: pages, chats, comparisons, tests"
EXAMPLE = "--scale quick"
ORDER = 10
VERSION = 3  # 3: the overlap is called what it is, one of questions
PRODUCES = ("world", "chats", "comparisons", "prompts")


class Config(StageConfig):
    """How large the world is."""

    scale: Literal["nano", "quick", "tiny"] = content("nano", doc="how much there is of everything")


def environment() -> dict[str, str]:
    """The standard library is part of the world, so its version is part of the identity."""
    return {"python": platform.python_version()}


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Write every output of the world; count what training and tests share."""
    from qwenkit.nano import build_world, write_warc

    world = build_world(context.seed, config.scale)
    parts = {
        "stdlib": world.stdlib, "text": world.text, "instructions": world.instructions, "chat": world.chat,
        "pmp_pairs": world.pmp_pairs, "prompts": world.prompts, "tests/base": world.base_test,
        "tests/chat": world.chat_test, "tests/pairs": world.pair_test, "truth": world.truth,
    }  # fmt: skip
    counts = {"pages": write_warc(context.out / "pages.warc.gz", world.pages())}
    for number, (name, rows) in enumerate(parts.items(), 1):
        context.progress(number, len(parts) + 2, writing=name)
        counts[name] = write_jsonl(context.out / f"{name}.jsonl", rows())
    context.progress(len(parts) + 1, len(parts) + 2, writing="overlap")
    overlap = overlap_13gram(world.training_texts(), world.test_texts())
    metrics = {"rows": counts, "question_overlap_13gram": overlap, "python": platform.python_version()}
    tests = sum(count for name, count in counts.items() if name.startswith("tests/"))
    return Result(
        metrics, f"{counts['pages']} pages, {counts['chat']} chats, {tests} test questions; {overlap} texts hold one"
    )


def card_number(metrics: Metrics) -> str:
    """Return the pages that there are."""
    return counted(mapping(metrics.get("rows")).get("pages"), "pages")
