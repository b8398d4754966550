"""Pairs from scored answers."""

import pytest

from qwenkit.alignment import make_pairs
from qwenkit.errors import UserError


def row(*scores: float, id: str = "q", texts: list[str] | None = None) -> dict:
    names = texts or [f"answer {i}" for i in range(len(scores))]
    answers = [{"text": t, "score": s, "policy": f"p{i}"} for i, (t, s) in enumerate(zip(names, scores))]
    return {"id": id, "messages": [{"role": "user", "content": "?"}], "answers": answers, "language": "zh"}


def test_best_worst_takes_the_widest_pair() -> None:
    (pair,), counts = make_pairs([row(0.5, 0.9, 0.1)])
    assert (pair["chosen"], pair["rejected"], pair["policy"]) == ("answer 1", "answer 2", "p1>p2")
    assert pair["margin"] == pytest.approx(0.8)
    assert pair["language"] == "zh" and not pair["flipped"]
    assert counts["pairs"] == counts["prompts"] == 1 and counts["flipped"] == 0


def test_every_considered_pair_is_accounted_for() -> None:
    rows = [row(0.5, 0.5, 0.1), row(0.3), row(1.0, 0.0, texts=["same", "same"]), row(0.9, 0.5, 0.2, 0.0)]
    pairs, counts = make_pairs(rows, strategy="all", max_pairs=2)
    looked_at = 3 + 0 + 1 + 6
    assert counts["pairs"] + counts["tied"] + counts["same_text"] + counts["over_limit"] == looked_at
    assert [pair["margin"] for pair in pairs[-2:]] == [0.9, 0.7]
    assert len({pair["id"] for pair in pairs if pair["margin"] >= 0.7}) == 2


def test_adjacent_compares_neighbours_in_rank() -> None:
    pairs, _ = make_pairs([row(0.1, 0.9, 0.5)], strategy="adjacent")
    assert {(p["chosen"], p["rejected"]) for p in pairs} == {("answer 1", "answer 2"), ("answer 2", "answer 0")}


def test_margin_is_exclusive_and_refuses_ties() -> None:
    assert make_pairs([row(0.5, 0.5)])[0] == []
    assert make_pairs([row(0.75, 0.5)], min_margin=0.25)[0] == []
    assert len(make_pairs([row(0.75, 0.5)], min_margin=0.2)[0]) == 1


def test_component_is_the_criterion_that_differs_most() -> None:
    better = {"text": "a", "score": 1.0, "parts": {"right": 1.0, "mannered": 0.5, "total": 9.0}}
    worse = {"text": "b", "score": 0.2, "parts": {"right": 0.9, "mannered": 0.0, "total": 0.0}}
    (pair,), _ = make_pairs([{"id": "q", "messages": [], "answers": [worse, better]}])
    assert pair["component"] == "mannered"


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: best_worst"):
        make_pairs([], strategy="best-worst")
