"""Rules of quality (section 2.1, step 5): a measure of a text with the range it must lie in, and what all sets share.

    attributes = measures(TextView(text, language), DEFAULT_RULES)    -> {"length": 212.0, ...}
    first_broken(attributes, DEFAULT_RULES)                           -> the first rule that is broken, or None

Measuring is the expensive part and thresholds the part that people try out, so the two are apart: `measures` gives the
attributes of a text, which lie beside the corpus, and `first_broken` judges them by any thresholds. A rule says to
which writing it applies: word lengths and stop words mean nothing in Chinese, which has no spaces; there the unit is
the character, and lengths count as half a word each. The sets: `default`, `code`, `gopher`, `c4`, `fineweb`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from qwenkit.data.ngrams import NgramStats
from qwenkit.data.text_units import SIGN, is_unspaced, units


class TextView:
    """A text with the parts that several rules look at, each computed once."""

    def __init__(self, text: str, language: str = "und") -> None:
        self.text, self.language = text, language

    @cached_property
    def unspaced(self) -> bool:
        """Return whether the text is of a script without spaces."""
        return is_unspaced(self.text)

    @cached_property
    def words(self) -> list[str]:
        """Return the units of the text, case folded."""
        return units(self.text.casefold())

    @cached_property
    def tokens(self) -> list[str]:
        """Words with the signs that stand at them, and signs that stand alone: what spaces part, case folded."""
        return self.words if self.unspaced else self.text.casefold().split()

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines that are not empty, stripped."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Return the paragraphs of the text."""
        return [part.strip() for part in re.split(r"\n{2,}", self.text) if part.strip()]

    @cached_property
    def grams(self) -> NgramStats:
        """How the text repeats its words."""
        return NgramStats(self.words)

    @cached_property
    def token_grams(self) -> NgramStats:
        """How the text repeats its tokens."""
        return NgramStats(self.tokens)


@dataclass(frozen=True)
class Rule:
    """`measure` of a text must lie in [low, high]. `scope`: any, spaced, unspaced, or a language code."""

    name: str
    measure: Callable[[TextView], float]
    low: float
    high: float
    source: str
    scope: str = "any"

    def applies_to(self, view: TextView) -> bool:
        """Return whether the text is of the writing or language that the rule is for."""
        known = {"any": True, "spaced": not view.unspaced, "unspaced": view.unspaced}
        return known.get(self.scope, self.scope == view.language)


def measures(view: TextView, rules: Iterable[Rule]) -> dict[str, float]:
    """Return what every rule that applies sees in a text: its attributes, kept beside the corpus."""
    return {rule.name: float(rule.measure(view)) for rule in rules if rule.applies_to(view)}


def first_broken(attributes: Mapping[str, float], rules: Iterable[Rule]) -> Rule | None:
    """Return the first rule that these attributes break: thresholds change without measuring again."""
    return next(
        (rule for rule in rules if rule.name in attributes and not rule.low <= attributes[rule.name] <= rule.high), None
    )


def with_thresholds(rules: Sequence[Rule], thresholds: dict[str, tuple[float, float]]) -> tuple[Rule, ...]:
    """Return the rules with other ranges where `thresholds` names one."""
    return tuple(
        replace(rule, low=thresholds[rule.name][0], high=thresholds[rule.name][1]) if rule.name in thresholds else rule
        for rule in rules
    )


# -- measures that several sets share ---------------------------------------------------------------------------------


def ratio(part: float, whole: float) -> float:
    """Return a share; 0 of nothing."""
    return part / whole if whole else 0.0


def line_share(view: TextView, test: Callable[[str], bool]) -> float:
    """Return the share of the lines that pass a test."""
    return ratio(sum(map(test, view.lines)), len(view.lines))


def length(view: TextView) -> float:
    """Words; a character of a script without spaces counts as half a word."""
    return len(view.words) / (2 if view.unspaced else 1)


def ellipsis_lines(view: TextView) -> float:
    """Return the share of lines that end with an ellipsis, 0 to 1."""
    return line_share(view, lambda line: line.endswith(("...", "…")))


def has_letter(word: str) -> bool:
    """Return whether a word has a letter, or a vowel sign, which in some scripts is a unit of its own."""
    return any(map(str.isalpha, word)) or bool(not word.isascii() and SIGN.search(word))


def repeated_lines(view: TextView) -> float:
    """Return the share of lines that repeat an earlier one."""
    return ratio(len(view.lines) - len(set(view.lines)), len(view.lines))


def repeated_line_characters(view: TextView) -> float:
    """Return the share of characters in lines that repeat an earlier one."""
    whole = sum(map(len, view.lines))
    return ratio(whole - sum(map(len, set(view.lines))), whole)
