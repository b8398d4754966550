"""Equal answers in many coats, unequal ones that look alike, and input meant to break the reader."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.evaluation import answers_equal

SAME = """
5 | 5.0
1,234 | 1234
$\\frac{1}{2}$ | 0.5
\\dfrac12 | 1/2
\\boxed{42} | 42
The | THE.
三分之一 | 1/3
0.3333 | 1/3
百分之五十 | 50%
50% | 1/2
1 km | 1000 米
90 minutes | 1.5 小时
一百零三 | 103
一百五 | 150
两万五 | 25000
一万二千三百 | 12300
一亿二千万 | 120000000
一千零五十 | 1050
二〇二三 | 2023
壹佰 | 100
一又二分之一 | 1 1/2
负三点一四 | -3.14
forty-two | 42
One hundred and five | 105
twelve thousand | 12000
minus seven | -7
 (A) | a
x = 5 | 5
１２３ | 123
3½ | 3.5
10² | 100
1.5×10^3 | 1500
$1.5 \\times 10^{3}$ | 1500
2^10 | 1024
\\{1, 2\\} | {2, 1}
(1, 2) | (1,2.0)
(1/2, 三) | (0.5, 3)
5 apples | 5
5 apples | 5 apple
$5 | 5 dollars
¥5 | 5元
−3 | -3
20个 | 二十
**Paris** | paris
“北京”。 | 北京
红，绿 | 红,绿
12 m² | 12平方米
\\text{yes} | Yes
\\sqrt{2} | \\sqrt 2
\\sqrt2 | √2
√(2) | sqrt(2)
√12 | \\sqrt{12}
\\sqrt x | \\sqrt{x}
2\\sqrt{3} | 2√3
\\frac{\\sqrt{2}}{2} | √2/2
\\frac{2\\sqrt 3}{3} | 2√3/3
\\sqrt{\\sqrt{2}} | √(√2)
\\frac{1+x}{2} | (1+x)/2
\\frac{1}{2x} | 1/(2x)
\\frac{1}{x^{2}} | 1/x^2
\\frac 1 2 | 0.5
-\\frac{1}{2} | -0.5
x^{a+b} | x^(a+b)
5 m | 5
60 km/h | 60
12 m^2 | 12
1, 2 | (1, 2)
1,2 | [1, 2]
1, 2 | \\{2, 1\\}
3, 0.5 | (3, 1/2)
(1, 2), (3, 4) | (1,2),(3,4)
[0, 1) | [0,1)
红，绿 | (红, 绿)
""".strip("\n").splitlines()

DIFFERENT = """
5 | 6
5 | -5
5 cm | 5 m
5 dollars | 5元
5 apples | 5 pears
50% | 50
0.33 | 1/3
0.3334 | 1/3
3.14 | 22/7
1 2 | 12
(1,2) | (2,1)
(1,2) | (1,2,3)
{1,1} | {1,2}
1/0 | 0
一百 | 1000
北京 | 南京
5+3 | 5
5 or 6 or 7 | 5
2023-01-02 | 2023
1:30 | 1
five six | 56
1.2.3 | 1.2
1,23 | 123
12 | 12 13
paris | paris, france
0 | 零零一
\\sqrt{2} | 2
2/x | 2
2x | 2
2π | 2
2^x | 2
3x^2 | 3
5 m | 5 s
\\sqrt{20} | \\sqrt 20
\\sqrt{2+x} | \\sqrt 2+x
\\sqrt{2x} | √2x
\\sqrt[3]{8} | \\sqrt{8}
√2 | √3
2√3 | √3
\\frac{1+x}{2} | 1+x/2
\\frac{1}{2x} | 1/2x
x^{a+b} | x^a+b
(1, 2) | [1, 2]
(1, 2) | {1, 2}
[0, 1) | [0, 1]
[0, 1) | (0, 1]
[0, 1) | 0, 1
2, 1 | (1, 2)
1, 2 | (1, 2, 3)
1,234 | 1, 234
1,234 | (1, 234)
(1, 2), (3, 4) | (1, 3), (2, 4)
(1, 2), (3, 4) | 1, 2, 3, 4
""".strip("\n").splitlines()


@pytest.mark.parametrize("case", SAME)
def test_same(case: str) -> None:
    left, right = case.split(" | ")
    assert answers_equal(left, right) and answers_equal(right, left)


@pytest.mark.parametrize("case", DIFFERENT)
def test_different(case: str) -> None:
    left, right = case.split(" | ")
    assert not answers_equal(left, right) and not answers_equal(right, left)


PAIRS = [
    line.split("\t")
    for line in Path(__file__).with_name("answer_pairs.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("verdict", "left", "right"), PAIRS)
def test_pairs_of_the_table(verdict: str, left: str, right: str) -> None:
    assert {"=": True, "≠": False}[verdict] is answers_equal(left, right) is answers_equal(right, left)


def test_the_table_is_broad() -> None:
    assert len({tuple(pair[1:]) for pair in PAIRS}) == len(PAIRS) > 500
    assert sum(pair[0] == "≠" for pair in PAIRS) > 150


@pytest.mark.parametrize("empty", ["", "   ", "。", "\u200b"])
def test_nothing_is_no_answer(empty: str) -> None:
    assert not answers_equal(empty, empty) and not answers_equal(empty, "0")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(72, "72", True), ("72.0", 72, True), (0.5, "1/2", True), (Fraction(1, 3), "三分之一", True), (72, 73, False),
     (Decimal("1.50"), 1.5, True), (1e22, "10^22", True), (np.int64(5), "五", True), (np.float32(0.25), "25%", True),
     (None, "x", False), (None, None, False), ("none", None, False)],
)  # fmt: skip
def test_numbers_are_answers_and_none_is_not(left: Any, right: Any, same: bool) -> None:
    assert answers_equal(left, right) is answers_equal(right, left) is same


@pytest.mark.parametrize("wrong", [True, ["5"], b"5", 1j, {"a": 1}])
def test_what_is_no_answer_is_refused(wrong: Any) -> None:
    for call, name in (
        (lambda: answers_equal(wrong, "5"), "prediction"),
        (lambda: answers_equal("5", wrong), "reference"),
    ):
        with pytest.raises(UserError, match=f"^{name} = .*\\n  expected: a string or a number; None for no answer$"):
            call()


HOSTILE = [
    "9" * 5000, "1e999999999", "9^9999999", "9" * 59 + "^64", "1/" + "0" * 50, "(" * 2000, "{" * 1000 + "}" * 1000,
    "$" * 2000, "\\frac{" * 300, "\\boxed{" * 200, "一" * 2000, "万" * 39, "分之", "又" * 100, "one " * 500, "-" * 2000,
    "1," * 900, "\x00\x01", "\ud800", "1" + " " * 1990, "𝟓", "٣", "²" * 1000, "**" * 900, "a=" * 900, "'\"" * 900,
    "((" + "1,2),(" * 200 + "1,2))", "\\sqrt{" * 250, "\\sqrt" * 300, "√" * 1900,
    "{" * 900 + "\\frac{1}{2}" * 50, "\\sqrt{" * 200 + "2" + "}" * 200, "^{" * 300 + "}" * 300, "(1," * 400 + ")" * 400,
    "%", "$%", "e5", ".", "½" * 500, "1 " * 900, "10^10^10", "9^(9^(9^9))", "((((" * 25_000,
    "[" * 100_000 + "]" * 100_000,
    "7" * 1_000_000, "\\frac{1}{" * 90 + "1" + "}" * 90, "x^" * 400, "sin " * 200, "|" * 900, "1±" * 400,
    "-" * 900 + "1",
    "\\begin{pmatrix}" * 60, "1,000" * 190, "999!!!", "170!" + "!" * 20, "2^(3^(4^5))",
    "1e-400", "(x+1)^(999999999)",
    "\\text{" * 150 + "}" * 150, "一半" * 400, "1 and " * 160, "x<" * 400, "a=1," * 240, "(" * 400 + "x" + ")" * 400,
]  # fmt: skip


@pytest.mark.timeout(60)  # what tries again from each character would not end
def test_hostile_input_is_read_quickly_and_quietly() -> None:
    for text in HOSTILE:
        assert answers_equal(text, "7") is False
        assert isinstance(answers_equal(text, text), bool)


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_symmetric_for_any_text(left: str, right: str) -> None:
    assert answers_equal(left, right) == answers_equal(right, left)


def chinese(n: int) -> str:
    """Another way to the same numerals: by positions, written straight from the grammar."""
    if n < 10:
        return "零一二三四五六七八九"[n]
    for unit, name in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if n >= unit:
            rest = n % unit
            tail = ("零" if rest < unit // 10 else "") + chinese(rest) if rest else ""
            return chinese(n // unit) + name + tail
    raise AssertionError


@given(st.integers(0, 10**11), st.integers(0, 10**11))
@settings(max_examples=300, deadline=None)
def test_chinese_numerals_are_numbers(n: int, other: int) -> None:
    assert answers_equal(chinese(n), str(n)) and answers_equal(f"{n:,}", chinese(n))
    assert answers_equal(chinese(n), str(other)) == (n == other)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
@settings(max_examples=200, deadline=None)
def test_fractions_are_equal_exactly_when_they_are(a: Fraction, b: Fraction) -> None:
    assert answers_equal(f"{a.numerator}/{a.denominator}", f"{2 * b.numerator}/{2 * b.denominator}") == (a == b)


# ---- expressions: written in many ways, they are equal only when their values are ---------------------------------

ATOMS = st.sampled_from(["2", "3", "12", "x", "y"])
TREES = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(st.just("root"), inner) | st.tuples(st.sampled_from(["over", "plus", "power"]), inner, inner)
    ),
    max_leaves=4,
)
VALUES = {"x": 1.7320508, "y": 0.5772157}


def latex(tree: Any) -> str:
    """An expression in LaTeX, with every brace."""
    if isinstance(tree, str):
        return tree
    parts = [latex(part) for part in tree[1:]]
    forms = {"root": "\\sqrt{%s}", "over": "\\frac{%s}{%s}", "plus": "%s+%s", "power": "(%s)^{%s}"}
    return forms[tree[0]] % tuple(parts)


def value(tree: Any) -> float:
    """What it is worth where x and y are numbers that no small expression hits by chance."""
    if isinstance(tree, str):
        return VALUES.get(tree) or float(tree)
    left, right = (value(part) for part in (tree[1], tree[-1]))
    if tree[0] == "root":
        return left**0.5
    return {"over": left / right, "plus": left + right, "power": min(left, 50) ** min(right, 5)}[tree[0]]


@given(TREES, TREES)
@settings(max_examples=300, deadline=None)
def test_no_two_expressions_of_other_value_are_equal(left: Any, right: Any) -> None:
    assert answers_equal(latex(left), latex(left))
    if answers_equal(latex(left), latex(right)):
        assert value(left) == pytest.approx(value(right), rel=1e-3)


ITEMS = st.lists(st.sampled_from(["1", "2", "1/2", "0.5", "x", "(1, 2)", "二"]), min_size=2, max_size=4)
WORTH = {"1/2": "h", "0.5": "h", "二": "2"}


@given(
    ITEMS,
    ITEMS,
    st.sampled_from(["()", "[]", "{}", "[)", "(]", ""]),
    st.sampled_from(["()", "[]", "{}", "[)", "(]", ""]),
)
@settings(max_examples=400, deadline=None)
def test_lists_are_equal_by_brackets_and_elements(left: list[str], right: list[str], ours: str, theirs: str) -> None:
    """Checked against the rule written out: the same brackets, or none on one side; in order, but for sets and for two
    lists without brackets."""
    a, b = (", ".join(items).join(kind or ("", "")) for items, kind in ((left, ours), (right, theirs)))
    worth = [[WORTH.get(item, item) for item in items] for items in (left, right)]
    fits = ours == theirs or ("" in (ours, theirs) and not {"[)", "(]"} & {ours, theirs})
    unordered = "{}" in (ours, theirs) or ours == theirs == ""
    same = sorted(worth[0]) == sorted(worth[1]) if unordered else worth[0] == worth[1]
    assert answers_equal(a, b) == (fits and same)


# ---- what a collection of 2,500 gold answers looks like ------------------------------------------------------------


def boxed(solution: str) -> str:
    """What the last box of a solution holds, by counting braces."""
    start, level = solution.rfind("\\boxed{") + 7, 1
    for place in range(start, len(solution)):
        level += (solution[place] == "{") - (solution[place] == "}")
        if not level:
            return solution[start:place]
    return ""


REWRITTEN = [
    lambda gold: f"${gold}$",
    lambda gold: f"The answer is {gold}.",
    lambda gold: gold.replace("\\frac", "\\dfrac"),
    lambda gold: f"\\boxed{{{gold}}}",
    lambda gold: f" {gold} ".replace("{", " {") if "\\begin" not in gold and "\\text" not in gold else gold,
]


def test_gold_answers_equal_themselves_in_five_forms_and_no_others(real_data: Path) -> None:
    with gzip.open(real_data / "math" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        golds = sorted({gold for line in lines if (gold := boxed(json.loads(line)["solution"]))})[::7]
    assert len(golds) > 80
    for gold in golds:
        assert [form(gold) for form in REWRITTEN if not answers_equal(form(gold), gold)] == []
    integers = [gold for gold in golds if gold.isdigit()]
    assert not any(answers_equal(a, b) for a in integers for b in integers[:20] if a != b)
