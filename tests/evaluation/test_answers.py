"""Equal answers in many coats, unequal ones that look alike, and input meant to break the reader."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
""".strip("\n").splitlines()


@pytest.mark.parametrize("case", SAME)
def test_same(case: str) -> None:
    left, right = case.split(" | ")
    assert answers_equal(left, right) and answers_equal(right, left)


@pytest.mark.parametrize("case", DIFFERENT)
def test_different(case: str) -> None:
    left, right = case.split(" | ")
    assert not answers_equal(left, right) and not answers_equal(right, left)


@pytest.mark.parametrize("empty", ["", "   ", "。", "\u200b"])
def test_nothing_is_no_answer(empty: str) -> None:
    assert not answers_equal(empty, empty) and not answers_equal(empty, "0")


HOSTILE = [
    "9" * 5000, "1e999999999", "9^9999999", "9" * 59 + "^64", "1/" + "0" * 50, "(" * 2000, "{" * 1000 + "}" * 1000,
    "$" * 2000, "\\frac{" * 300, "\\boxed{" * 200, "一" * 2000, "万" * 39, "分之", "又" * 100, "one " * 500, "-" * 2000,
    "1," * 900, "\x00\x01", "\ud800", "1" + " " * 1990, "𝟓", "٣", "²" * 1000, "**" * 900, "a=" * 900, "'\"" * 900,
    "((" + "1,2),(" * 200 + "1,2))", "%", "$%", "e5", ".", "½" * 500, "1 " * 900,
]  # fmt: skip


def test_hostile_input_is_read_quickly_and_quietly() -> None:
    start = time.perf_counter()
    for text in HOSTILE:
        assert answers_equal(text, "7") is False
        assert isinstance(answers_equal(text, text), bool)
    assert time.perf_counter() - start < 2


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
