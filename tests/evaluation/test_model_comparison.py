"""Several models over the same test sets: what is read, what is compared, and what is shown side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.evaluation.model_comparison import (
    answers_side_by_side,
    model_scores,
    read_test_sets,
    score_line,
    successive_comparisons,
)
from qwenkit.evaluation.tasks import Item
from qwenkit.records import write_jsonl


def items(set_name: str, right: list[int]) -> list[Item]:
    components = ("right", "total") if set_name == "chat" else ("right",)
    return [
        Item(id=f"q{n}", task="sums", language="en", answer=f"a{n}", components=dict.fromkeys(components, float(value)))
        for n, value in enumerate(right)
    ]


def test_sets_are_read_and_thinned_evenly(tmp_path: Path) -> None:
    rows = [{"id": str(n), "task": "sums", "prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(10)]
    write_jsonl(tmp_path / "base.jsonl", rows)
    assert len(read_test_sets(tmp_path)["base"]) == 10 and read_test_sets(tmp_path)["chat"] == []
    assert [row["id"] for row in read_test_sets(tmp_path, 3)["base"]] == ["0", "3", "6"]
    assert len(read_test_sets(tmp_path, 20)["base"]) == 10
    (tmp_path / "base.jsonl").unlink()
    with pytest.raises(UserError, match=r"neither base.jsonl nor chat.jsonl"):
        read_test_sets(tmp_path)


def test_each_model_is_compared_with_the_one_before_it() -> None:
    first = {"chat": items("chat", [0, 0, 1, 0]), "base": items("base", [1, 1])}
    models = {"base": first, "chat": {**first, "chat": items("chat", [1, 1, 1, 0])}, "rlhf": first}
    rows = successive_comparisons(models)
    compared = [(row["a"], row["b"], row["set"], row["component"], row["mean"]) for row in rows]
    assert compared == [
        ("chat", "base", "chat", "right", 0.5), ("chat", "base", "chat", "total", 0.5),
        ("chat", "base", "base", "right", 0.0), ("rlhf", "chat", "chat", "right", -0.5),
        ("rlhf", "chat", "chat", "total", -0.5), ("rlhf", "chat", "base", "right", 0.0),
    ]  # fmt: skip
    alone: dict[str, Any] = {name: {**sets, "base": []} for name, sets in models.items()}
    assert {row["set"] for row in successive_comparisons(alone)} == {"chat"}


def test_scores_and_their_line() -> None:
    scores = model_scores({"chat": items("chat", [1, 1, 0, 1]), "base": items("base", [1, 0])})
    assert scores["rubric"]["right"]["mean"] == scores["chat"]["sums"]["mean"] == 0.75
    assert scores["base_all"]["mean"] == 0.5 and set(scores) == {"base", "chat", "rubric", "base_all"}
    assert score_line({"chat": scores}) == "right: chat 75 %"
    assert score_line({"a": {"rubric": {}}, "b": {"rubric": {}}}) == "2 models on base tasks"


def test_answers_stand_side_by_side() -> None:
    rows: list[dict[str, Any]] = [{"id": f"q{n}", "messages": [n], "reference": "r"} for n in range(4)]
    answered = {name: {"chat": items("chat", [1] * 4), "base": []} for name in ("a", "b")}
    shown = answers_side_by_side(rows, answered, 2)
    assert [row["prompt"] for row in shown] == [[0], [2]]
    assert shown[1] == {"prompt": [2], "reference": "r", "answers": {"a": "a2", "b": "a2"}}
    assert answers_side_by_side(rows, answered, 0) == []
