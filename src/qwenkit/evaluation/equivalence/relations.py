r"""Equations, inequalities and sets of real numbers.

`split_relation("a < b <= c")` gives sides and signs. `real_set(text)` reads intervals, unions, inequalities in one
variable and set-builder notation as one thing: `[-2, 7]`, `-2 \le x \le 7` and `\{x \mid -2 \le x \le 7\}`. Ends are
exact where they are rational.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from qwenkit.evaluation.equivalence.phrases import canonical
from qwenkit.evaluation.equivalence.structures import enclosed, split_top
from qwenkit.evaluation.equivalence.syntax import parse
from qwenkit.evaluation.equivalence.values import Number, agree, constant, proportional, same_value, symbols

_SIGN = re.compile(r"<=|>=|!=|==|=|<|>|≈")
_NAME = re.compile(
    r"\\?(?:angle|overline|triangle|Delta)? ?(?:[A-Za-zα-ωΑ-Ω]{1,3}'?|[A-Za-z]'?(?:\^\{-1\})?|[Aa]nswer|[Tt]otal)"
    r"(?:_(?:\{[^{}]{1,12}\}|[0-9A-Za-z]))?(?: ?\([A-Za-zα-ω, ]{1,9}\))?|\|[A-Za-z]{1,2}\|"
)
_FUNCTION_NAME = re.compile(r"[A-Za-z](?:\^\{-1\})? ?\([a-zα-ω]\)|y")
_VARIABLE = re.compile(r"[A-Za-zα-ω](?:_\{?[0-9]\}?)?")
_MEMBER = re.compile(r"(?:⦃ ?)?(?P<name>[A-Za-zα-ω]) ?(?:∈|:|\|)(?! ?ℝ *⦄?$) ?(?P<rest>.+?)(?: ?⦄)?")
_BUILDER = re.compile(r"⦃ ?(?P<name>[A-Za-zα-ω])(?: ?∈ ?ℝ)? ?(?:\||:) ?(?P<rest>.+?) ?⦄")
_IN = re.compile(r"(?P<name>[A-Za-zα-ω]) ?∈ ?(?P<rest>.+)")
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "==": "=", "≈": "="}
_ONLY_LETTERS = re.compile(r"[^\W\d_ ][^\W\d_]+")  # `on` and `no` are words, though both could be products
_INFINITE = float("inf")
_MOST = 16


def split_relation(text: str) -> tuple[list[str], list[str]] | None:
    """Return (sides, signs between them) of an equation, an inequality or a chain of them; None without a sign."""
    signs = ["=" if sign in ("==", "≈") else sign for sign in _SIGN.findall(text)]
    sides = [side.strip() for side in _SIGN.split(text)]
    return (sides, signs) if signs and len(signs) < _MOST and all(sides) else None


def is_name(text: str) -> bool:
    """Return whether the left side of an equation only names what is on the right: `x`, `f(x)`, `AB`, `\\angle ABC`."""
    return len(text) <= 24 and _NAME.fullmatch(text) is not None


def same_name(left: str, right: str) -> bool:
    """Return whether two names may stand for one thing: they are equal, or one is y and the other a function's."""
    ours, theirs = left.replace(" ", ""), right.replace(" ", "")
    return ours == theirs or (
        "y" in (ours, theirs) and bool(_FUNCTION_NAME.fullmatch(ours) and _FUNCTION_NAME.fullmatch(theirs))
    )


def same_equation(left: tuple[list[str], list[str]], right: tuple[list[str], list[str]]) -> bool:
    """Return whether two equations or inequalities of two sides say the same: their differences are proportional."""
    (a, b), (sign,) = left[0], left[1]
    (c, d), (other,) = right[0], right[1]
    trees = [parse(f"({first})-({second})") for first, second in ((a, b), (c, d))]
    if trees[0] is None or trees[1] is None or symbols(trees[0]) != symbols(trees[1]) or not symbols(trees[0]):
        return False
    factor = proportional(trees[0], trees[1])
    return factor is not None and (sign == other if factor > 0 else _FLIP[sign] == other)


class Piece(NamedTuple):
    """An interval: its ends (None for infinity), and whether they belong to it."""

    low: Number | None
    low_closed: bool
    high: Number | None
    high_closed: bool


def real_set(text: str) -> list[Piece] | None:
    """Return the intervals that a text describes, in order and merged, or None.

    Intervals alone (`(1, 3)`, which may be a pair) are read too: the caller asks for sets only where one side is
    unmistakable, see `is_set`."""
    if canonical(text) == "reals":
        return [Piece(None, False, None, False)]
    if match := (_BUILDER.fullmatch(text) or _IN.fullmatch(text)):
        return real_set(match["rest"].strip()) if len(match["rest"]) < len(text) else None
    parts = [part.strip() for part in re.split(r"∪| or |或| U (?=[(\[])|(?<=[)\]])U(?=[(\[])", text)]
    if len(parts) > _MOST:
        return None
    pieces = [piece for part in parts for piece in _pieces(part) or [None]]
    return None if None in pieces else _merged([piece for piece in pieces if piece])


