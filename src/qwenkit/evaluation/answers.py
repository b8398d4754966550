"""Decide whether two answers mean the same: `answers_equal(prediction, reference)`, for short final answers (report
§2.6, §3.3).

Both sides are read the same way, so the relation is symmetric. In this order, the first reading that both sides allow
decides:

1. the same text, after NFKC, letter case, spaces, quotes, Markdown, `$...$`, `\\boxed{}` and a final stop are
   removed
2. the same exact number: integers, decimals, `1,234`, fractions, mixed numbers, percent, powers, English and Chinese
   numerals (`三分之一`, `百分之五`, `一万二`), LaTeX `\\frac`; with a unit where both have one (`1 km` = `1000 米`)
3. sequences `(1, 2)` element by element, sets `{2, 1}` in any order. A list without brackets may be any of `(1, 2)`,
   `[1, 2]` and `{1, 2}`; two kinds of brackets are never the same, as intervals differ by them

Caveats. Numbers are compared exactly; only a decimal of four or more significant digits equals a fraction that rounds
to it (`0.3333` = `1/3`). `50%` is 0.5 and not 50. A unit on one side only is ignored. Nothing is evaluated
and nothing is searched for inside a longer text: taking the final answer out of a solution is the caller's business.
An empty answer equals nothing, nor does None, which stands for no answer. Numbers are taken as they are printed.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from numbers import Real

from qwenkit.errors import UserError
from qwenkit.evaluation.measurement_units import same_quantity
from qwenkit.evaluation.numerals import spoken_number

LONGEST = 2000  # characters of an answer that are still read; longer ones are only compared as text
_LONGEST_NUMBER = 60
_GREATEST_POWER = 64

_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_VULGAR = re.compile("(?<=[0-9])(?=[¼½¾⅐-⅞])")
_LATEX_SPACE = re.compile(r"\\[,;:! ]|\\quad|\\left|\\right|~")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname)\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac ?(?:\{([^{}]*)\}|([0-9])) ?(?:\{([^{}]*)\}|([0-9]))")
_LATEX_POWER = re.compile(r"\^\{([^{}]*)\}")
_LATEX_ROOT = re.compile(r"\\sqrt(?: ?\{([^{}]*)\}| ?([0-9])| ([a-z])(?![a-z]))")
_ROOT = re.compile(r"(?:√|(?<![a-z\\])sqrt) ?(?:([0-9]+(?:\.[0-9]+)?|[a-z](?![a-z]))|(?=\())")
_ATOM = re.compile(r"[+-]?(?:[0-9.]+|[a-z]|√\([^()]*\))(?:\^[0-9a-z])?")
_PRODUCT = re.compile(r"[+-]?(?:[0-9.]+|[a-z](?:\^[0-9a-z])?|√\([^()]*\))+")
_BOXED = re.compile(r"\\(?:boxed|fbox)\{(.*)\}", re.DOTALL)
_NAMED = re.compile(r"[a-z]=(?!=)")
_WRAPPED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"))
_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "「": '"', "」": '"', "。": ".", "、": ","})
_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "×": "*", "÷": "/", "\u200b": None, "\ufeff": None})

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(rf"([+-]?) ?({_UNSIGNED})(?: ?\* ?10\^\(?([+-]?[0-9]+)\)?|e([+-]?[0-9]+))?")
_RATIO = re.compile(r"([+-]?) ?(?:([0-9]+) )?([0-9]+) ?/ ?([0-9]+)")
_POWER = re.compile(r"([+-]?)([0-9]+)\^\(?([0-9]+)\)?")
_UNIT_POWER = re.compile(r"(?<!^)(?:\^[23]|/[a-z\u4e00-\u9fff]+$)")
_NO_UNIT = re.compile(r"[0-9+*/^(){}\[\],=<>\\]|^[a-zα-ω]$(?<![mgshtl])")  # one letter is a variable, unless a unit
_MONEY = re.compile(r"^([+-]?)([$¥€£]) ?(?=[0-9.])")


Answer = str | int | float | Decimal | Fraction | None


def answers_equal(prediction: Answer, reference: Answer) -> bool:
    r"""Return whether two short answers mean the same; the docstring of the module says what counts as the same.

    >>> answers_equal("$\\frac{1}{2}$", "0.5"), answers_equal("三百二十", "320"), answers_equal("5 cm", "5 m")
    (True, True, False)

    Raises a `UserError` for an answer that is neither a string nor a number."""
    ours, theirs = _text(prediction, "prediction"), _text(reference, "reference")
    if len(ours) > LONGEST or len(theirs) > LONGEST:
        return ours.strip() == theirs.strip()
    left, right = plain(ours), plain(theirs)
    return bool(left) and bool(right) and _equal(left, right, depth=0)


def _text(answer: object, name: str) -> str:
    """Return a string unchanged, a number as it is printed, None as no answer."""
    if answer is None or isinstance(answer, str):
        return answer or ""
    if isinstance(answer, (Real, Decimal)) and not isinstance(answer, bool):
        return str(answer)
    raise UserError(f"{name} = {answer!r:.40}", expected="a string or a number; None for no answer")


def plain(answer: str) -> str:
    """Return the answer as bare lower-case text, without its typography, Markdown and light LaTeX."""
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), answer)
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text)).translate(_QUOTES).translate(_SIGNS).casefold()
    if boxed := _BOXED.search(text):
        text = boxed[1]
    text = _LATEX_SPACE.sub(" ", text)
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\%", "%").replace("\\$", "$")
    return _unwrap(_without_braces(text))


def _without_braces(text: str) -> str:
    r"""Return LaTeX's roots, fractions and powers as one would type them, from the inside out; brackets stay where they
    matter: `\frac{1+x}{2}` is `(1+x)/2` and not `1+x/2`."""
    before = ""
    while text != before:
        before = text
        text = _LATEX_TEXT.sub(r"\1", text)
        text = _LATEX_ROOT.sub(lambda match: f"√({match[1] or match[2] or match[3] or ''})", text)
        text = _ROOT.sub(lambda match: f"√({match[1]})" if match[1] else "√", text)
        text = _LATEX_POWER.sub(lambda match: "^" + _bracketed(match[1], _ATOM), text)
        text = _LATEX_FRACTION.sub(_typed_fraction, text)
    return text


def _typed_fraction(match: re.Match[str]) -> str:
    above, below = (next(part for part in match.group(*places) if part is not None) for places in ((1, 2), (3, 4)))
    return f" {_bracketed(above, _PRODUCT)}/{_bracketed(below, _ATOM)}"


def _bracketed(part: str, whole: re.Pattern[str]) -> str:
    part = part.strip()
    return part if whole.fullmatch(part) else f"({part})"


def _unwrap(text: str) -> str:
    """Return the text without surrounding marks and final stops, spaces collapsed; `(a)` is `a`, `x = 5` is `5`."""
    before = None
    while text != before:
        before = text
        text = " ".join(text.split()).rstrip(".!;,:").strip()
        for opening, closing in _WRAPPED:
            inner = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inner and closing not in inner:
                text = inner
        if re.fullmatch(r"\([^(),]*\)", text):
            text = text[1:-1]
    named = _NAMED.match(text.replace(" ", ""))
    return text.split("=", 1)[1].strip() if named else text


def _equal(left: str, right: str, depth: int) -> bool:
    if left.replace(" ", "") == right.replace(" ", "") and not _separate_numbers(left, right):
        return True
    first, second = _quantity(left), _quantity(right)
    if first and second:
        return _same_number(first, second)
    return depth < 3 and _same_collection(left, right, depth)


def _separate_numbers(left: str, right: str) -> bool:
    """Return whether leaving out a space between two digits changes the answer: `1 2` is not `12`, `1, 234` not
    `1,234`."""
    return bool(re.search(r"\d,? \d", left)) != bool(re.search(r"\d,? \d", right))


def _same_collection(left: str, right: str, depth: int) -> bool:
    ours, theirs = _elements(left), _elements(right)
    if not ours or not theirs or len(ours[1]) != len(theirs[1]):
        return False
    kinds = {ours[0], theirs[0]}
    if len(kinds) > 1 and ("" not in kinds or not kinds <= {"", "()", "[]", "{}"}):
        return False
    rest = list(theirs[1])
    if "{}" not in kinds:
        return all(_equal(a, b, depth + 1) for a, b in zip(ours[1], rest))
    for element in ours[1]:
        match = next((other for other in rest if _equal(element, other, depth + 1)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _elements(text: str) -> tuple[str, list[str]] | None:
    """Return (pair of brackets, elements) of a bracketed or bare list; commas inside inner brackets do not separate. A
    bare `1,234` is a number."""
    text = text.replace("\\{", "{").replace("\\}", "}")
    bracket = text[0] + text[-1] if _enclosed(text) else ""
    if not bracket and _quantity(text):
        return None
    inner = text[1:-1] if bracket else text
    parts, level, start = [], 0, 0
    for place, character in enumerate(inner):
        level += (character in "([{") - (character in ")]}")
        if character == "," and level == 0:
            parts.append(inner[start:place].strip())
            start = place + 1
    parts.append(inner[start:].strip())
    if len(parts) > 64 or not all(parts) or (len(parts) < 2 and not bracket):
        return None
    return bracket, parts


def _enclosed(text: str) -> bool:
    """Return whether the first bracket is closed by the last one: `(1, 2), (3, 4)` is not."""
    level = 0
    for place, character in enumerate(text):
        level += (character in "([{") - (character in ")]}")
        if level < 1:
            return place == len(text) - 1 > 0
    return False


Quantity = tuple[Fraction, int | None, str]  # value, decimal places where written as a decimal, unit


def _quantity(text: str) -> Quantity | None:
    """Return a number with its unit, or None when the text is not a number."""
    money = _MONEY.match(text)
    if money:
        text = text[: money.start(2)] + text[money.end() :] + money[2]
    for read in (_read_ratio, _read_power, _read_number):
        number = read(text)
        if number:
            value, places, end = number
            return _with_unit(value, places, text[end:].strip())
    spoken = spoken_number(text)
    return _with_unit(spoken[0], None, text[spoken[1] :].strip()) if spoken else None


def _with_unit(value: Fraction, places: int | None, unit: str) -> Quantity | None:
    if unit.startswith(("%", "percent", "per cent")):
        return value / 100, places + 2 if places is not None else None, ""
    bare = _UNIT_POWER.sub("", unit)
    if len(unit) > 24 or unit.count(" ") > 1 or _NO_UNIT.search(bare):
        return None
    return value, places, unit


def _read_ratio(text: str) -> tuple[Fraction, None, int] | None:
    match = _RATIO.match(text)
    if not match or match.end() > _LONGEST_NUMBER or int(match[4]) == 0:
        return None
    value = int(match[2] or 0) + Fraction(int(match[3]), int(match[4]))
    return (-value if match[1] == "-" else value), None, match.end()


def _read_power(text: str) -> tuple[Fraction, None, int] | None:
    match = _POWER.match(text)
    if not match or match.end() > _LONGEST_NUMBER or len(match[3]) > 2 or int(match[3]) > _GREATEST_POWER:
        return None
    value = Fraction(int(match[2]) ** int(match[3]))
    return (-value if match[1] == "-" else value), None, match.end()


def _read_number(text: str) -> tuple[Fraction, int, int] | None:
    match = _NUMBER.match(text)
    if not match or match.end() > _LONGEST_NUMBER:
        return None
    power = match[3] or match[4] or "0"
    if len(power) > 4 or abs(int(power)) > _GREATEST_POWER:
        return None
    digits = match[2].replace(",", "")
    value = Fraction(digits + "0" if digits.endswith(".") else digits) * Fraction(10) ** int(power)
    places = len(digits.partition(".")[2]) - int(power)
    return (-value if match[1] == "-" else value), max(0, places), match.end()


def _same_number(left: Quantity, right: Quantity) -> bool:
    if left[2] and right[2]:
        return same_quantity((left[0], left[2]), (right[0], right[2]))
    return left[0] == right[0] or _rounds_to(left, right) or _rounds_to(right, left)


def _rounds_to(fraction: Quantity, decimal: Quantity) -> bool:
    """Return whether a fraction rounds to a decimal of at least four significant digits."""
    places = decimal[1]
    if fraction[1] is not None or not places:
        return False
    shown = decimal[0] * 10**places
    exact = fraction[0] * 10**places
    nearest = (Decimal(exact.numerator) / Decimal(exact.denominator)).to_integral_value(ROUND_HALF_UP)
    return abs(shown) >= 1000 and nearest == int(shown)
