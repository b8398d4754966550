"""Exams: rows in, one item per row out, and the numbers with their intervals (report §2.6 and §3.3).

Three ways to ask: `multiple_choice` (log-probability of each choice), `exact_match` (a base model completes the
prompt), `chat_eval` (a chat model answers, a callable scores). An item keeps the row's id, the answer and every score
component, so that two models are compared on the same items: `compare`, and never by two separate means.

The engine is anything with `.score(prompts, continuations)` and `.generate(prompts, params)`, as
`qwenkit.inference.Engine`; who renders chats gives their answers. This file imports no model and no tensor library.
Caveat: `params` decide everything about an exam by generation; ask greedily (`temperature=0`) for numbers that repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypedDict, TypeVar

from qwenkit.errors import Stopped, UserError
from qwenkit.evaluation.answers import answers_equal
from qwenkit.records import Row
from qwenkit.statistics import Difference, mean_interval, paired_difference


class Item(TypedDict):
    """One answered row. `components` are scores in [0, 1]; `right` is there in every exam by answer or choice."""

    id: str
    task: str
    language: str
    answer: str
    components: dict[str, float]


Params = TypeVar("Params", contravariant=True)


class Answered(Protocol):
    """An engine's output for one prompt."""

    @property
    def text(self) -> str | None:
        """The text of the answer; an engine without a tokenizer has none."""
        ...


class Scorer(Protocol):
    """What multiple choice needs of an engine."""

    def score(self, prompts: list[str], continuations: list[str]) -> Sequence[Sequence[float]]:
        """Return the log-probability, in nats, of every token of each continuation."""
        ...


class EngineLike(Scorer, Protocol[Params]):
    """What an exam needs of an engine."""

    def generate(self, prompts: list[str], params: Params) -> Sequence[Answered]:
        """One output with `.text` for each prompt."""
        ...


def multiple_choice(engine: Scorer, rows: Iterable[Row]) -> list[Item]:
    """`right`: the choice of highest log-probability per UTF-8 byte (as `acc_norm`); `right_raw`: of highest sum."""
    rows = list(rows)
    for row in rows:
        check_choices(row)
    prompts = [row["prompt"] for row in rows for _ in row["choices"]]
    choices = [choice for row in rows for choice in row["choices"]]
    scores = iter(engine.score(prompts, choices) if rows else [])
    items = []
    for row in rows:
        sums = [float(sum(next(scores))) for _ in row["choices"]]
        if not all(map(math.isfinite, sums)):
            raise Stopped("the model gives log-probabilities that are not finite", where=f"test row {row['id']}")
        lengths = [len(choice.encode()) for choice in row["choices"]]
        best = _argmax([total / length for total, length in zip(sums, lengths)])
        components = {"right": float(best == row["gold"]), "right_raw": float(_argmax(sums) == row["gold"])}
        items.append(_item(row, row["choices"][best], components))
    return items


def exact_match(engine: EngineLike[Params], rows: Iterable[Row], params: Params) -> list[Item]:
    """`right`: the completion's first line (as many lines as the reference has) is the row's answer."""
    rows = list(rows)
    outputs = engine.generate([row["prompt"] for row in rows], params) if rows else []
    items = []
    for row, output in zip(rows, outputs, strict=True):
        lines = row["answer"].strip().count("\n") + 1
        answer = "\n".join((output.text or "").strip().split("\n")[:lines])
        items.append(_item(row, answer, {"right": float(answers_equal(answer, row["answer"]))}))
    return items


def chat_eval(
    answers: Callable[[list[Row]], Sequence[Answered]],
    rows: Iterable[Row],
    score: Callable[[Row, str], Mapping[str, float | None]],
) -> list[Item]:
    """Every component that `score(row, answer)` gives; one that is None does not apply to that row and is left out.
    `answers(rows)` gives one output with `.text` for each row's chat."""
    rows = list(rows)
    outputs = answers(rows) if rows else []
    items = []
    for row, output in zip(rows, outputs, strict=True):
        text = output.text or ""
        scored = score(row, text)
        components = {name: float(value) for name, value in scored.items() if value is not None}
        items.append(_item(row, text, components))
    return items


def aggregate(items: Iterable[Item], component: str = "right", seed: int = 0) -> dict[str, Row]:
    """{task: {"mean", "low", "high", "n"}} of one component, tasks in alphabetical order."""
    return _summary(((item["task"], item["components"].get(component)) for item in items), seed)


def aggregate_components(items: Iterable[Item], seed: int = 0) -> dict[str, Row]:
    """{component: {"mean", "low", "high", "n"}} over all items that have the component."""
    return _summary((pair for item in items for pair in item["components"].items()), seed)


def compare(items_a: Iterable[Item], items_b: Iterable[Item], component: str = "right", seed: int = 0) -> Difference:
    """Mean of a - b over the same test rows (positive: a is better); rows that only one side answered are an error."""
    pairs = paired_scores(items_a, items_b, component).values()
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs], seed=seed)


def paired_scores(
    items_a: Iterable[Item], items_b: Iterable[Item], component: str = "right"
) -> dict[str, tuple[float, float]]:
    """{test row: (score of a, score of b)}; rows that only one side answered are an error."""
    ours, theirs = (_scores(side, component) for side in (items_a, items_b))
    alone = sorted(ours.keys() ^ theirs.keys())
    if alone or not ours:
        raise UserError(
            f"the two models were not scored for {component!r} on the same test rows",
            where=f"test row {alone[0]}" if alone else None,
            expected="one item with that component for every row on both sides",
        )
    return {row: (score, theirs[row]) for row, score in ours.items()}


def _scores(items: Iterable[Item], component: str) -> dict[str, float]:
    return {item["id"]: item["components"][component] for item in items if component in item["components"]}


def _summary(pairs: Iterable[tuple[str, float | None]], seed: int) -> dict[str, Row]:
    groups: dict[str, list[float]] = {}
    for name, value in pairs:
        if value is not None:
            groups.setdefault(name, []).append(value)
    return {name: mean_interval(groups[name], seed=seed)._asdict() for name in sorted(groups)}


def check_choices(row: Row) -> None:
    """Refuse a multiple-choice row without texts to choose from, or without the right one among them."""
    choices, gold = row.get("choices") or [], row.get("gold")
    where = f"test row {row['id']}"
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError("`choices` holds something other than strings", where=where, expected="a list of strings")
    if len(choices) < 2 or not all(choices):
        raise UserError("a multiple-choice row needs two or more choices, none empty", where=where)
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise UserError(f"gold is {gold!r}", where=where, expected=f"an index from 0 to {len(choices) - 1}")


def _argmax(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _item(row: Row, answer: str, components: dict[str, float]) -> Item:
    return Item(
        id=row["id"], task=row["task"], language=row.get("language", "und"), answer=answer, components=components
    )
