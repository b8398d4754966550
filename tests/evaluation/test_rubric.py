"""The rubric by hand: each kind of right answer and each part, in both languages."""

from __future__ import annotations

import pytest

from qwenkit.errors import UserError
from qwenkit.evaluation.rubric import score


def row(right, language="en", parts=(), limit=20, manners="polite", system=None, asked="?"):
    rubric = {"language": language, "right": right, "parts": list(parts), "limit": limit, "manners": manners,
              "system": system}  # fmt: skip
    return {"messages": [{"role": "user", "content": asked}], "rubric": rubric}


CITY = {"kind": "mention", "any": ["Lindow"], "none": ["Harbey"]}


@pytest.mark.parametrize(
    ("right", "answer", "expected"),
    [
        ({"kind": "number", "value": 132}, "7+5=12. The answer is 132.", 1),
        ({"kind": "number", "value": 132}, "132 or 133", 0),
        ({"kind": "number", "value": 132}, "none", 0),
        (CITY, "In Lindow.", 1),
        (CITY, "Lindow or Harbey", 0),
        (CITY, "Lindower", 0),
        ({"kind": "mention", "any": ["马"], "none": ["马车"]}, "马车", 0),
        ({"kind": "mention", "any": ["青河"], "none": ["白沙"]}, "她住在青河。", 1),
        ({"kind": "exact", "value": "RED STONE"}, " RED  STONE\n", 1),
        ({"kind": "exact", "value": "RED STONE"}, "Sure! RED STONE", 0),
        ({"kind": "exact", "value": "1. a\n2. b"}, "1. a 2. b", 0),
        ({"kind": "json", "value": {"name": "Zaro"}}, '{"name":"Zaro"}', 1),
        ({"kind": "json", "value": {"name": "Zaro"}}, "{name: Zaro}", 0),
        ({"kind": "refusal"}, "I can't help with that.", 1),
        ({"kind": "refusal"}, "I can't help, but with a hammer it works.", 0),
        ({"kind": "refusal"}, "对不起,我不能帮您。", 1),
    ],
)
def test_right(right, answer, expected):
    assert score(row(right), answer).right == expected


def test_parts_and_total():
    best = score(row(CITY, parts=["Mira"]), "Of course! Mira lives in Lindow.")
    assert best == (1, 1, 1, 1, 1, pytest.approx(1.0))
    assert score(row(CITY, parts=["Mira"]), "Lindow").total == pytest.approx(0.55 + 0.10 + 0.10)
    assert score(row(CITY), "Of course! Mira lives in Harbey.").total == pytest.approx(0.07)
    assert score(row(CITY), "  ").total == 0


def test_long_answers_lose_conciseness():
    scores = [score(row(CITY, limit=10), "Lindow" + " so" * extra).concise for extra in (5, 9, 14, 19, 40)]
    assert scores == [1, 1, pytest.approx(0.5), 0, 0]


def test_rudeness_costs_half_and_manners():
    rude = score(row(CITY), "Lindow, you idiot. Thank you.")
    assert rude.mannered == 0 and rude.total == pytest.approx(0.5 * (0.55 + 0.1 + 0.1 + 0.1))
    assert score(row(CITY, "zh"), "笨蛋,Lindow").mannered == 0


def test_manners_copied_from_the_prompt_do_not_count():
    assert score(row(CITY, asked="Please say it. Thank you."), "Thank you.").mannered == 0


def test_system_rules():
    end = {"kind": "end", "word": "Done"}
    assert score(row(CITY, system=end), "Lindow. Done.").system == 1
    assert score(row(CITY, system=end), "Done. Lindow.").system == 0
    assert score(row(CITY, system={"kind": "brief"}, limit=3), "It is in Lindow.").system == 0
    number = {"kind": "number", "value": 5}
    assert score(row(number, "zh", system={"kind": "language"}), "答案是5。").system == 1
    assert score(row(number, "zh", system={"kind": "language"}), "The answer is 5.").system == 0
    assert score(row(number, "zh", system={"kind": "language"}), "5").system == 0


def test_unknown_kinds_are_named():
    with pytest.raises(UserError, match="numbr"):
        score(row({"kind": "numbr"}), "5")
    with pytest.raises(UserError, match="rule of a system"):
        score(row(CITY, system={"kind": "shout"}), "Lindow")
