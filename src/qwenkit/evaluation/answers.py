r"""Decide whether two answers mean the same: `answers_equal(prediction, reference)`, for short final answers (report
§2.6, §3.3).

Both sides are read the same way, so the relation is symmetric. In this order, the first reading that both sides allow
decides (docs/answers.md lists the forms of each):

1. the same text, after NFKC, letter case, spaces, quotes, Markdown, `$...$`, `\boxed{}` and a final stop are removed
2. fixed phrases (`yes` = `是`, `no solution` = `∅`), clock times, dates, letters of choices
3. the same exact number, in digits, words or a formula without variables; with a unit where both have one (`1 km` =
   `1000 米`)
4. sets of real numbers: intervals, unions, inequalities
5. matrices; sequences `(1, 2)` element by element, sets `{2, 1}` in any order. Two lists without brackets are compared
   in any order, as solutions are; beside brackets a list takes their kind. Two kinds of brackets are never the same
6. equations, sides and order exchanged; `x = 5` beside `5`
7. formulas with the same value at several points

Caveats. Rational numbers are compared exactly, others to ten digits; only a decimal of four or more significant digits
equals what rounds to it (`0.3333` = `1/3`, `3.1416` = `π`). `50%` is 0.5 and not 50. A unit on one side only is
ignored. No text is executed and nothing is searched for inside a longer text: taking the final answer out of a solution
is the caller's business. An empty answer equals nothing, nor does None, which stands for no answer. Numbers are
taken as they are printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

from qwenkit.errors import UserError
from qwenkit.evaluation.equivalence import phrases
from qwenkit.evaluation.equivalence.quantities import read_quantity, same_quantity
from qwenkit.evaluation.equivalence.relations import (
    is_name,
    is_set,
    real_set,
    same_equation,
    same_formula,
    same_name,
    same_set,
    split_relation,
)
from qwenkit.evaluation.equivalence.structures import collection, enclosed, matrix, split_top
from qwenkit.evaluation.equivalence.typography import plain, unwrapped

LONGEST = 1000  # characters of an answer that are still read; longer ones are only compared as text
_DEEPEST = 3  # lists inside lists

_BASE = re.compile(
    r"([0-9A-Fa-f]+) ?(?:_\{? ?(?:([0-9]{1,2})|(two|three|five|eight|ten)) ?\}?|\(?base (?:([0-9]{1,2}))\)?)"
)
_BASES = {"two": "2", "three": "3", "five": "5", "eight": "8", "ten": "10"}
_RATIO = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?::| to |比) ?([0-9]+(?:\.[0-9]+)?)")
_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{3})")
_FORMULA = re.compile(r"[0-9+*/^=<>√-]")
_LONG_WORD = re.compile("[A-Za-z]{4}")

Answer = str | int | float | Decimal | Fraction | None


def answers_equal(prediction: Answer, reference: Answer) -> bool:
    r"""Return whether two short answers mean the same; the docstring of the module says what counts as the same.

    >>> answers_equal("$\\frac{1}{2}$", "0.5"), answers_equal("三百二十", "320"), answers_equal("5 cm", "5 m")
    (True, True, False)

    Raises a `UserError` for an answer that is neither a string nor a number."""
    ours, theirs = _text(prediction, "prediction"), _text(reference, "reference")
    if len(ours) > LONGEST or len(theirs) > LONGEST:
        return bool(ours.strip()) and ours.strip() == theirs.strip()
    left, right = plain(ours), plain(theirs)
    return bool(left) and bool(right) and _equal(left, right, depth=0)


def _text(answer: object, name: str) -> str:
    """Return a string unchanged, a number as it is printed, None as no answer."""
    if answer is None or isinstance(answer, str):
        return answer or ""
    if isinstance(answer, (Real, Decimal)) and not isinstance(answer, bool):
        return str(answer)
    raise UserError(f"{name} = {answer!r:.40}", expected="a string or a number; None for no answer")


def _equal(left: str, right: str, depth: int) -> bool:
    if _same_text(left, right):
        return True
    for reader, same in _READINGS:
        first, second = reader(left), reader(right)
        if first is not None and second is not None:
            return same(first, second)
    if depth >= _DEEPEST:
        return False
    for compare in (_same_sets, _same_matrices, _same_assignments, _same_collections):
        verdict = compare(left, right, depth)
        if verdict is not None:
            return verdict
    verdict = _same_relations(left, right, depth)
    return same_formula(left, right) if verdict is None else verdict


def _same_text(left: str, right: str) -> bool:
    """Return whether two texts are one but for letter case and spaces, where neither matters."""
    ours, theirs = (_ARTICLE.sub("", text.casefold()).replace(" ", "") for text in (left, right))
    if ours != theirs or _separate_numbers(left, right):
        return False
    return left.replace(" ", "") == right.replace(" ", "") or not (_case_counts(left) or _case_counts(right))


def _case_counts(text: str) -> bool:
    """Return whether a formula has one letter in both cases, as in `R^2 - r^2`."""
    letters = {character for character in text if character.isalpha()}
    both = len({letter.lower() for letter in letters}) < len(letters)
    return both and bool(_FORMULA.search(text)) and not _LONG_WORD.search(text)


def _separate_numbers(left: str, right: str) -> bool:
    """Return whether leaving out a space between two digits changes the answer: `1 2` is not `12`, `1, 234` not
    `1,234`."""
    return bool(re.search(r"\d,? \d", left)) != bool(re.search(r"\d,? \d", right))


def _based(text: str) -> tuple[str, str] | None:
    """Return (digits, base) of `2112_6` and `2112 (base 6)`; plain digits are of any base."""
    match = _BASE.fullmatch(text)
    if match:
        return match[1].upper(), match[2] or _BASES.get(match[3] or "") or match[4] or ""
    return None


def _maybe_based(left: str, right: str) -> bool:
    """Return whether one side names the base of the digits that stand on the other."""
    first, second = _based(left), _based(right)
    if first and second:
        return first == second
    digits = first[0] if first else second[0] if second else None
    return digits is not None and digits == (right if first else left).upper()


def _ratio(text: str) -> Fraction | None:
    match = _RATIO.fullmatch(text)
    if not match or Fraction(match[2]) == 0:
        return None
    return Fraction(match[1]) / Fraction(match[2])


_READINGS: tuple[tuple[Callable[[str], object], Callable[..., bool]], ...] = (
    (phrases.canonical, lambda a, b: a == b),
    (phrases.clock, phrases.same_clock),
    (phrases.date, lambda a, b: a == b),
    (phrases.choices, lambda a, b: a == b),
    (_ratio, lambda a, b: a == b),
    (read_quantity, same_quantity),
)


def _same_sets(left: str, right: str, depth: int) -> bool | None:
    """Compare sets of real numbers where one side can be nothing else."""
    if not is_set(left) and not is_set(right):
        return None
    ours, theirs = real_set(left), real_set(right)
    if ours is None or theirs is None:
        return None
    return same_set(ours, theirs)


def _same_matrices(left: str, right: str, depth: int) -> bool | None:
    ours, theirs = matrix(left), matrix(right)
    if ours and theirs:
        if ours[0] != theirs[0] and not _equal(unwrapped(ours[0]) or "1", unwrapped(theirs[0]) or "1", depth + 1):
            return False
        return _same_rows(ours[1], theirs[1], depth, ordered=ours[0] != "cases")
    either = ours or theirs
    if not either:
        return None
    (factor, rows), other = either, collection(right if ours else left)
    vector = [row[0] for row in rows] if all(len(row) == 1 for row in rows) else rows[0] if len(rows) == 1 else []
    if factor or not other or other[0] not in ("()", "[]", "") or len(vector) != len(other[1]):
        return None
    return all(_equal(unwrapped(a), unwrapped(b), depth + 1) for a, b in zip(vector, other[1]))


def _same_rows(ours: list[list[str]], theirs: list[list[str]], depth: int, ordered: bool) -> bool:
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        return False

    def same(first: list[str], second: list[str]) -> bool:
        return all(_equal(unwrapped(a), unwrapped(b), depth + 1) for a, b in zip(first, second))

    return all(map(same, ours, theirs)) if ordered else _matched(ours, theirs, same)


def _assignments(text: str) -> dict[str, str] | None:
    """Return `{x: 1, y: 2}` of `x = 1, y = 2`; None where a name is missing or occurs twice."""
    parts = collection(text)
    if not parts or parts[0] not in ("", "()", "{}"):
        return None
    named: dict[str, str] = {}
    for part in parts[1]:
        relation = split_relation(part)
        if not relation or relation[1] != ["="] or not is_name(relation[0][0]) or relation[0][0] in named:
            return None
        named[relation[0][0]] = relation[0][1]
    return named if len(named) > 1 else None


def _same_assignments(left: str, right: str, depth: int) -> bool | None:
    """Compare values by the names of their variables, or with a list in the names' order."""
    ours, theirs = _assignments(left), _assignments(right)
    if ours and theirs and ours.keys() == theirs.keys():
        return all(_equal(unwrapped(ours[name]), unwrapped(theirs[name]), depth + 1) for name in ours)
    named = ours or theirs
    other = collection(right if ours else left)
    if not named or (ours and theirs) or not other or other[0] not in ("", "()") or len(other[1]) != len(named):
        return None
    if any(split_relation(part) for part in other[1]):
        return None
    if all(re.fullmatch(r"([A-Za-z])_\{?[0-9]\}?", name) for name in named) and other[0] == "":
        return _matched(list(named.values()), other[1], lambda a, b: _equal(unwrapped(a), unwrapped(b), depth + 1))
    return all(
        _equal(unwrapped(named[name]), unwrapped(value), depth + 1) for name, value in zip(sorted(named), other[1])
    )


