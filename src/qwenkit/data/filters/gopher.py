"""The rules of Gopher with their published thresholds (Rae et al. 2021, "Scaling Language Models", appendix A.1.1 and
table A1): length, words, symbols, repetition.

They were made for English: rules of words mean nothing in scripts without spaces and are not asked there; lengths count
a character of such a script as half a word. Gopher's words are what spaces part, so `***` is a word without letters;
its bullets are signs, and `1.` is none. The characters of n-grams are counted as datatrove counts them, against all
characters of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

from qwenkit.data.filters.rules import (
    Rule,
    TextView,
    ellipsis_lines,
    has_letter,
    line_share,
    ratio,
    repeated_line_characters,
    repeated_lines,
)

_BULLETS = tuple("-*•‣·●○■◦–")
_STOP_WORDS = frozenset("the be to of and that have with".split())
_RAE = "Rae et al. 2021"


def gopher_length(view: TextView) -> float:
    """Words; a character of a script without spaces counts as half a word."""
    return len(view.tokens) / (2 if view.unspaced else 1)


def gopher_mean_word_length(view: TextView) -> float:
    """Return the mean length of the words, in characters (Gopher: Rae et al. 2021)."""
    return ratio(sum(map(len, view.tokens)), len(view.tokens))


def gopher_lettered_words(view: TextView) -> float:
    """Return the share of words that hold a letter."""
    return ratio(sum(map(has_letter, view.tokens)), len(view.tokens))


def gopher_bullet_lines(view: TextView) -> float:
    """Return the share of lines that begin with a bullet, 0 to 1 (Gopher: Rae et al. 2021)."""
    return line_share(view, lambda line: line.startswith(_BULLETS))


def gopher_stop_words(view: TextView) -> float:
    """Return how many of the eight words of the paper the text has."""
    return len(_STOP_WORDS.intersection(view.tokens))


def gopher_symbols(view: TextView) -> float:
    """Hash signs or ellipses per word, whichever are more: the paper sets its limit for either."""
    counts = (len(re.findall(pattern, view.text)) for pattern in ("#", r"\.\.\.|…"))
    return ratio(max(counts), len(view.tokens))


def top_gram_characters(size: int) -> Callable[[TextView], float]:
    """Measure: share of characters in the most frequent n-gram of words."""

    def measure(view: TextView) -> float:
        start, count = view.token_grams.top(size)
        if count < 2:
            return 0.0
        characters = view.token_grams.characters(start, size) + size - 1  # with the spaces between
        return ratio(count * characters, len(view.text))

    measure.__name__ = f"top_{size}_gram_characters"
    return measure


def repeated_gram_characters(size: int) -> Callable[[TextView], float]:
    """Measure: share of characters in n-grams that stood before, none counted twice."""

    def measure(view: TextView) -> float:
        return ratio(view.token_grams.repeated(size), len(view.text))

    measure.__name__ = f"repeated_{size}_gram_characters"
    return measure


def repeated_paragraphs(view: TextView) -> float:
    """Return the share of paragraphs that repeat an earlier one (Gopher: Rae et al. 2021)."""
    return ratio(len(view.paragraphs) - len(set(view.paragraphs)), len(view.paragraphs))


def repeated_paragraph_characters(view: TextView) -> float:
    """Return the share of characters in repeated paragraphs (Gopher: Rae et al. 2021)."""
    whole = sum(map(len, view.paragraphs))
    return ratio(whole - sum(map(len, set(view.paragraphs))), whole)


GOPHER_RULES: tuple[Rule, ...] = (
    Rule("gopher_length", gopher_length, 50, 100_000, _RAE),
    Rule("gopher_mean_word_length", gopher_mean_word_length, 3, 10, _RAE, "spaced"),
    Rule("gopher_symbols", gopher_symbols, 0, 0.1, _RAE),
    Rule("gopher_bullet_lines", gopher_bullet_lines, 0, 0.9, _RAE),
    Rule("gopher_ellipsis_lines", ellipsis_lines, 0, 0.3, _RAE),
    Rule("gopher_lettered_words", gopher_lettered_words, 0.8, 1, _RAE),
    Rule("gopher_stop_words", gopher_stop_words, 2, inf, _RAE, "en"),
    Rule("gopher_repeated_lines", repeated_lines, 0, 0.3, _RAE),
    Rule("gopher_repeated_line_characters", repeated_line_characters, 0, 0.2, _RAE),
    Rule("gopher_repeated_paragraphs", repeated_paragraphs, 0, 0.3, _RAE),
    Rule("gopher_repeated_paragraph_characters", repeated_paragraph_characters, 0, 0.2, _RAE),
    *(
        Rule(f"gopher_top_{size}_gram", top_gram_characters(size), 0, high, _RAE, "spaced")
        for size, high in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"gopher_repeated_{size}_grams", repeated_gram_characters(size), 0, high, _RAE, "spaced")
        for size, high in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)
