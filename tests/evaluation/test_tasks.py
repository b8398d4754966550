"""Exams with an engine whose answers are known: the numbers must be those counted by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.evaluation import aggregate, aggregate_components, chat_eval, compare, exact_match, multiple_choice


class Parrot:
    """Answers from a table; a continuation's log-probabilities too."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table, self.params = table, None

    def score(self, prompts: list[str], continuations: list[str]) -> list[list[float]]:
        return [self.table[continuation] for continuation in continuations]

    def generate(self, prompts: list[str], params: Any) -> list[SimpleNamespace]:
        self.params = params
        return [SimpleNamespace(text=self.table[prompt]) for prompt in prompts]

    def answers(self, rows: list[dict[str, Any]]) -> list[SimpleNamespace]:
        return self.generate([row["messages"][-1]["content"] for row in rows], None)


def choice_row(number: int, choices: list[str], gold: int) -> dict[str, Any]:
    return {"id": f"c{number}", "task": "facts", "language": "en", "prompt": "?", "choices": choices, "gold": gold}


def test_multiple_choice_by_byte_and_by_sum() -> None:
    engine = Parrot({"ab": [-1.0, -1.0], "abcdefgh": [-1.5, -1.5], "猫": [-0.9], "cat": [-1.0]})
    items = multiple_choice(engine, [choice_row(0, ["ab", "abcdefgh"], 1), choice_row(1, ["猫", "cat"], 0)])
    assert items[0]["answer"] == "abcdefgh", "-3/8 a byte beats -2/2"
    assert items[0]["components"] == {"right": 1.0, "right_raw": 0.0}
    assert items[1]["components"] == {"right": 1.0, "right_raw": 1.0}, "a Chinese character is three bytes"


def test_rows_of_different_width_keep_their_own_scores() -> None:
    engine = Parrot({c: [-float(ord(c))] for c in "abcdef"})
    rows = [choice_row(0, list("ba"), 1), choice_row(1, list("fedc"), 3), choice_row(2, list("ab"), 0)]
    assert [item["answer"] for item in multiple_choice(engine, rows)] == ["a", "c", "a"]


@pytest.mark.parametrize("bad", [{"choices": ["a"]}, {"choices": ["a", ""]}, {"gold": 2}, {"gold": None}])
def test_bad_choice_rows_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="test row c0"):
        multiple_choice(Parrot({"a": [-1.0], "b": [-1.0], "": []}), [choice_row(0, ["a", "b"], 0) | bad])


def test_a_model_that_gives_nan_stops_the_exam() -> None:
    with pytest.raises(Stopped, match="not finite"):
        multiple_choice(Parrot({"a": [math.nan], "b": [-1.0]}), [choice_row(0, ["a", "b"], 0)])


def test_exact_match_reads_as_many_lines_as_the_reference_has() -> None:
    engine = Parrot({"p0": " 42\nQ: next", "p1": "a\nb\nc", "p2": "wrong", "p3": ""})
    answers = ["四十二", "a\nb", "right", "x"]
    rows = [{"id": str(i), "task": "t", "prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    items = exact_match(engine, rows, params="greedy")
    assert [item["components"]["right"] for item in items] == [1, 1, 0, 0]
    assert items[0]["answer"] == "42" and engine.params == "greedy"


def chat_rows(n: int) -> list[dict[str, Any]]:
    tasks = ["add", "facts"]
    return [
        {"id": f"r{i}", "task": tasks[i % 2], "language": "zh", "messages": [{"role": "user", "content": f"q{i}"}]}
        for i in range(n)
    ]


def test_chat_exam_keeps_components_and_leaves_out_what_does_not_apply() -> None:
    def score(row: dict[str, Any], text: str) -> dict[str, float | None]:
        return {"right": float(text == "yes"), "system": 0.5 if row["task"] == "add" else None}

    engine = Parrot({f"q{i}": "yes" if i % 4 == 0 else "no" for i in range(40)})
    items = chat_eval(engine.answers, chat_rows(40), score)
    summary = aggregate(items)
    assert list(summary) == ["add", "facts"] and summary["add"]["mean"] == 0.5 and summary["facts"]["mean"] == 0
    assert summary["facts"]["low"] == 0 < summary["facts"]["high"] and summary["add"]["n"] == 20
    assert aggregate(items, "system").keys() == {"add"}
    assert aggregate_components(items)["right"]["mean"] == 0.25


def items_of(scores: list[float]) -> list[Any]:
    return [
        {"id": f"r{i}", "task": "t", "language": "en", "answer": "", "components": {"right": s}}
        for i, s in enumerate(scores)
    ]


def test_compare_pairs_by_id_whatever_the_order() -> None:
    better, worse = items_of([1, 1, 0, 1, 1, 1, 0, 1]), items_of([0, 1, 0, 0, 0, 1, 0, 1])
    difference = compare(better, worse[::-1])
    assert difference.mean == pytest.approx(3 / 8) and difference.n == 8
    assert compare(worse, better).mean == -difference.mean


def test_compare_refuses_sides_that_do_not_match() -> None:
    with pytest.raises(UserError, match="r2"):
        compare(items_of([1, 1, 0]), items_of([1, 1]))
    with pytest.raises(UserError, match="'brief'"):
        compare(items_of([1]), items_of([1]), "brief")
