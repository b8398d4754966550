"""Published rules of quality with their published thresholds (section 2.1, step 5), beside our own in `quality`.

    GOPHER    Rae et al. 2021, Scaling Language Models, appendix A.1.1 and table A1: length, words, symbols, repetition
    C4        Raffel et al. 2020, section 2.2: lines that end as sentences, words, lorem ipsum, braces, scripts
    FINEWEB   Penedo et al. 2024, section 3.6

Each is a pure measure of a text and the range it must lie in. They were made for English: rules of words mean nothing
in scripts without spaces and are not asked there; lengths count a character of such a script as half a word. Where the
sources leave a choice or disagree:

* Gopher's words are what spaces part, so `***` is a word without letters; its bullets are signs, and `1.` is none. The
  characters of n-grams are counted as datatrove counts them, against all characters of the text.
* C4: five words a line and three sentences, no line that ends in `...` or has a word of more than 1000 characters, as
  in the authors' code (editions of the paper have other numbers). C4 cuts lines out; here the document is judged by
  what it would leave. Quotes, and full stops of other scripts (`sentences`), end a sentence too.
* C4's `c4_bad_words` needs the list (`offensive_words`), which is not ours to give; without one it is left out.
* FineWeb: 0.01 for repeated lines' characters, as in the authors' code (the paper's text has 0.1). Words are those of
  `units`, where the code counts signs of punctuation too, so `fineweb_lines_per_word` is a little stricter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

from qwenkit.data.filters.default import (
    Rule,
    View,
    ellipsis_lines,
    has_letter,
    length,
    line_share,
    ratio,
    repeated_line_characters,
    repeated_lines,
)
from qwenkit.data.filters.word_list import WordLists
from qwenkit.data.sentences import OTHER, STOPS, WIDE

_TERMINAL = re.compile(rf"[{STOPS}{WIDE}{OTHER}\"”」』]")
_SENTENCE = re.compile(rf"(?<![{STOPS}])[{STOPS}]+(?:\s|[\"”']|$)|[{WIDE}{OTHER}]+")
_BULLETS = tuple("-*•‣·●○■◦–")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_GOPHER_WORDS = frozenset("the be to of and that have with".split())
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def gopher_length(view: View) -> float:
    """Words; a character of a script without spaces counts as half a word."""
    return len(view.tokens) / (2 if view.unspaced else 1)


def gopher_mean_word_length(view: View) -> float:
    return ratio(sum(map(len, view.tokens)), len(view.tokens))


def gopher_lettered_words(view: View) -> float:
    """Share of words that hold a letter."""
    return ratio(sum(map(has_letter, view.tokens)), len(view.tokens))


def gopher_bullet_lines(view: View) -> float:
    return line_share(view, lambda line: line.startswith(_BULLETS))


def gopher_stop_words(view: View) -> float:
    """How many of the eight words of the paper the text has."""
    return len(_GOPHER_WORDS.intersection(view.tokens))


def gopher_symbols(view: View) -> float:
    """Hash signs or ellipses per word, whichever are more: the paper sets its limit for either."""
    counts = (len(re.findall(pattern, view.text)) for pattern in ("#", r"\.\.\.|…"))
    return ratio(max(counts), len(view.tokens))


def top_gram_characters(size: int) -> Callable[[View], float]:
    """Measure: share of characters in the most frequent n-gram of words."""

    def measure(view: View) -> float:
        start, count = view.token_grams.top(size)
        if count < 2:
            return 0.0
        characters = view.token_grams.characters(start, size) + size - 1  # with the spaces between
        return ratio(count * characters, len(view.text))

    measure.__name__ = f"top_{size}_gram_characters"
    return measure


def repeated_gram_characters(size: int) -> Callable[[View], float]:
    """Measure: share of characters in n-grams that stood before, none counted twice."""

    def measure(view: View) -> float:
        return ratio(view.token_grams.repeated(size), len(view.text))

    measure.__name__ = f"repeated_{size}_gram_characters"
    return measure


def repeated_paragraphs(view: View) -> float:
    return ratio(len(view.paragraphs) - len(set(view.paragraphs)), len(view.paragraphs))


def repeated_paragraph_characters(view: View) -> float:
    whole = sum(map(len, view.paragraphs))
    return ratio(whole - sum(map(len, set(view.paragraphs))), whole)


def sentences_kept(view: View) -> float:
    """Sentences in the lines that C4 would keep: those of five words that end a sentence and speak of no script or
    policy."""
    lines = (_CITATION.sub("", line).rstrip() for line in view.lines)
    return sum(len(_SENTENCE.findall(line)) for line in lines if _c4_keeps(line, view.unspaced))


def _is_closed(line: str) -> bool:
    """Whether a line ends with the end of a sentence."""
    return _TERMINAL.match(line[-1:]) is not None


def _c4_keeps(line: str, unspaced: bool) -> bool:
    low, words = line.lower(), line.split()
    long_enough = len(line) >= 10 if unspaced else len(words) >= 5 and max(map(len, words)) <= 1000
    whole = _is_closed(line) and not line.endswith("...")
    return whole and long_enough and "javascript" not in low and not any(part in low for part in _POLICY)


def bad_words(view: View, lists: WordLists | None = None) -> float:
    """How many different words of the list of the text's language it holds; C4 drops a page that holds one."""
    return len(lists.counts(view.text, view.language)) if lists else 0.0


def lorem_ipsum(view: View) -> float:
    return float("lorem ipsum" in view.text.lower())


def braces(view: View) -> float:
    return float("{" in view.text)


def closed_lines(view: View) -> float:
    return line_share(view, _is_closed)


def short_lines(view: View) -> float:
    """Share of lines of at most 30 characters (15 in scripts without spaces, where a character says twice as much)."""
    limit = 15 if view.unspaced else 30
    return line_share(view, lambda line: len(line) <= limit)


def lines_per_word(view: View) -> float:
    return ratio(view.text.count("\n"), length(view))


_RAE, _T5, _FINE = "Rae et al. 2021", "Raffel et al. 2020", "Penedo et al. 2024"
GOPHER: tuple[Rule, ...] = (
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
C4: tuple[Rule, ...] = (
    Rule("c4_sentences", sentences_kept, 3, inf, _T5),
    Rule("c4_lorem_ipsum", lorem_ipsum, 0, 0, _T5),
    Rule("c4_braces", braces, 0, 0, _T5),
    Rule("c4_bad_words", bad_words, 0, 0, _T5),
)
FINEWEB: tuple[Rule, ...] = (
    Rule("fineweb_closed_lines", closed_lines, 0.12, 1, _FINE),
    Rule("fineweb_short_lines", short_lines, 0, 0.67, _FINE),
    Rule("fineweb_repeated_line_characters", repeated_line_characters, 0, 0.01, _FINE),
    Rule("fineweb_lines_per_word", lines_per_word, 0, 0.3, _FINE),
)
