"""Quality rules (report §2.1, step 5): a measure of a text with the range that it must lie in, and helpers of all
sets.

    attributes = measures(TextView(text, language), DEFAULT_RULES)    -> {"length": 212.0, ...}
    first_broken(attributes, DEFAULT_RULES)                           -> the first rule that is broken, or None

Measuring is the expensive part and thresholds the part that people vary, so the two are separate: `measures` returns
the attributes of a text, which are stored beside the corpus, and `first_broken` compares them with any thresholds. A
rule says to which scripts it applies: word lengths and stop words mean nothing in Chinese, which has no spaces; there
the unit is the character, and lengths count as half a word each. The sets: `default`, `code`, `gopher`, `c4`,
`fineweb`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from qwenkit.data.ngrams import NgramStats
from qwenkit.data.text_units import SIGN, is_unspaced, units


class TextView:
    """A text with the parts that several rules need, each computed once."""

    def __init__(self, text: str, language: str = "und") -> None:
        """Keep the text and its language (ISO 639, "und" where it is unknown)."""
        self.text, self.language = text, language

    @cached_property
    def unspaced(self) -> bool:
        """Return whether the text is in a script without spaces."""
        return is_unspaced(self.text)

    @cached_property
    def words(self) -> list[str]:
        """Return the units of the text, case folded."""
        return units(self.text.casefold())

    @cached_property
    def tokens(self) -> list[str]:
        """Return the case-folded stretches between spaces: words with their punctuation, and signs that stand alone."""
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
        """Return the n-gram statistics of the words."""
        return NgramStats(self.words)

    @cached_property
    def token_grams(self) -> NgramStats:
        """Return the n-gram statistics of the tokens."""
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
        """Return whether the rule is meant for the script or language of the text."""
        known = {"any": True, "spaced": not view.unspaced, "unspaced": view.unspaced}
        return known.get(self.scope, self.scope == view.language)


def measures(view: TextView, rules: Iterable[Rule]) -> dict[str, float]:
    """Return the value of every rule that applies to a text: its attributes, stored beside the corpus."""
    return {rule.name: float(rule.measure(view)) for rule in rules if rule.applies_to(view)}


def first_broken(attributes: Mapping[str, float], rules: Iterable[Rule]) -> Rule | None:
    """Return the first rule that these attributes break, or None; thresholds can change without measuring again."""
    return next(
        (rule for rule in rules if rule.name in attributes and not rule.low <= attributes[rule.name] <= rule.high), None
    )


def with_thresholds(rules: Sequence[Rule], thresholds: dict[str, tuple[float, float]]) -> tuple[Rule, ...]:
    """Return the rules, with other ranges where `thresholds` names them."""
    return tuple(
        replace(rule, low=thresholds[rule.name][0], high=thresholds[rule.name][1]) if rule.name in thresholds else rule
        for rule in rules
    )


# -- measures that several sets share ---------------------------------------------------------------------------------


def ratio(part: float, whole: float) -> float:
    """Return part / whole, or 0 where the whole is 0."""
    return part / whole if whole else 0.0


def line_share(view: TextView, test: Callable[[str], bool]) -> float:
    """Return the share of lines that pass a test, 0 to 1."""
    return ratio(sum(map(test, view.lines)), len(view.lines))


def length(view: TextView) -> float:
    """Return the number of words; a character of a script without spaces counts as half a word."""
    return len(view.words) / (2 if view.unspaced else 1)


def ellipsis_lines(view: TextView) -> float:
    """Return the share of lines that end with an ellipsis, 0 to 1."""
    return line_share(view, lambda line: line.endswith(("...", "…")))


def has_letter(word: str) -> bool:
    """Return whether a word has a letter, or a vowel sign, which is a unit of its own in some scripts."""
    return any(map(str.isalpha, word)) or bool(not word.isascii() and SIGN.search(word))


def repeated_lines(view: TextView) -> float:
    """Return the share of lines that repeat an earlier one, 0 to 1."""
    return ratio(len(view.lines) - len(set(view.lines)), len(view.lines))


def repeated_line_characters(view: TextView) -> float:
    """Return the share of characters in lines that repeat an earlier one, 0 to 1."""
    whole = sum(map(len, view.lines))
    return ratio(whole - sum(map(len, set(view.lines))), whole)
