"""`evaluate`: the same exam for every model, item by item, so that comparisons are paired (report §2.6, §3.3).

Base tasks are read as continuations and multiple choice, chat tasks as greedy answers scored by each row's rubric. The
items are kept (`MODEL.base.jsonl`, `MODEL.chat.jsonl`): every number in the metrics can be traced to its questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qwenkit.config import StageConfig, content, edge
from qwenkit.errors import UserError
from qwenkit.evaluation.model_comparison import (
    answer_test_sets,
    answers_side_by_side,
    model_scores,
    read_test_sets,
    score_line,
    successive_comparisons,
)
from qwenkit.json_values import mapping
from qwenkit.records import write_jsonl
from qwenkit.stages.base import Input, Result, StageContext, many
from qwenkit.stages.card import CardPart, answers_view, scores_view
from qwenkit.stages.claims import Claim, comparison_claims
from qwenkit.stages.results import Metrics, NodeResults, mean_scores, percent

SUMMARY = "examine models on the test sets, with intervals and paired comparisons"
EXAMPLE = "--models runs/nano/base --models runs/nano/chat --tests runs/nano/testsets"
ORDER = 110
VERSION = 4  # 4: the engine computes by native code; 3: one stop rule; 2: the tools that a question offers are rendered
PRODUCES = ("exam",)
SEED_METRICS = ("models.*.rubric.right", "models.*.rubric.total", "models.*.base_all")
CARD_PARTS = (
    CardPart("exam", "Exam", "scores", scores_view),
    CardPart("answers", "Samples", "answers", answers_view),
)


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
    """Evaluate every model, then compare each with the one before it."""
    tests = read_test_sets(inputs["tests"].path, config.limit)
    models = {source.called: source.path for source in many(inputs, "models")}
    if len(models) < len(config.models):
        raise UserError("two models have one name", expected="names that differ", hint="rename one of the folders")
    items = {}
    for number, (name, path) in enumerate(models.items()):
        context.progress(number, len(models), model=name)
        items[name] = answer_test_sets(path, tests, config.max_tokens, context.device)
        for set_name, answered in items[name].items():
            write_jsonl(context.out / f"{name}.{set_name}.jsonl", answered)
    scores = {name: model_scores(sets, context.seed) for name, sets in items.items()}
    metrics = {
        "models": scores,
        "comparisons": successive_comparisons(items, context.seed),
        "samples": answers_side_by_side(tests["chat"], items, config.samples),
    }
    return Result(metrics, score_line(scores))


def card_number(metrics: Metrics) -> str:
    """Return the share of correct chat answers of each model."""
    models = {name: mapping(mapping(table).get("rubric")) for name, table in mapping(metrics.get("models")).items()}
    return percent(mean_scores({name: rubric.get("right") for name, rubric in models.items()}))


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each comparison whether the later model is better, or keeps what the earlier one knew."""
    return comparison_claims(nodes, seeds)
