"""What formulas are worth: exact where they are rational, complex floats otherwise, at points where variables differ.

`same_value(left, right)` compares two trees at five points. Two formulas are one when they agree at every point to ten
digits; rational ones (integers, fractions, polynomials, quotients) must agree exactly. Variables stand for positive
numbers, as textbooks do when they simplify roots; where an absolute value occurs they are also negative.

Nothing grows without bound: powers and factorials beyond a few thousand digits are not computed, and then only equal
trees are equal.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

from qwenkit.evaluation.equivalence.syntax import Tree

Number = Fraction | complex

TOLERANCE = 1e-10  # relative, of values that are not rational
_MOST_BITS = 20_000  # of an exact power
_MOST_FACTORIAL = 170
_CONSTANTS = {"π": complex(math.pi), "e": complex(math.e), "i": 1j}
_POINTS = [Fraction(17, 11), Fraction(5, 7), Fraction(23, 13), Fraction(8, 19), Fraction(29, 17), Fraction(3, 5),
           Fraction(31, 29), Fraction(13, 23), Fraction(37, 19), Fraction(7, 31), Fraction(41, 43)]  # fmt: skip


class Unknown(ValueError):
    """A value that is not computed: a division by zero, something infinite, or too large."""


class Calculator:
    """Computes trees for one choice of variables and of the sign of ±; `scale` is the greatest term that a sum
    cancelled."""

    def __init__(self, variables: Mapping[str, Fraction], sign: int = 1) -> None:
        self.variables, self.sign, self.scale = variables, sign, 0.0

    def value(self, tree: Tree) -> Number:
        """Return the value of a tree; raises `Unknown`."""
        try:
            return self._value(tree)
        except (OverflowError, ZeroDivisionError, ValueError) as problem:
            raise Unknown from problem

    def _value(self, tree: Tree) -> Number:
        kind = tree[0]
        if kind == "num":
            return tree[1]
        if kind == "const":
            return _CONSTANTS[tree[1]]
        if kind == "sym":
            return self.variables[tree[1]]
        if kind == "inf":
            raise Unknown
        if kind == "fn":
            return _function(tree[1], self._value(tree[2]))
        parts = [self._value(part) for part in tree[1:3]]
        if kind in ("add", "sub", "pm"):
            sign = {"add": 1, "sub": -1}.get(kind) or self.sign * tree[3]
            return self._sum(parts[0], parts[1] if sign > 0 else -parts[1])
        return _OPERATIONS[kind](*parts)

    def _sum(self, a: Number, b: Number) -> Number:
        total = a + b
        if not isinstance(total, Fraction) and abs(total) < 1e-3 * max(abs(a), abs(b)):
            self.scale = max(self.scale, float(max(abs(a), abs(b))))
        return total


def _multiply(a: Number, b: Number) -> Number:
    return a * b


def _divide(a: Number, b: Number) -> Number:
    if b == 0:
        raise Unknown
    return a / b


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            if base == 0 and exponent <= 0:
                raise Unknown
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if base in (0, 1, -1) or bits * abs(exponent.numerator) <= _MOST_BITS:
                return base ** (exponent.numerator if base not in (1, -1) else exponent.numerator % 2)
            raise Unknown
        if exact := _exact_root(base, exponent.denominator):
            return _power(exact, Fraction(exponent.numerator))
    return _finite(complex(base) ** complex(exponent))


def _root(degree: Number, value: Number) -> Number:
    if not isinstance(degree, Fraction) or degree == 0:
        return _power(value, _divide(Fraction(1), degree))
    if isinstance(value, Fraction) and value < 0 and degree.denominator == 1 and degree.numerator % 2:
        return -_power(-value, 1 / degree)  # the real root
    return _power(value, 1 / degree)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the rational root of a rational number, or None."""
    if value <= 0 or degree > 64:
        return None
    parts = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    return Fraction(parts[0], parts[1]) if parts[0] is not None and parts[1] is not None else None


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 1000:
        return None
    near = round(value ** (1 / degree))
    return next((root for root in (near - 1, near, near + 1) if root**degree == value), None)


def _factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= _MOST_FACTORIAL:
        raise Unknown
    return Fraction(math.factorial(value.numerator))


