"""Final answers out of solutions: what is stated last, and None where nothing is stated."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from qwenkit.evaluation.answer_extraction import (
    code_block,
    final_choices,
    final_formula,
    final_number,
    final_yes_no,
    without_thoughts,
)
from qwenkit.evaluation.answers import answers_equal


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### -5", "-5"),
        ("A: 70000", "70000"),
        ("#### $18.50", "18.50"),
        ("The answer is 42. It took 3 steps.", "42"),
        ("答案是12个，共3步", "12"),
        ("答：一共25元。", "25"),
        ("no idea", None),
        ("We get \\boxed{56} after 2 tries", "56"),
        ("He has 3 left, then 8.", "8"),
        ("", None),
        ("#### 3\nQ: next\n#### 4", "4"),
        ("The answer is 1/2", "1/2"),
        ("the final answer is: **15**", "15"),
        ("x2 and y3", None),
        ("costs .5", ".5"),
    ],
)
def test_numbers(text: str, number: str | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("is $\\boxed{\\frac{1}{\\sqrt{2}}}$.", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("x", None),
        ("\\boxed{\\frac{1}{2", None),
        ("The final answer is $x^2$. I hope", "$x^2$"),
        ("最终答案是 3.5。", "3.5"),
    ],
)
def test_formulas(text: str, formula: str | None) -> None:
    assert final_formula(text) == formula


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. Paris", "B"),
        ("**C**", "C"),
        ("The answer is B.", "B"),
        ("The correct answer is (D).", "D"),
        ("答案是C", "C"),
        ("故选：B。", "B"),
        ("故选AC", "AC"),
        ("【答案】A、C", "AC"),
        ("正确答案为 D", "D"),
        ("选项 A", "A"),
        ("因此，选择B。", "B"),
        ("Answer: A", "A"),
        ("I choose option C", "C"),
        ("(B) is correct.", "B"),
        ("A选项正确", "A"),
        ("the answer is \\boxed{A}", "A"),
        ("A dog barked.", None),
        ("I do not know", None),
        ("", None),
        ("The answer is Apple", None),
        ("At first the answer is A. No: the answer is B.", "B"),
        ("不选A，应选B", "B"),
    ],
)
def test_choices(text: str, letters: str | None) -> None:
    assert final_choices(text) == letters


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes, it is.", True),
        ("No.", False),
        ("是的", True),
        ("不是", False),
        ("不正确", False),
        ("maybe", None),
        ("True", True),
        ("I know nothing", None),
    ],
)
def test_yes_and_no(text: str, yes: bool | None) -> None:
    assert final_yes_no(text) is yes


def test_code_blocks() -> None:
    text = "Use:\n```python\ndef f(x):\n    return x\n```\nTest it:\n```python\nprint(f(1))\n```\n"
    assert code_block(text) == "print(f(1))\n" and code_block(text, "f") == "def f(x):\n    return x\n"
    assert code_block("```\na = 1\n") == "a = 1\n" and code_block("no code") is None


def test_thoughts_are_no_answer() -> None:
    assert final_choices(without_thoughts("<think>\nThe answer is A.\n</think>\n\nThe answer is B.")) == "B"


def test_graded_solutions_of_gsm8k(real_data: Path) -> None:
    """Real outputs of four models, each with the verdict of its authors."""
    with gzip.open(real_data / "gsm8k" / "example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:300]
    models = [name for name in rows[0] if isinstance(rows[0][name], dict)]
    verdicts = [
        answers_equal(final_number(row[name]["solution"]), final_number(row["ground_truth"])) is row[name]["is_correct"]
        for row in rows
        for name in models
    ]
    assert len(verdicts) > 1000 and sum(verdicts) / len(verdicts) > 0.99
