r"""Formulas as trees: `parse(r"\frac{1+x}{2}")` is `("div", ("add", 1, x), 2)` in tuples.

Reads LaTeX and what people type, by recursive descent over the text: `2x^2`, `\sqrt[3]{2}`, `√2/2`, `sin 2t`,
`|x-1|`, `\log_2 8`, `6 3/4`, `n!`, `1 ± √5`. Multiplication without a sign binds as `*` does, from left to right, so
that `1/2x` is half of x. A function without brackets takes the product that follows: `sin 2x + 1` is `sin(2x) + 1`.

Returns None for what is not a formula: words, unbalanced brackets, anything above the limits of length and depth. A run
of up to three letters is a product of variables, a longer one is a word.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

LONGEST = 600  # characters of a formula
DEEPEST = 24  # brackets inside brackets
LONGEST_NUMBER = 60  # digits

_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3}(?![0-9]))?|"
                     r"\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?")  # fmt: skip
_REPEATED = re.compile("([0-9]*)\\.([0-9]*)\ue002([0-9]+)\ue002")
_MIXED = re.compile(r" ?\\frac ?(?:\{ ?([0-9]+) ?\}|([0-9])) ?(?:\{ ?([0-9]+) ?\}|([0-9]))|"
                    r"\(\(([0-9]+)\)/\(([0-9]+)\)\)|"
                    r" ([0-9]+)/([0-9]+)")  # fmt: skip
_FUNCTION_NAMES = (
    "arcsinh arccosh arctanh arcsin arccos arctan sinh cosh tanh asin acos atan sqrt sin cos tan cot sec csc ln lg log "
    "exp abs ceil floor tg ctg"
).split()
_FUNCTION = re.compile(r"\\?(" + "|".join(_FUNCTION_NAMES) + ")")
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}
_SAME = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot"}
_LETTERS = re.compile("[A-Za-zα-ωΑ-Ω]+")
_SUBSCRIPT = re.compile(r"_(?:\{([^{}]{1,20})\}|([0-9A-Za-z]))")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_STARTS = re.compile(r"[0-9.(\[{A-Za-zα-ωΑ-Ω√∞|\\]")
_LONGEST_RUN = 3  # letters that may be a product of variables


class NotAFormula(ValueError):
    """What is raised inside of the parser; `parse` returns None instead."""


def parse(text: str) -> Tree | None:
    """Return the tree of a formula, or None."""
    if not text or len(text) > LONGEST:
        return None
    try:
        return _Parser(text).whole()
    except NotAFormula:
        return None


class _Parser:
    """Reads one text from left to right; `place` is the next character, `depth` the number of open brackets."""

    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth, self.bars = text, 0, 0, 0

    def whole(self) -> Tree:
        tree = self.sum()
        if self.peek():
            raise NotAFormula
        return tree

    def peek(self) -> str:
        while self.place < len(self.text) and self.text[self.place] == " ":
            self.place += 1
        return self.text[self.place : self.place + 1]

    def take(self, *choices: str) -> str:
        """Return the choice that comes next and pass over it, or an empty string."""
        self.peek()
        for choice in choices:
            if self.text.startswith(choice, self.place):
                self.place += len(choice)
                return choice
        return ""

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.place)
        if match:
            self.place = match.end()
        return match

    def sum(self) -> Tree:
        sign = self.take("+", "-", "±", "∓")
        tree = self.product()
        if sign in ("-", "±", "∓"):
            tree = ("neg", tree) if sign == "-" else ("pm", ("num", Fraction(0)), tree, 1 if sign == "±" else -1)
        while sign := self.take("+", "-", "±", "∓"):
            right = self.product()
            if sign in "±∓":
                tree = ("pm", tree, right, 1 if sign == "±" else -1)
            else:
                tree = ("add" if sign == "+" else "sub", tree, right)
        return tree

    def product(self) -> Tree:
        tree = self.factor()
        while True:
            if self.take("**", "^"):
                raise NotAFormula
            if sign := self.take("*", "/"):
                tree = ("mul" if sign == "*" else "div", tree, self.factor())
            elif self.starts_a_factor():
                tree = ("mul", tree, self.power())
            else:
                return tree

    def starts_a_factor(self) -> bool:
        """Return whether a product goes on without a sign; two numbers side by side are none."""
        character = self.peek()
        if not character or not _STARTS.match(character) or (character == "|" and self.bars):
            return False
        if self.text.startswith(("\\rfloor", "\\rceil"), self.place):
            return False
        before = self.text[: self.place].rstrip()[-1:]
        if (character.isdigit() or character == ".") and (before.isalnum() or before in ")]}."):
            raise NotAFormula
        return True

    def factor(self) -> Tree:
        if sign := self.take("-", "+"):
            self.deeper()
            tree = self.factor()
            self.depth -= 1
            return ("neg", tree) if sign == "-" else tree
        return self.power()

    def power(self) -> Tree:
        tree = self.postfixed(self.atom())
        if self.take("**", "^"):
            self.deeper()
            tree = ("pow", tree, self.exponent())
            self.depth -= 1
            tree = self.postfixed(tree)
        return tree

    def postfixed(self, tree: Tree) -> Tree:
        while mark := self.take("!", "°", "'"):
            if mark == "'" and tree[0] != "sym":
                raise NotAFormula
            tree = ("sym", tree[1] + "'") if mark == "'" else ({"!": "fact", "°": "deg"}[mark], tree)
            self.deeper()
        return tree

    def exponent(self) -> Tree:
        sign = self.take("-", "+")
        tree = self.power()
        return ("neg", tree) if sign == "-" else tree

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotAFormula

    def atom(self) -> Tree:
        character = self.peek()
        if character in _CLOSING and character:
            return self.bracketed()
        if character == "|":
            return self.absolute()
        if character.isdigit() or character == ".":
            return self.number()
        if character == "√":
            self.place += 1
            return ("root", ("num", Fraction(2)), self.radicand())
        if character == "\\":
            return self.command()
        if character == "∞":
            self.place += 1
            return ("inf",)
        return self.name()

    def bracketed(self) -> Tree:
        self.deeper()
        closing = _CLOSING[self.take("(", "[", "{")]
        bars, self.bars = self.bars, 0
        tree = self.sum()
        self.bars = bars
        if not self.take(closing):
            raise NotAFormula
        self.depth -= 1
        return tree

    def absolute(self) -> Tree:
        self.deeper()
        self.take("|")
        self.bars += 1
        tree = self.sum()
        self.bars -= 1
        if not self.take("|"):
            raise NotAFormula
        self.depth -= 1
        return ("fn", "abs", tree)

    def number(self) -> Tree:
        if repeated := self.match(_REPEATED):
            return ("num", repeating(repeated[1], repeated[2], repeated[3]))
        match = self.match(_NUMBER)
        if not match or len(match[0]) > LONGEST_NUMBER:
            raise NotAFormula
        if "," in match[0] and self.depth:
            raise NotAFormula  # (1,000) is a pair
        value = decimal(match[0])
        if match[0].isdigit() and (mixed := self.mixed(value)):
            return mixed
        if self.match(_SUBSCRIPT):
            raise NotAFormula  # a number of another base
        return ("num", value)

    def mixed(self, whole: Fraction) -> Tree | None:
        """Return the mixed number whose integer has just been read: `6\\frac{3}{4}`, `6 3/4`, not `2\\frac{5}{3}`."""
        start, match = self.place, self.match(_MIXED)
        if not match:
            return None
        above, below = (int(part) for part in match.groups() if part is not None)
        if 0 < above < below:
            return ("num", whole + Fraction(above, below))
        self.place = start
        return None

    def command(self) -> Tree:
        for name, read in (("\\frac", self.fraction), ("\\sqrt", self.root), ("\\binom", self.binomial)):
            if self.text.startswith(name, self.place):
                self.place += len(name)
                return read()
        if function := self.match(_FUNCTION):
            return self.function(function[1])
        if self.take("\\lfloor", "\\lceil"):
            return self.rounded()
        raise NotAFormula

    def fraction(self) -> Tree:
        above = self.argument()
        return ("div", above, self.argument())

    def binomial(self) -> Tree:
        above = self.argument()
        return ("binom", above, self.argument())

    def rounded(self) -> Tree:
        self.deeper()
        name = "floor" if self.text.startswith("\\lfloor", self.place - 7) else "ceil"
        tree = self.sum()
        if not self.take("\\rfloor" if name == "floor" else "\\rceil"):
            raise NotAFormula
        return ("fn", name, tree)

    def argument(self) -> Tree:
        """Return what a LaTeX command takes: a group, or a single digit or letter."""
        character = self.peek()
        if character == "{":
            return self.bracketed()
        if character.isdigit():
            self.place += 1
            return ("num", Fraction(int(character)))
        if character == "\\":
            return self.command()
        if character and _LETTERS.match(character):
            self.place += 1
            return _letter(character)
        raise NotAFormula

    def root(self) -> Tree:
        """Return a root, after `\\sqrt`, which takes one digit as in LaTeX, or after `sqrt`, which takes all."""
        typed = self.text[self.place - 5 : self.place - 4] != "\\"
        degree: Tree = ("num", Fraction(2))
        if self.take("["):
            degree = self.sum()
            if not self.take("]"):
                raise NotAFormula
        self.peek()
        return ("root", degree, self.radicand() if typed or self.peek() == "(" else self.argument())

    def radicand(self) -> Tree:
        character = self.peek()
        if character.isdigit():
            return self.number()
        return self.atom() if character in ("(", "{", "√", "|", "[") else self.argument()

    def name(self) -> Tree:
        if function := self.match(_FUNCTION):
            if function[1] == "sqrt":
                return self.root()
            return self.function(function[1])
        run = _LETTERS.match(self.text, self.place)
        if not run:
            raise NotAFormula
        word = run[0]
        if word.startswith("pi"):
            self.place += 2
            return ("const", "π")
        if len(word) > _LONGEST_RUN and not _FUNCTION.search(word):
            raise NotAFormula
        self.place += 1
        letter = _letter(word[0])
        subscript = self.match(_SUBSCRIPT)
        return ("sym", f"{word[0]}_{(subscript[1] or subscript[2]).strip()}") if subscript else letter

    def function(self, name: str) -> Tree:
        self.deeper()
        name = _SAME.get(name, name)
        base: Tree | None = None
        power: Tree | None = None
        if name == "log" and self.take("_"):
            base = self.argument()
        if self.take("**", "^"):
            power = self.exponent()
            if power == ("neg", ("num", Fraction(1))) and name in _INVERSE:
                name, power = _INVERSE[name], None
        tree: Tree = ("log", base, self.operand()) if base else ("fn", name, self.operand())
        self.depth -= 1
        return ("pow", tree, power) if power else tree

    def operand(self) -> Tree:
        """Return what a function takes: brackets, or the product that follows without signs and other functions."""
        if self.peek() in ("(", "{", "[", "|"):
            return self.power()
        tree = self.power() if not self.take("-") else ("neg", self.power())
        while self.starts_a_factor() and self.peek() != "(" and not _FUNCTION.match(self.text, self.place):
            tree = ("mul", tree, self.power())
        return tree


def _letter(letter: str) -> Tree:
    return ("const", letter) if letter in "πei" else ("sym", letter)


def decimal(digits: str) -> Fraction:
    """Return the exact value of a decimal, with thousands separators and an exponent where it has them."""
    mantissa, _, power = digits.replace(",", "").lower().partition("e")
    mantissa = mantissa + "0" if mantissa.endswith(".") else mantissa
    return Fraction(mantissa) * Fraction(10) ** int(power or "0")


def repeating(whole: str, fixed: str, repeated: str) -> Fraction:
    """Return the exact value of a decimal whose last digits repeat for ever."""
    base = Fraction(int((whole or "0") + fixed), 10 ** len(fixed))
    return base + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