def _binomial(above: Number, below: Number) -> Number:
    for value in (above, below):
        if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 1000:
            raise Unknown
    return Fraction(math.comb(int(above.real), int(below.real)))


_OPERATIONS = {
    "mul": _multiply,
    "div": _divide,
    "pow": _power,
    "root": _root,
    "neg": lambda a: -a,
    "fact": _factorial,
    "binom": _binomial,
    "deg": lambda a: _finite(complex(a) * math.pi / 180),
    "log": lambda base, a: _divide(cmath.log(a), cmath.log(base)),
}
_FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "arcsinh": cmath.asinh,
    "arccosh": cmath.acosh, "arctanh": cmath.atanh, "ln": cmath.log, "exp": cmath.exp, "log": cmath.log10,
    "lg": cmath.log10, "cot": lambda a: 1 / cmath.tan(a), "sec": lambda a: 1 / cmath.cos(a),
    "csc": lambda a: 1 / cmath.sin(a), "sqrt": cmath.sqrt,
}  # fmt: skip


def _function(name: str, value: Number) -> Number:
    if name == "abs":
        return abs(value) if isinstance(value, Fraction) else complex(abs(value))
    if name in ("floor", "ceil"):
        if not isinstance(value, Fraction):
            raise Unknown
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    return _finite(_FUNCTIONS[name](complex(value)))


def _finite(value: complex) -> complex:
    if not cmath.isfinite(value):
        raise Unknown
    return value


def parts_of(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all trees inside it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from parts_of(part)


def symbols(tree: Tree) -> set[str]:
    """Return the names of the variables of a tree."""
    return {part[1] for part in parts_of(tree) if part[0] == "sym"}


def has(tree: Tree, kind: str) -> bool:
    """Return whether a kind of operation occurs."""
    return any(part[0] == kind for part in parts_of(tree))


def points(names: set[str], signed: bool) -> Iterator[dict[str, Fraction]]:
    """Yield values of the variables, five times (once where there are none); negative ones only where `signed`."""
    for index in range(5 if names else 1):
        yield {
            name: (-1 if signed and (place + index) % 2 else 1)
            * _POINTS[(place * 3 + index * 4) % len(_POINTS)]
            * (1 + Fraction(place, 97))
            for place, name in enumerate(sorted(names))
        }


def constant(tree: Tree) -> Number | None:
    """Return the value of a tree without variables, or None."""
    if symbols(tree) or has(tree, "pm"):
        return None
    try:
        return Calculator({}).value(tree)
    except Unknown:
        return None


def agree(a: Number, b: Number, scale: float = 0.0) -> bool:
    """Return whether two values are the same: rational ones exactly, others to ten digits, and to 1e-12 of the terms
    that cancelled."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    try:
        return abs(complex(a) - complex(b)) <= max(TOLERANCE * max(abs(complex(a)), abs(complex(b))), 1e-12 * scale)
    except OverflowError:
        return False


def same_value(left: Tree, right: Tree) -> bool:
    """Return whether two formulas have the same value wherever both are defined, at the points that are tried."""
    if left == right:
        return True
    names = symbols(left) | symbols(right)
    signed = any(part[:2] == ("fn", "abs") for tree in (left, right) for part in parts_of(tree))
    tried = 0
    for variables in points(names, signed):
        for sign in (1, -1) if has(left, "pm") or has(right, "pm") else (1,):
            calculator = Calculator(variables, sign)
            try:
                values = calculator.value(left), calculator.value(right)
            except Unknown:
                continue
            if not agree(*values, calculator.scale):
                return False
            tried += 1
    return tried > 0


def proportional(left: Tree, right: Tree) -> Fraction | float | None:
    """Return the constant factor between two formulas that vanish together (sides of equations), or None."""
    ratio: Number | None = None
    for variables in points(symbols(left) | symbols(right), signed=False):
        calculator = Calculator(variables)
        try:
            a, b = calculator.value(left), calculator.value(right)
        except Unknown:
            return None
        if a == 0 or b == 0:
            return None
        if ratio is not None and not agree(ratio, a / b):
            return None
        ratio = a / b
    if ratio is None:
        return None
    return ratio if isinstance(ratio, Fraction) else ratio.real if abs(ratio.imag) < TOLERANCE else None