def _same_collections(left: str, right: str, depth: int) -> bool | None:
    one, two = _solutions(left), _solutions(right)
    if not one or not two:
        return _same_singleton(left, right, depth)
    (first, ours), (second, theirs) = one, two
    if len(ours) != len(theirs):
        return False
    kinds = {first, second}
    if len(kinds) > 1 and ("" not in kinds or not kinds <= {"", "()", "[]", "{}"}):
        return False
    ordered = "{}" not in kinds and kinds != {""}

    def same(a: str, b: str) -> bool:
        return _equal(unwrapped(a), unwrapped(b), depth + 1)

    return all(map(same, ours, theirs)) if ordered else _matched(ours, theirs, same)


def _solutions(text: str) -> tuple[str, list[str]] | None:
    """Return a collection; in `x = 1, 2` and `x = 1 or x = 2` the one name of all solutions is left out."""
    if read_quantity(text) and not enclosed(text):
        return None
    parts = collection(text)
    if not parts or parts[0]:
        relation = None if parts and parts[0] and enclosed(text) else split_relation(text)
        if relation and relation[1] == ["="] and is_name(relation[0][0]):
            return collection(relation[0][1])
        return parts
    relations = [split_relation(part) for part in parts[1]]
    names = {relation[0][0] for relation in relations if relation}
    if not names or not relations[0] or len(names) > 1 or not is_name(next(iter(names))):
        return parts
    if any(relation and relation[1] != ["="] for relation in relations):
        return parts
    return "", [relation[0][1] if relation else part for relation, part in zip(relations, parts[1])]


