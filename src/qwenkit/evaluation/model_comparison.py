"""Several models over the same test sets: every item is kept, so that comparisons are paired (report §2.6, §3.3).

    tests = read_test_sets(folder)                                  # {"base": rows, "chat": rows}
    items = {name: answer_test_sets(path, tests, 64, "cpu") for name, path in models.items()}
    {name: model_scores(sets) for name, sets in items.items()}      # each model by task and by component of the rubric
    successive_comparisons(items)                                   # each model against the one before it

Base tasks are read as continuations and multiple choice, chat tasks as greedy answers that each row's rubric scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.data.test_sets import read_checked
from qwenkit.errors import UserError
from qwenkit.evaluation.chat_answers import answers
from qwenkit.evaluation.questions import check_base_test, check_chat_test
from qwenkit.evaluation.tasks import aggregate, aggregate_components, chat_eval, compare, exact_match, multiple_choice
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.evaluation.tasks import Item

Items = dict[str, "list[Item]"]
"""The answered rows of one model, by test set."""
SETS = {"base": (check_base_test, ("task", "prompt")), "chat": (check_chat_test, ("task", "messages", "rubric"))}
COMPARED = (("chat", ("right", "total")), ("base", ("right",)))


def read_test_sets(folder: Path, limit: int = 0) -> dict[str, list[Row]]:
    """Return the rows of `base.jsonl` and `chat.jsonl`, checked; with a limit so many of each, spread evenly.

    Raises a `UserError` where the folder has neither, and for the first row that is not a question.
    """
    tests = {name: _read_rows(folder / f"{name}.jsonl", limit) for name in SETS}
    if not any(tests.values()):
        raise UserError("neither base.jsonl nor chat.jsonl", where=str(folder), expected="test sets")
    return tests


def _read_rows(path: Path, limit: int) -> list[Row]:
    if not path.exists():
        return []
    check, needed = SETS[path.stem]
    rows = read_checked(path, "questions", check, needed, once=True)
    return _spread(rows, limit) if limit else rows


def _spread(rows: list[Row], count: int) -> list[Row]:
    """Return at most so many rows, spread evenly over all of them."""
    return rows[:: max(1, len(rows) // count)][:count] if count else []


def answer_test_sets(model: Path, tests: Mapping[str, list[Row]], max_tokens: int, device: str) -> Items:
    """Return the items of the model in a folder, by test set; answers are greedy and have at most `max_tokens`."""
    from qwenkit.chat import load_tokenizer
    from qwenkit.evaluation.rubric import score
    from qwenkit.inference import Engine, SamplingParams
    from qwenkit.model import load_model

    engine = Engine(load_model(model, device=device), load_tokenizer(model))
    greedy = SamplingParams.plain(temperature=0, max_tokens=max_tokens)
    choices = [row for row in tests["base"] if row.get("choices")]
    open_ended = [row for row in tests["base"] if not row.get("choices")]
    return {
        "base": [*multiple_choice(engine, choices), *exact_match(engine, open_ended, greedy)],
        "chat": chat_eval(
            lambda rows: answers(engine, rows, greedy), tests["chat"], lambda row, answer: score(row, answer)._asdict()
        ),
    }


def model_scores(items: Items, seed: int = 0) -> Row:
    """Return the scores of one model with their intervals: by task of each set, by component, and over all base
    tasks."""
    return {
        "base": aggregate(items["base"], seed=seed),
        "chat": aggregate(items["chat"], seed=seed),
        "rubric": aggregate_components(items["chat"], seed=seed),
        "base_all": aggregate_components(items["base"], seed=seed).get("right"),
    }


def successive_comparisons(items: Mapping[str, Items], seed: int = 0) -> list[Row]:
    """Return each model `a` against the one before it, `b`: the mean difference over the same questions with its
    interval, by set and component."""
    return [
        {"a": after, "b": before, "set": name, "component": component,
         **compare(items[after][name], items[before][name], component, seed)._asdict()}
        for before, after in itertools.pairwise(items)
        for name, components in COMPARED if items[before][name]
        for component in components
    ]  # fmt: skip


def answers_side_by_side(rows: list[Row], items: Mapping[str, Items], count: int) -> list[Row]:
    """Return so many chat prompts, spread evenly, with the reference and every model's answer."""
    answered = {name: {item["id"]: item["answer"] for item in sets["chat"]} for name, sets in items.items()}
    return [
        {
            "prompt": row["messages"],
            "reference": row.get("reference", ""),
            "answers": {name: by_id[row["id"]] for name, by_id in answered.items()},
        }
        for row in _spread(rows, count)
    ]


def score_line(scores: Mapping[str, Any]) -> str:
    """Return the share of correct chat answers of each model in a line, or how many models there were without any."""
    right = {name: row["rubric"]["right"] for name, row in scores.items() if row["rubric"].get("right")}
    parts = [f"{name} {100 * score['mean']:.0f} %" for name, score in right.items()]
    return "right: " + ", ".join(parts) if parts else f"{len(scores)} models on base tasks"
