"""Units of measure, English and Chinese, so that `1 km`, `1000 m` and `一千米` are one answer.

Only units with one fixed factor are converted; any other word after a number is compared as a word, in the singular.
Temperatures and currencies are not converted: no fixed factor relates them.
"""

from __future__ import annotations

from fractions import Fraction

_TABLE: dict[str, list[tuple[str, str]]] = {
    "length": [
        ("mm millimeter millimetre 毫米", "1/1000"), ("cm centimeter centimetre 厘米 公分", "1/100"),
        ("dm decimeter decimetre 分米", "1/10"), ("m meter metre 米 公尺", "1"),
        ("km kilometer kilometre 千米 公里", "1000"),
    ],
    "mass": [
        ("mg milligram 毫克", "1/1000"), ("g gram 克", "1"), ("kg kilogram 千克 公斤", "1000"), ("斤", "500"),
        ("t ton tonne 吨", "1000000"),
    ],
    "time": [
        ("ms millisecond 毫秒", "1/1000"), ("s sec second 秒 秒钟", "1"), ("min minute 分钟", "60"),
        ("h hr hour 小时 个小时 钟头", "3600"), ("day 天 日", "86400"), ("week 周 星期 个星期", "604800"),
    ],
    "volume": [("ml milliliter millilitre 毫升", "1/1000"), ("l liter litre 升", "1")],
    "area": [
        ("cm^2 平方厘米", "1/10000"), ("m^2 平方米", "1"), ("公顷 hectare", "10000"),
        ("km^2 平方千米 平方公里", "1000000"),
    ],
    "yuan": [("分 fen", "1/100"), ("角 毛", "1/10"), ("¥ 元 块 块钱 元钱 人民币 yuan rmb cny", "1")],
    "dollar": [("cent ¢", "1/100"), ("$ dollar usd 美元", "1")],
    "angle": [("° degree 度", "1")],
}  # fmt: skip

_UNITS = {
    name: (kind, Fraction(factor)) for kind, rows in _TABLE.items() for names, factor in rows for name in names.split()
}


def same_quantity(left: tuple[Fraction, str], right: tuple[Fraction, str]) -> bool:
    """Return whether two pairs of a value and a unit are the same amount."""
    ours, theirs = _unit(left[1]), _unit(right[1])
    return ours[0] == theirs[0] and left[0] * ours[1] == right[0] * theirs[1]


def _unit(text: str) -> tuple[str, Fraction]:
    """Return (kind, factor); an unknown unit is a kind of its own."""
    for name in (text, text.rstrip("."), _singular(text)):
        if name in _UNITS:
            return _UNITS[name]
    return _singular(text), Fraction(1)


def _singular(text: str) -> str:
    if text.endswith("ies") and len(text) > 4:
        return text[:-3] + "y"
    if text.endswith(("ches", "shes", "xes", "sses")):
        return text[:-2]
    return text[:-1] if text.endswith("s") and not text.endswith("ss") and len(text) > 2 else text
