"""`evaluate`: the same exam for every model, item by item, so that comparisons are paired (report §2.6, §3.3).

Base tasks are read as continuations and multiple choice, chat tasks as greedy answers scored by each row's rubric. The
items are kept (`MODEL.base.jsonl`, `MODEL.chat.jsonl`): every number in the metrics can be traced to its questions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.config import StageConfig, content, edge
from qwenkit.data.test_sets import read_checked
from qwenkit.errors import UserError
from qwenkit.evaluation.chat_answers import answers
from qwenkit.evaluation.questions import check_base_test, check_chat_test
from qwenkit.records import Row, write_jsonl
from qwenkit.stages.base import Input, Result, StageContext, many
from qwenkit.stages.results import Claim, Metrics, NodeResults, comparison_claims, mapping, mean_scores, percent

if TYPE_CHECKING:
    from qwenkit.evaluation import Item

SUMMARY = "examine models on the test sets, with intervals and paired comparisons"
EXAMPLE = "--models runs/nano/base --models runs/nano/chat --tests runs/nano/testsets"
ORDER = 110
VERSION = 2  # 2: the tools that a question offers are rendered
PRODUCES = ("exam",)
SEED_METRICS = ("models.*.rubric.right", "models.*.rubric.total", "models.*.base_all")
SETS = {"base": (check_base_test, ("task", "prompt")), "chat": (check_chat_test, ("task", "messages", "rubric"))}


class Config(StageConfig):
    """Who is examined, on what."""

    models: list[str] = edge(
        doc="models, the first ones the earlier in the family", accepts="model", hub="model", many=True, min_length=1
    )
    tests: str = edge(doc="test sets", accepts="tests")
    max_tokens: int = content(64, doc="longest answer", ge=1)
    samples: int = content(12, doc="prompts whose answers by every model are shown in the report", ge=0)
    limit: int = content(0, doc="questions per set at most; 0: all", ge=0)


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Examine every model, then compare each with the one before it."""
    tests = {name: _rows(inputs["tests"].path / f"{name}.jsonl", config.limit) for name in SETS}
    if not any(tests.values()):
        raise UserError("neither base.jsonl nor chat.jsonl", where=str(inputs["tests"].path), expected="test sets")
    models = {source.called: source.path for source in many(inputs, "models")}
    if len(models) < len(config.models):
        raise UserError("two models have one name", expected="names that differ", hint="rename one of the folders")
    items = {}
    for number, (name, path) in enumerate(models.items()):
        context.progress(number, len(models), model=name)
        items[name] = examine(path, tests, config, context.device)
        for set_name, answered in items[name].items():
            write_jsonl(context.out / f"{name}.{set_name}.jsonl", answered)
    metrics = {
        "models": {name: _summary(sets, context.seed) for name, sets in items.items()},
        "comparisons": _comparisons(items, context.seed),
        "samples": _samples(tests["chat"], items, config.samples),
    }
    return Result(metrics, _summary_line(metrics))


def _rows(path: Path, limit: int) -> list[Row]:
    if not path.exists():
        return []
    check, needed = SETS[path.stem]
    rows = read_checked(path, "questions", check, needed, once=True)
    return rows[:: max(1, len(rows) // limit)][:limit] if limit else rows


def examine(path: Path, tests: dict[str, list[Row]], config: Config, device: str) -> dict[str, list[Item]]:
    """All items of one model."""
    from qwenkit import Engine, SamplingParams, load_model, load_tokenizer
    from qwenkit.evaluation import chat_eval, exact_match, multiple_choice
    from qwenkit.evaluation.rubric import score

    engine = Engine(load_model(path, device=device), load_tokenizer(path))
    greedy = SamplingParams.plain(temperature=0, max_tokens=config.max_tokens)
    choices = [row for row in tests["base"] if row.get("choices")]
    open_ended = [row for row in tests["base"] if not row.get("choices")]
    return {
        "base": [*multiple_choice(engine, choices), *exact_match(engine, open_ended, greedy)],
        "chat": chat_eval(
            lambda rows: answers(engine, rows, greedy), tests["chat"], lambda row, answer: score(row, answer)._asdict()
        ),
    }


def _summary(sets: dict[str, list[Item]], seed: int) -> dict[str, Any]:
    from qwenkit.evaluation import aggregate, aggregate_components

    return {
        "base": aggregate(sets["base"], seed=seed),
        "chat": aggregate(sets["chat"], seed=seed),
        "rubric": aggregate_components(sets["chat"], seed=seed),
        "base_all": aggregate_components(sets["base"], seed=seed).get("right"),
    }


def _comparisons(items: dict[str, dict[str, list[Item]]], seed: int) -> list[dict[str, Any]]:
    """Each model against the one before it, paired over the same questions."""
    from qwenkit.evaluation import compare

    names = list(items)
    comparisons = []
    for before, after in itertools.pairwise(names):
        for set_name, components in (("chat", ("right", "total")), ("base", ("right",))):
            for component in components:
                if items[before][set_name]:
                    d = compare(items[after][set_name], items[before][set_name], component, seed)
                    comparisons.append(
                        {"a": after, "b": before, "set": set_name, "component": component, **d._asdict()}
                    )
    return comparisons


def _samples(rows: list[Row], items: dict[str, dict[str, list[Item]]], count: int) -> list[dict[str, Any]]:
    """The same prompts answered by every model, spread evenly over the chat set."""
    picked = rows[:: max(1, len(rows) // count)][:count] if count else []
    answers = {name: {item["id"]: item["answer"] for item in sets["chat"]} for name, sets in items.items()}
    return [
        {
            "prompt": row["messages"],
            "reference": row.get("reference", ""),
            "answers": {name: by_id[row["id"]] for name, by_id in answers.items()},
        }
        for row in picked
    ]


def _summary_line(metrics: dict[str, Any]) -> str:
    parts = []
    for name, scores in metrics["models"].items():
        rubric = scores["rubric"].get("right")
        if rubric:
            parts.append(f"{name} {100 * rubric['mean']:.0f} %")
    return "right: " + ", ".join(parts) if parts else f"{len(metrics['models'])} models on base tasks"


def card_number(metrics: Metrics) -> str:
    """Return the share of correct chat answers of each model."""
    models = {name: mapping(mapping(table).get("rubric")) for name, table in mapping(metrics.get("models")).items()}
    return percent(mean_scores({name: rubric.get("right") for name, rubric in models.items()}))


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each comparison whether the later model is better, or keeps what the earlier one knew."""
    return comparison_claims(nodes, seeds)