def _same_singleton(left: str, right: str, depth: int) -> bool | None:
    """Compare a set of one element with that element, and brackets that only group."""
    for text, other in ((left, right), (right, left)):
        parts = collection(text)
        if parts and parts[0] == "{}" and len(parts[1]) == 1 and not (collection(other) or ("", []))[0]:
            return _equal(unwrapped(parts[1][0]), other, depth + 1)
    return None


def _matched(ours: list[Any], theirs: list[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Return whether each of the first is one of the second, each used once."""
    rest = list(theirs)
    for element in ours:
        match = next((index for index, other in enumerate(rest) if same(element, other)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def _same_relations(left: str, right: str, depth: int) -> bool | None:
    if (_based(left) or _based(right)) and "=" not in left + right:
        return _maybe_based(left, right)
    ours, theirs = split_relation(left), split_relation(right)
    if ours and theirs:
        return _same_chains(ours, theirs, depth)
    if not ours and not theirs:
        return None
    (sides, signs), other = (ours, right) if ours else (theirs, left)  # type: ignore[misc]
    if len(split_top(left)) + len(split_top(right)) > 2:
        return None
    if set(signs) != {"="} or not (is_name(sides[0]) or re.fullmatch(r"[0-9+*/(). -]+", sides[0])):
        return None
    if not is_name(sides[0]) and not _equal(sides[0], sides[-1], depth + 1):
        return False
    return _equal(unwrapped(sides[-1]), other, depth + 1)


def _same_chains(ours: tuple[list[str], list[str]], theirs: tuple[list[str], list[str]], depth: int) -> bool:
    """Compare two relations: side by side, from the other end, or as equations that vanish together."""
    names = ours[0][0], theirs[0][0]
    if set(ours[1]) == set(theirs[1]) == {"="} and all(map(is_name, names)) and same_name(*names):
        return _equal(unwrapped(ours[0][-1]), unwrapped(theirs[0][-1]), depth + 1)
    backwards = [{"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign) for sign in theirs[1][::-1]]
    for sides, signs in ((theirs[0], theirs[1]), (theirs[0][::-1], backwards)):
        if signs == ours[1] and all(_equal(unwrapped(a), unwrapped(b), depth + 1) for a, b in zip(ours[0], sides)):
            return True
    return len(ours[1]) == len(theirs[1]) == 1 and same_equation(ours, theirs)
