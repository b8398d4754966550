"""Numbers written in words: Chinese (一百零三, 两万五, 三分之一, 百分之五, 负三点一四, 壹佰) and English (forty-two).

`spoken_number(text) -> (value, end)` reads the longest numeral at the beginning of a text; what follows is its unit.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")}
_DIGITS |= {c: i for i, c in enumerate("零壹贰叁肆伍陆柒捌玖")} | {"〇": 0, "两": 2, "兩": 2}
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = f"[{''.join(_DIGITS)}{''.join(_TENS)}{''.join(_MYRIADS)}]{{1,40}}"
_CHINESE_NUMBER = re.compile(
    rf"(负|負)?(?:({_CHINESE})又)?({_CHINESE})(?:分之({_CHINESE})|点([{''.join(_DIGITS)}]{{1,40}}))?"
)

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_ROUND = {w: 10 * (i + 2) for i, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
_GREAT = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_WORD = re.compile(r"[\s-]*(?:and )?([a-z]+)")


def spoken_number(text: str) -> tuple[Fraction, int] | None:
    """Return the value of the numeral that begins the text, and where the numeral ends; None where there is none."""
    return _chinese(text) or _english(text)


def _chinese(text: str) -> tuple[Fraction, int] | None:
    match = _CHINESE_NUMBER.match(text)
    if not match:
        return None
    whole, value = (_chinese_integer(match[i]) if match[i] else 0 for i in (2, 3))
    above = _chinese_integer(match[4]) if match[4] else None
    if whole is None or value is None or (match[4] and above is None):
        return None
    result = Fraction(value)
    if above is not None:
        if value == 0:
            return None
        result = whole + Fraction(above, value)  # 三分之一: the denominator is spoken first
    elif match[2]:
        return None
    if match[5]:
        result += Fraction(int("".join(str(_DIGITS[c]) for c in match[5])), 10 ** len(match[5]))
    return (-result if match[1] else result), match.end()


def _chinese_integer(text: str) -> int | None:
    """Return the value of a Chinese integer, or None.

    一百零三 is 103, 两万五 is 25000 (a last digit takes the next place down), 二〇二三 is 2023 (digit by digit)."""
    if all(c in _DIGITS for c in text):
        return int("".join(str(_DIGITS[c]) for c in text))
    total = section = 0
    digit: int | None = None
    last = 1
    for character in text:
        if character in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[character]
            last = 1 if digit == 0 else last
        elif character in _TENS:
            last = _TENS[character]
            section += (1 if digit is None else digit) * last
            digit = None
        else:
            last = _MYRIADS[character]
            whole = section + (digit or 0)
            total = (total + whole) * last if last > total else total + whole * last
            section, digit = 0, None
    return total + section + (digit or 0) * (last // 10 if last >= 100 else 1)


def _english(text: str) -> tuple[Fraction, int] | None:
    minus = re.match(r"(?:minus|negative) ", text)
    place = end = minus.end() if minus else 0
    total = section = 0
    previous = ""
    while match := _WORD.match(text, place):
        word = match[1]
        if word in _SMALL and previous in ("", "hundred", "great", "round"):
            section, previous = section + _SMALL[word], "small"
        elif word in _ROUND and previous in ("", "hundred", "great"):
            section, previous = section + _ROUND[word], "round"
        elif word == "hundred" and previous == "small":
            section, previous = section * 100, "hundred"
        elif word in _GREAT and previous not in ("", "great"):
            total, section, previous = total + section * _GREAT[word], 0, "great"
        else:
            break
        place = end = match.end()
    value = Fraction(total + section)
    return ((-value if minus else value), end) if previous else None
