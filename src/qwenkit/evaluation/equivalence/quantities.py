"""Numbers with units: `read_quantity("5 \\frac{1}{4} min")` is 21/4 with the unit of minutes.

A number is anything without variables: integers, decimals, `1,234`, fractions, powers, roots, `9π`, numerals in words,
`3.5万`, `$2.5 billion`, percent. What follows it must be a unit (`measurement_units.read_unit`).
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import NamedTuple

from qwenkit.evaluation.equivalence.syntax import LONGEST, LONGEST_NUMBER, decimal, parse
from qwenkit.evaluation.equivalence.values import Number, agree, constant, has
from qwenkit.evaluation.measurement_units import NO_UNIT, Unit, read_unit
from qwenkit.evaluation.numerals import scale_word, spoken_number

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_DECIMAL = re.compile(
    rf"([+-]?) ?({_UNSIGNED})(?: ?\* ?10(?:\^\(?\{{?([+-]?[0-9]{{1,4}})\}}?\)?)|[eE]([+-]?[0-9]{{1,4}}))?"
)
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?: [0-9]{3})+")
_MONEY = re.compile(r"^([+-]?) ?(?:US|HK|CA|A|RMB)?([$¥€£]) ?(?=[+-]?[0-9.,]*[0-9])")
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)\b|第 ?([0-9]+)")
_PERCENT = re.compile(r" ?(?:%|percentage points?|percent|per cent|个百分点)$")
_HALF_MORE = re.compile(r"^([0-9]+) ?个半 ?(.*)$")
_UNIT_CHARACTERS = re.compile(r"[A-Za-z\u4e00-\u9fff°$¥€£'/*.() μω²³Ω]")
_TRIGONOMETRY = re.compile("sin|cos|tan|cot|sec|csc")
_GREATEST_POWER = 400
_MOST_SPLITS = 10  # places where the unit might begin


class Quantity(NamedTuple):
    """A value, its decimal places where it is written as a decimal, its unit, and whether π occurs in it."""

    value: Number
    places: int | None
    unit: Unit
    by_pi: bool = False


def read_quantity(text: str) -> Quantity | None:
    """Return a number with its unit, or None when the text is not a number."""
    if not text or len(text) > LONGEST:
        return None
    if money := _MONEY.match(text):
        text = money[1] + text[money.end() :] + " " + money[2]
    if percent := _PERCENT.search(text):
        number = _number(text[: percent.start()])
        return number and Quantity(number.value / 100, None if number.places is None else number.places + 2, NO_UNIT)
    if half := _HALF_MORE.match(text):
        unit = read_unit(half[2])
        return unit and Quantity(int(half[1]) + Fraction(1, 2), None, unit)
    return _scaled(text) or _spoken(text) or _measured(text)


def _scaled(text: str) -> Quantity | None:
    """Return digits that a word multiplies: `3.5万`, `1.2 million dollars`, `3 dozen`."""
    match = _DECIMAL.match(text)
    scale = scale_word(text[match.end() :]) if match else None
    number = _decimal(match) if match and scale else None
    unit = read_unit(text[match.end() + scale[1] :]) if match and scale else None
    return Quantity(number.value * scale[0], None, unit) if scale and number and unit else None


def _spoken(text: str) -> Quantity | None:
    """Return a numeral in words with its unit; `两百三十元`, `three dozen eggs`."""
    spoken = spoken_number(text)
    if not spoken:
        return None
    rest = text[spoken[1] :]
    if rest[:1].isalnum() and rest[0].isascii():
        return None
    unit = read_unit(rest)
    return unit and Quantity(spoken[0], None, unit)


def _measured(text: str) -> Quantity | None:
    for place in _splits(text):
        if text[place : place + 1] == "°" and _TRIGONOMETRY.search(text[:place]):
            continue  # the degrees of an argument
        unit = read_unit(text[place:], attached=text[place - 1 : place] != " ") if text[:place].strip() else None
        number = _number(text[:place].strip()) if unit else None
        if unit and number:
            return number._replace(unit=unit)
    return None


def _splits(text: str) -> list[int]:
    """Return the places where the unit may begin, the longest unit first; the end of the text is the last one."""
    place = len(text)
    while place and (size := _unit_piece(text, place)):
        place -= size
    starts = [
        index
        for index in range(max(place, 1), len(text))
        if text[index] != " " and not (_is_letter(text[index]) and _is_letter(text[index - 1]))
    ]
    return [*starts[:_MOST_SPLITS], len(text)]


def _is_letter(character: str) -> bool:
    return character.isalpha() and character.isascii()


def _unit_piece(text: str, end: int) -> int:
    """Return how many characters before `end` can belong to a unit: one, or those of a power such as `^{-2}`."""
    if _UNIT_CHARACTERS.match(text[end - 1]):
        return 1
    power = re.search(r"\^ ?(?:\{ ?-?[1-9] ?\}|-?[1-9])$", text[max(0, end - 8) : end])
    return len(power[0]) if power else 0


def _number(text: str) -> Quantity | None:
    """Return a number without a unit."""
    match = _DECIMAL.match(text)
    if match and match.end() == len(text):
        return _decimal(match)
    if _GROUPED.fullmatch(text):
        return Quantity(Fraction(text.replace(" ", "")), 0, NO_UNIT)
    if ordinal := _ORDINAL.fullmatch(text):
        return Quantity(Fraction(ordinal[1] or ordinal[2]), None, NO_UNIT)
    tree = parse(text)
    value = constant(tree) if tree else None
    return None if tree is None or value is None else Quantity(value, None, NO_UNIT, has(tree, "const"))


def _decimal(match: re.Match[str]) -> Quantity | None:
    power = int(match[3] or match[4] or "0")
    if len(match[2]) > LONGEST_NUMBER or abs(power) > _GREATEST_POWER:
        return None
    value = decimal(match[2]) * Fraction(10) ** power
    places = len(match[2].replace(",", "").partition(".")[2]) - power
    return Quantity(-value if match[1] == "-" else value, max(0, places), NO_UNIT)


def same_quantity(left: Quantity, right: Quantity) -> bool:
    """Return whether two quantities are the same amount; a unit on one side only is ignored."""
    ours, theirs = left.unit, right.unit
    if ours.dimensions and theirs.dimensions:
        return ours.dimensions == theirs.dimensions and agree(
            left.value * _factor(left, ours), right.value * _factor(right, theirs)
        )
    if _radians(left, right) or _radians(right, left):
        return True
    return agree(left.value, right.value) or rounds_to(left, right) or rounds_to(right, left)


def _factor(quantity: Quantity, unit: Unit) -> Number:
    return unit.factor if isinstance(quantity.value, Fraction) else complex(unit.factor)


def _radians(degrees: Quantity, other: Quantity) -> bool:
    """Return whether an angle in degrees is a multiple of π without a unit."""
    return (
        degrees.unit.dimensions == (("angle", 1),)
        and other.by_pi
        and agree(complex(degrees.value) * 3.141592653589793 / 180, other.value)
    )


def rounds_to(exact: Quantity, shown: Quantity) -> bool:
    """Return whether what is not a decimal rounds to a decimal of at least four significant digits."""
    if exact.places is not None or not shown.places or not isinstance(shown.value, Fraction):
        return False
    digits = shown.value * 10**shown.places
    if abs(digits) < 1000 or abs(exact.value) > 1e15:
        return False
    if isinstance(exact.value, Fraction):
        scaled = exact.value * 10**shown.places
        nearest = (Decimal(scaled.numerator) / Decimal(scaled.denominator)).to_integral_value(ROUND_HALF_UP)
        return nearest == int(digits)
    return shown.places < 14 and abs(exact.value * 10**shown.places - complex(digits)) <= 0.5 + 1e-6