def is_set(text: str) -> bool:
    """Return whether a text can only be a set of numbers: an inequality, a union, infinity, ∈."""
    return (
        canonical(text) == "reals"
        or bool(re.search(r"[<>∪∞∈]|!=", text))
        or (text[:1], text[-1:]) in (("[", ")"), ("(", "]"))
    )


def _pieces(text: str) -> list[Piece] | None:
    if text[:1] in "([" and text[-1:] in ")]" and text and enclosed(text):
        ends = split_top(text[1:-1], ",")
        if len(ends) != 2:
            return None
        piece = _piece(ends[0], text[0] == "[", ends[1], text[-1] == "]")
        return [piece] if piece else None
    return _inequality(text)


def _piece(low: str, low_closed: bool, high: str, high_closed: bool) -> Piece | None:
    ends = [_end(low), _end(high)]
    if ends[0] is None or ends[1] is None or ends[0] == _INFINITE or ends[1] == -_INFINITE:
        return None
    first, second = (None if end in (_INFINITE, -_INFINITE) else end for end in ends)
    if first is not None and second is not None and not complex(first).real <= complex(second).real:
        return None
    return Piece(first, low_closed and first is not None, second, high_closed and second is not None)


def _end(text: str) -> Number | float | None:
    bare = text.replace(" ", "")
    if bare in ("∞", "+∞", "-∞"):
        return -_INFINITE if bare == "-∞" else _INFINITE
    tree = parse(text)
    value = constant(tree) if tree else None
    return None if value is None or abs(complex(value).imag) > 0 else value


def _inequality(text: str) -> list[Piece] | None:
    """Return the intervals of `a < x <= b`, `x > a` or `x != a`."""
    relation = split_relation(text)
    if not relation or len(relation[1]) > 2:
        return None
    sides, signs = relation
    if len(signs) == 1:
        if _VARIABLE.fullmatch(sides[1]):
            sides, signs = sides[::-1], [_FLIP[signs[0]]]
        return _half_line(signs[0], sides[1]) if _VARIABLE.fullmatch(sides[0]) else None
    if not _VARIABLE.fullmatch(sides[1]):
        return None
    if signs[0][0] == signs[1][0] == ">":
        sides, signs = sides[::-1], [_FLIP[sign] for sign in signs[::-1]]
    if not signs[0][0] == signs[1][0] == "<":
        return None
    piece = _piece(sides[0], signs[0] == "<=", sides[2], signs[1] == "<=")
    return [piece] if piece else None


def _half_line(sign: str, end: str) -> list[Piece] | None:
    if sign == "!=":
        points = [_end(part) for part in split_top(end.replace(" and ", ","), ",")]
        if any(point is None for point in points):
            return None
        ordered = [None, *sorted(points, key=lambda point: complex(point or 0).real), None]
        return [Piece(low, False, high, False) for low, high in itertools.pairwise(ordered)]
    if sign == "=":
        return None
    low, high = ("-∞", end) if sign[0] == "<" else (end, "∞")
    piece = _piece(low, sign == ">=", high, sign == "<=")
    return [piece] if piece else None


def _merged(pieces: list[Piece]) -> list[Piece]:
    ordered = sorted(pieces, key=lambda piece: -_INFINITE if piece.low is None else complex(piece.low).real)
    merged: list[Piece] = []
    for piece in ordered:
        if merged and _touch(merged[-1], piece):
            last = merged.pop()
            further = last if _reaches(last) >= _reaches(piece) else piece
            piece = Piece(last.low, last.low_closed, further.high, further.high_closed)
        merged.append(piece)
    return merged


def _reaches(piece: Piece) -> tuple[float, bool]:
    return (_INFINITE if piece.high is None else complex(piece.high).real), piece.high_closed


def _touch(first: Piece, second: Piece) -> bool:
    if first.high is None or second.low is None:
        return True
    if agree(first.high, second.low):
        return first.high_closed or second.low_closed
    return complex(first.high).real > complex(second.low).real


def same_set(left: list[Piece], right: list[Piece]) -> bool:
    """Return whether two sets of intervals are equal."""
    return len(left) == len(right) and all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and _same_end(a.low, b.low)
        and _same_end(a.high, b.high)
        for a, b in zip(left, right)
    )


def _same_end(a: Number | None, b: Number | None) -> bool:
    return a is b if a is None or b is None else agree(a, b)


def same_formula(left: str, right: str) -> bool:
    """Return whether two texts are formulas of one value; letter case counts only where a formula needs it."""
    if _ONLY_LETTERS.fullmatch(left) and _ONLY_LETTERS.fullmatch(right):
        return False
    first, second = parse(left), parse(right)
    if first is None or second is None:
        return False
    if same_value(first, second):
        return True
    if any(len({name.lower() for name in symbols(tree)}) < len(symbols(tree)) for tree in (first, second)):
        return False
    first, second = parse(left.lower()), parse(right.lower())
    return first is not None and second is not None and same_value(first, second)
