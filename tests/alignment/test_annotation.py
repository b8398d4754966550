"""Comparisons of a policy's own answers: which answers are scored, and which pairs are formed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qwenkit.alignment.annotation import BLOCK, annotate, choose_pairs, draw_prompts
from qwenkit.errors import UserError

RUBRIC = {"language": None, "right": {"kind": "mention", "any": ["Lund"], "none": []}, "parts": [], "limit": 9,
          "manners": "plain", "system": None}  # fmt: skip


class Parrot:
    """An engine that answers with the temperature, and rightly where it is 1."""

    def __init__(self) -> None:
        self.rng_ids: list[list[int]] = []
        self.seeds: list[int] = []

    def chat(self, prompts: list[Any], params: Any, tools: list[Any], *, rng_ids: list[int]) -> list[Any]:
        assert len(tools) == len(prompts)
        self.rng_ids.append(rng_ids)
        self.seeds.append(params.seed)
        text = "Lund" if params.temperature == 1 else f"at {params.temperature}"
        return [SimpleNamespace(samples=[SimpleNamespace(text=text)] * params.n) for _ in prompts]


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "messages": [{"role": "user", "content": f"Where? {n}"}], "rubric": RUBRIC,
             "candidates": [{"text": "Malmö", "policy": "other"}]} for n in range(count)]  # fmt: skip


def test_every_temperature_and_every_candidate_is_scored() -> None:
    """A request keeps its number in every block: its draws do not depend on what is answered beside it."""
    engine: Any = Parrot()
    rows = annotate(engine, prompts(BLOCK + 1), temperatures=[0.5, 1.0], samples=2, max_tokens=4, seed=3)
    assert engine.rng_ids == [[*range(BLOCK)], [BLOCK]] * 2 and len(set(engine.seeds)) == 2
    for row in rows:
        policies = [answer["policy"] for answer in row["answers"]]
        assert policies == ["T=0.5", "T=0.5", "T=1.0", "T=1.0", "other"]
        assert [answer["score"] > 0.5 for answer in row["answers"]] == [False, False, True, True, False]
    without = annotate(engine, prompts(1), temperatures=[1.0], samples=1, max_tokens=4, others=False)
    assert [answer["policy"] for answer in without[0]["answers"]] == ["T=1.0"]


def test_pairs_are_the_first_of_those_formed() -> None:
    engine: Any = Parrot()
    rows = annotate(engine, prompts(5), temperatures=[0.5, 1.0], samples=1, max_tokens=4)
    pairs, counts = choose_pairs(rows, most=3, strategy="best_worst", min_margin=0.05, pairs_per_prompt=1)
    assert [pair["id"] for pair in pairs] == ["q0/0", "q1/0", "q2/0"] and counts["pairs"] == 5
    assert all(pair["chosen"] == "Lund" for pair in pairs)
    with pytest.raises(UserError, match="no pair can be formed from 5 prompts"):
        choose_pairs(rows, most=3, strategy="all", min_margin=2.0, pairs_per_prompt=1)


def test_prompts_are_drawn_by_the_seed() -> None:
    drawn = draw_prompts(prompts(20), 5, seed=1)
    assert len({row["id"] for row in drawn}) == 5 and drawn == draw_prompts(prompts(20), 9, seed=1)[:5]
    assert drawn != draw_prompts(prompts(20), 5, seed=2) and len(draw_prompts(prompts(3), 5, seed=1)) == 3
