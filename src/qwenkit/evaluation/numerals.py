"""Numbers written in words: Chinese (一百零三, 两万五, 三分之一, 百分之五, 负三点一四, 壹佰, 一半, 八折) and English
(forty-two, two thirds, a dozen).

`spoken_number(text) -> (value, end)` reads the longest numeral at the beginning of a text; what follows is its unit.
`scale_word(text)` reads what multiplies digits before it: `3.5万`, `1.2 million`.
"""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")}
_DIGITS |= {c: i for i, c in enumerate("零壹贰叁肆伍陆柒捌玖")} | {"〇": 0, "两": 2, "兩": 2}
_TENS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = f"[{''.join(_DIGITS)}{''.join(_TENS)}{''.join(_MYRIADS)}]{{1,40}}"
_DECIMAL = f"{_CHINESE}(?:点[{''.join(_DIGITS)}]{{1,40}})?"
_CHINESE_NUMBER = re.compile(
    rf"(负|負)?第?(?:({_CHINESE})又)?({_CHINESE})(?:分之({_DECIMAL})|点([{''.join(_DIGITS)}]{{1,40}})(万|亿)?)?"
)
_HALF = re.compile(
    rf"(?:({_CHINESE})[个個]|([0-9]+)[个個])?半(?=$|[^0-9\u4e00-\u9fff]|个|小时|天|年|月|钟头|斤|米|克|升|里)"
)
_HALF_WORD = re.compile("一?半(?:$|(?=[个小天年月斤米克升]))|二分之一")
_DISCOUNT = re.compile(f"([{''.join(_DIGITS)}]|[0-9](?:\\.[0-9])?)([{''.join(_DIGITS)}]?)(折|成)")

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_ROUND = {w: 10 * (i + 2) for i, w in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
_GREAT = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
          "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100,
          "thousandth": 1000}  # fmt: skip
_WORD = re.compile(r"[\s-]*(?:and )?([a-z]+)")
_FRACTION = re.compile(
    r"(?:(?P<above>[a-z]+)[ -])?(?P<below>" + "|".join(_PARTS) + r")s?(?![a-z])(?: of(?: an?| the)?)?"
)
_AND_HALF = re.compile(r" and (?:an? )?(?P<above>[a-z]+ |[a-z]+-)?(?P<below>half|third|quarter|fifth)s?(?![a-z])")
_SCALE = re.compile(
    r" ?(?:(thousand|million|billion|trillion|dozen)s?(?![a-z])(?: of(?![a-z]))?|"
    r"(万亿|亿|万|萬|億|千万|百万|千(?![克米瓦焦帕])|百))"
)
_SCALES = _GREAT | {"dozen": 12, "百": 100, "千": 1000, "百万": 10**6, "千万": 10**7, "万亿": 10**12} | _MYRIADS


def spoken_number(text: str) -> tuple[Fraction, int] | None:
    """Return the value of the numeral that begins the text, and where the numeral ends; None where there is none."""
    text = text.lower()
    return _halves(text) or _discount(text) or _chinese(text) or _fraction(text) or _english(text)


def scale_word(text: str) -> tuple[int, int] | None:
    """Return what a word right after digits multiplies them by, and where the word ends."""
    match = _SCALE.match(text)
    return (_SCALES[match[1] or match[2]], match.end()) if match else None


def _halves(text: str) -> tuple[Fraction, int] | None:
    """Return the value of 半, 一半 and 两个半."""
    if match := _HALF_WORD.match(text):
        return Fraction(1, 2), match.end()
    match = _HALF.match(text)
    if not match:
        return None
    whole = _chinese_integer(match[1]) if match[1] else int(match[2] or 0)
    return None if whole is None else (whole + Fraction(1, 2), match.end())


def _discount(text: str) -> tuple[Fraction, int] | None:
    """Return 八折 and 八成 as 0.8, 八五折 as 0.85."""
    match = _DISCOUNT.match(text)
    if not match:
        return None
    first = Fraction(match[1]) if match[1][0].isascii() else Fraction(_DIGITS[match[1]])
    second = Fraction(_DIGITS[match[2]], 100) if match[2] else Fraction(0)
    return first / 10 + second, match.end()


def _chinese(text: str) -> tuple[Fraction, int] | None:
    match = _CHINESE_NUMBER.match(text)
    if not match:
        return None
    whole, value = (_chinese_integer(match[i]) if match[i] else 0 for i in (2, 3))
    above = _chinese_decimal(match[4]) if match[4] else None
    if whole is None or value is None or (match[4] and above is None):
        return None
    result = Fraction(value)
    if above is not None:
        if value == 0:
            return None
        result = whole + above / value  # 三分之一: the denominator is spoken first
    elif match[2]:
        return None
    if match[5]:
        result = (result + _digits_after_the_point(match[5])) * (_MYRIADS[match[6]] if match[6] else 1)
    return (-result if match[1] else result), match.end()


def _digits_after_the_point(digits: str) -> Fraction:
    return Fraction(int("".join(str(_DIGITS[c]) for c in digits)), 10 ** len(digits))


def _chinese_decimal(text: str) -> Fraction | None:
    whole, _, digits = text.partition("点")
    value = _chinese_integer(whole)
    return None if value is None else value + (_digits_after_the_point(digits) if digits else Fraction(0))


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


def _fraction(text: str) -> tuple[Fraction, int] | None:
    """Return the value of `half`, `two thirds`, `one-quarter` at the beginning of a text."""
    minus = re.match(r"(?:minus|negative) ", text)
    match = _FRACTION.match(text, minus.end() if minus else 0)
    if not match or (not match["above"] and match["below"] not in ("half", "quarter")):
        return None
    above = _SMALL.get(match["above"]) if match["above"] not in (None, "a", "an") else 1
    if above is None:
        return None
    value = Fraction(above, _PARTS[match["below"]])
    return (-value if minus else value), match.end()


def _english(text: str) -> tuple[Fraction, int] | None:
    minus = re.match(r"(?:minus|negative) ", text)
    place = end = minus.end() if minus else 0
    if article := re.compile(r"an? (?=hundred|thousand|million|billion|dozen)").match(text, place):
        text = text[: article.start()] + "one " + text[article.end() :]
        value = _english(text)
        return value and (value[0], value[1] - 4 + len(article[0]))
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
        elif word == "dozen" and previous == "small":
            section, previous = section * 12, "dozen"
        elif word in _GREAT and previous not in ("", "great"):
            total, section, previous = total + section * _GREAT[word], 0, "great"
        else:
            break
        place = end = match.end()
    value = Fraction(total + section)
    if previous and (half := _AND_HALF.match(text, end)):
        above = _SMALL.get((half["above"] or "one").strip(" -"), 1)
        value, end = value + Fraction(above, _PARTS[half["below"]]), half.end()
    return ((-value if minus else value), end) if previous else None
