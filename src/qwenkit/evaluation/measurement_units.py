"""Units of measure, English and Chinese, so that `1 km`, `1000 m` and `一千米` are one answer.

A unit is a product of powers of base units with one factor: `km/h`, `square inches`, `平方厘米`, `米每秒`, `ml` (a
cubic centimetre). Units without a fixed factor to others (temperatures, currencies among each other) are dimensions of
their own, and so is every other word after a number, in the singular: `5 apples` differs from `5 pears`. Measure words
(`个`, `只`, `units`) say nothing and count as no unit. `read_unit(text)` returns None for what cannot be a unit.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_TABLE: dict[str, list[tuple[str, str]]] = {
    "length": [
        ("nm nanometer nanometre 纳米", "1/1000000000"), ("um μm micrometer micron 微米", "1/1000000"),
        ("mm millimeter millimetre 毫米", "1/1000"), ("cm centimeter centimetre 厘米 公分", "1/100"),
        ("dm decimeter decimetre 分米", "1/10"), ("m meter metre 米 公尺", "1"),
        ("km kilometer kilometre 千米 公里", "1000"), ("inch in inche 英寸", "254/10000"),
        ("ft foot feet 英尺", "3048/10000"), ("yd yard 码", "9144/10000"), ("mi mile 英里", "1609344/1000"),
        ("里", "500"),
    ],
    "mass": [
        ("mg milligram 毫克", "1/1000"), ("g gm gram 克", "1"), ("kg kilogram kilo 千克 公斤", "1000"), ("斤", "500"),
        ("两", "50"), ("t ton tonne 吨", "1000000"), ("oz ounce 盎司", "45359237/1600000"),
        ("lb pound 磅", "45359237/100000"),
    ],
    "time": [
        ("ms millisecond 毫秒", "1/1000"), ("s sec second 秒 秒钟", "1"), ("min minute 分钟", "60"),
        ("h hr hour 小时 个小时 钟头 个钟头", "3600"), ("day 天 日", "86400"), ("week 周 星期 个星期", "604800"),
    ],
    "months": [("month 月 个月", "1"), ("yr year 年", "12"), ("decade", "120"), ("century centurie 世纪", "1200")],
    "yuan": [("分 fen", "1/100"), ("角 毛", "1/10"), ("¥ 元 块 块钱 元钱 圆 人民币 yuan rmb cny", "1"),
             ("万元", "10000")],
    "dollar": [("cent ¢ 美分", "1/100"), ("$ dollar usd buck 美元 美金", "1"), ("dime", "1/10"), ("nickel", "1/20"),
               ("quarter", "1/4")],
    "euro": [("€ euro eur 欧元", "1")],
    "sterling": [("£ gbp 英镑", "1"), ("pence", "1/100")],
    "angle": [("° degree deg 度", "1")],
    "radian": [("rad radian 弧度", "1")],
    "celsius": [("°c celsius 摄氏度", "1")],
    "fahrenheit": [("°f fahrenheit 华氏度", "1")],
    "force": [("n newton 牛 牛顿", "1")],
    "energy": [("j joule 焦 焦耳", "1"), ("kj kilojoule 千焦", "1000")],
    "power": [("w watt 瓦 瓦特", "1"), ("kw kilowatt 千瓦", "1000")],
    "voltage": [("v volt 伏 伏特", "1")],
    "current": [("a amp ampere 安 安培", "1")],
    "resistance": [("ω ohm 欧 欧姆", "1")],
    "frequency": [("hz hertz 赫兹", "1"), ("khz", "1000")],
    "pressure": [("pa pascal 帕 帕斯卡", "1"), ("kpa 千帕", "1000"), ("mpa 兆帕", "1000000")],
    "amount": [("mol mole 摩尔", "1")],
    "information": [("bit 比特", "1"), ("byte 字节", "8"), ("kb", "8000"), ("mb", "8000000"), ("gb", "8000000000")],
    "person": [("person people persons 人 个人 名", "1")],
    "dozen": [("dozen 打", "1")],
}  # fmt: skip
_VOLUMES = [
    ("ml milliliter millilitre 毫升", "1/1000000"), ("l liter litre 升", "1/1000"), ("cc", "1/1000000"),
    ("gallon gal 加仑", "473176473/125000000000"), ("quart qt", "473176473/500000000000"),
    ("pint pt", "473176473/1000000000000"), ("cup", "473176473/2000000000000"),
]  # fmt: skip
_AREAS = [("公顷 hectare ha", "10000"), ("亩", "2000/3"), ("acre", "40468564224/10000000")]
_NEUTRAL = frozenset(
    "unit units 个 只 本 名 位 棵 条 张 支 枝 件 朵 头 匹 辆 架 艘 把 块儿 颗 "
    " 粒 盆 箱 袋 瓶 盒 次 倍 岁 页 层 排 组 道 题 单位 time item "
    "种 间 座 台 部 幅 双 对 副 串 筐 桶 包 份 节 段 根 株 面 匹".split()
)
_JOINED = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "fps": "ft/s", "rpm": "revolution/min",
           "sqft": "ft^2", "sqm": "m^2", "kwh": "kw*h"}  # fmt: skip
_CASED = frozenset("nwjvaω")  # written as capitals, so that `8 n` is a product
_ATTACHED = frozenset("mgslhL")  # single letters that are units also right after the number

_WORD = re.compile(r"°?[a-z]+|°|[$¥€£¢%μω]+|[\u4e00-\u9fff]+")
_TOKEN = re.compile(
    r" *(?P<division>/|per(?![a-z])|每(?![\u4e00-\u9fff]*每))? *\*? *"
    r"(?P<prefix>square |sq\.? |cubic |cu\.? |平方|立方)?(?P<name>μm|°?[a-z]+|[°$¥€£¢ω]|"
    r"[\u4e00-\u9fff]+?(?=每|/|平方|立方|[a-z^(]|$))"
    r"(?: ?(?:\^ ?\{? ?(?P<power>-?[1-9]) ?\}?|(?P<suffix>squared|cubed)))?\.?"
)
_FORBIDDEN = frozenset("and or sin cos tan log ln exp sqrt pi of is in the mod base to with than".split()) - {
    "in",
    "of",
    "the",
}
_LONGEST = 32
_MOST_WORDS = 4


class Unit(NamedTuple):
    """Powers of dimensions, sorted by name, and the factor to their base units; none where there is no unit."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction


NO_UNIT = Unit((), Fraction(1))


def _known() -> dict[str, tuple[str, int, Fraction]]:
    table = {
        name: (kind, 1, Fraction(factor))
        for kind, rows in _TABLE.items()
        for names, factor in rows
        for name in names.split()
    }
    for rows, power in ((_AREAS, 2), (_VOLUMES, 3)):
        table |= {name: ("length", power, Fraction(factor)) for names, factor in rows for name in names.split()}
    return table


_UNITS = _known()


def read_unit(text: str, attached: bool = False) -> Unit | None:
    """Return the unit that a text after a number is, `NO_UNIT` for an empty one and for measure words, None for none.

    `attached` says that no space stands between the number and the text: `4t` is a product and not four tons."""
    spelled = text.strip().strip("()").strip()
    if not spelled:
        return NO_UNIT
    if len(spelled) > _LONGEST or spelled.count(" ") >= _MOST_WORDS:
        return None
    if len(spelled) == 1 and spelled.isalpha() and spelled.isascii() and not _single(spelled, attached):
        return None
    lowered = _JOINED.get(spelled.lower().replace(" ", ""), spelled.lower())
    if lowered in _NEUTRAL:
        return NO_UNIT
    return _compound(_without_measure_word(lowered))


def _single(letter: str, attached: bool) -> bool:
    if letter.lower() in _CASED:
        return letter.isupper() and not attached
    return letter in _ATTACHED or (letter.lower() in _UNITS and not attached and letter.islower())


def _without_measure_word(text: str) -> str:
    """Return `苹果` of `个苹果`: the measure word before a noun says nothing."""
    if len(text) > 1 and text[0] in _NEUTRAL and text not in _UNITS and "\u4e00" <= text[1] <= "\u9fff":
        return text[1:]
    return text


def _compound(text: str) -> Unit | None:
    powers: dict[str, int] = {}
    factor, place, unknown = Fraction(1), 0, []
    while place < len(text):
        token = _TOKEN.match(text, place)
        if not token:
            return None
        sign = -1 if token["division"] else 1
        name, exponent = token["name"], sign * _exponent(token)
        base = _base(name)
        if base is None:
            if len(name) < (3 if name.isascii() else 1) or name in _FORBIDDEN:
                return None
            unknown.append(name)
        elif base[0]:
            powers[base[0]] = powers.get(base[0], 0) + base[1] * exponent
            factor *= base[2] ** exponent
        if base is None and name not in ("of", "the"):
            powers[_singular(name)] = powers.get(_singular(name), 0) + exponent
        place = token.end()
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), factor)


def _exponent(token: re.Match[str]) -> int:
    words = (token["prefix"] or token["suffix"] or "").strip(" .")
    if words:
        return 3 if words in ("cubic", "cu", "立方", "cubed") else 2
    return int(token["power"] or 1)


def _base(name: str) -> tuple[str, int, Fraction] | None:
    for spelling in (name, _singular(name)):
        if spelling in _UNITS:
            return _UNITS[spelling]
        if spelling in _NEUTRAL:
            return "", 0, Fraction(1)
    return None


def _singular(text: str) -> str:
    if text in ("children", "men", "women", "mice"):
        return {"children": "child", "men": "man", "women": "woman", "mice": "mouse"}[text]
    if text.endswith("ies") and len(text) > 4:
        return text[:-3] + "y"
    if text.endswith(("ches", "shes", "xes", "sses")):
        return text[:-2]
    return text[:-1] if text.endswith("s") and not text.endswith("ss") and len(text) > 2 else text
