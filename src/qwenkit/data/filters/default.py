"""The default rules of quality for prose (the value `own` in recipes; section 2.1, step 5).

The report says "rule-based and machine-learning-based methods" and names no rule. These are our own choice, after
Gopher (Rae et al. 2021), C4 (Raffel et al. 2020), FineWeb (Penedo et al. 2024) and CCNet (Wenzek et al. 2020).
`gopher`, `c4` and `fineweb` have the rules as their authors have them, `classifier` the learned scorer.

Several of ours are milder than their source, since short entries, lists of names and figures are wanted: `source` says
where the measure comes from, and in brackets what stands there where it is another. `stop_words` lets texts under 30
words pass, `top_n_gram` those under 50.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from math import inf

from qwenkit.data.filters.rules import (
    Rule,
    TextView,
    ellipsis_lines,
    has_letter,
    length,
    line_share,
    ratio,
    repeated_line_characters,
    repeated_lines,
)
from qwenkit.data.filters.word_list import Lists, WordLists, read_lists
from qwenkit.data.sentences import CLOSING, ENDS, without_ends
from qwenkit.data.text_units import SIGN, units

_ENDS = re.compile(rf"[{ENDS};；:：\u061b{CLOSING}|]\s*$")
_BULLET = re.compile(r"^\s*(?:[-*•‣·●○■◦–]|\d{1,3}[.)、])\s*")
_STANZA, _VERSE = 20, 16  # lines of a stanza, words of a line
_STRANGE = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
_MOJIBAKE = re.compile(
    r"[ÃÂ][\x80-\xbf¡-¿]|â€|ï¿½|锟斤拷|烫烫烫|å[\x80-\xbf¡-¿]|(?:[РС][\u0080-\u00bf\u0402-\u040f\u0452-\u045f\u2013-\u203a€№™]){2}"
)
_BOILERPLATE = re.compile(
    r"lorem ipsum|javascript (?:is|must be|to be)? ?(?:disabled|enabled)|enable javascript|cookies? policy"
    r"|terms of use|all rights reserved|404 not found|page not found|access denied"
    r"|版权所有|请启用 ?javascript|页面不存在",
    re.I,
)
_LETTERS_ALONE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_STOP_EN = frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "a", "was", "for"))
_STOP_ZH = frozenset("的一是不了在有人我他这为之大来以个中上们到说和地也")


def mean_word_length(view: TextView) -> float:
    """Mean length of the words of spaced scripts (a Han character among them is not a short word)."""
    lengths = [len(word) for word in view.words if len(word) > 1 or word.isascii()]
    return ratio(sum(lengths), len(lengths))


def longest_word(view: TextView) -> float:
    """Longest run without a space, links aside: keys, base64, words glued together."""
    plain = re.sub(r"https?://\S+|[\u0f0b\u1361]", " ", view.text)  # Tibetan and Ethiopic signs between words
    return max(map(len, plain.split()), default=0)


def symbol_share(view: TextView) -> float:
    """Hash signs and ellipses per word."""
    return ratio(len(re.findall(r"#|\.\.\.|…", view.text)), len(view.words))


def bullet_lines(view: TextView) -> float:
    """Return the share of lines that begin with a bullet, 0 to 1."""
    return line_share(view, lambda line: bool(_BULLET.match(line)))


def unfinished_lines(view: TextView) -> float:
    """Return the share of the characters that stand in lines without closing punctuation. FineWeb counts lines.

    A line as long as a paragraph is never counted: it is prose that was cut somewhere. Nor are verses, and lines of
    scripts that end a sentence by a space.
    """
    if without_ends(view.text) or is_verse(view):
        return 0.0
    long = 80 if view.unspaced else 200
    open_lines = sum(len(line) for line in view.lines if len(line) < long and not _ENDS.search(line))
    return ratio(open_lines, sum(map(len, view.lines)))


def is_verse(view: TextView) -> bool:
    """Return whether a text is a poem in stanzas: two or more of some lines, each of a few words, most of which are
    small. A list of names or of what a page links to has shorter lines, or none between them, and its words are
    capital."""
    stanzas = [part.split("\n") for part in view.paragraphs] or [[""]]
    stanzas = stanzas[1:] if len(stanzas[0]) == 1 else stanzas  # a title
    if len(stanzas) < 2 or not all(2 <= len(lines) <= _STANZA for lines in stanzas) or bullet_lines(view) > 0:
        return False
    words = [units(line) for lines in stanzas for line in lines]
    least = 5 if view.unspaced else 3
    if max(map(len, words)) > _VERSE or sum(map(len, words)) < least * len(words):
        return False
    cased = [word for line in words for word in line if word[0].lower() != word[0].upper()]
    return sum(word[0].islower() for word in cased) >= 0.5 * len(cased)


def lettered_words(view: TextView) -> float:
    """Return the share of words that hold a letter; a run of signs is not a word."""
    return ratio(sum(map(has_letter, view.words)), len(view.words))


def letters(view: TextView) -> float:
    """Return the share of letters among all characters but spaces."""
    count = sum(map(str.isalpha, view.text)) + (0 if view.text.isascii() else len(SIGN.findall(view.text)))
    return ratio(count, sum(not char.isspace() for char in view.text))


def capitals(view: TextView) -> float:
    """Return the share of letters that are capitals, 0 to 1."""
    return ratio(sum(map(str.isupper, view.text)), sum(map(str.isalpha, view.text)))


def stop_words(view: TextView) -> float:
    """Return how many different everyday words of English or Chinese the text has; texts under 30 words are let
    pass."""
    known = _STOP_ZH if view.unspaced else _STOP_EN
    return inf if length(view) < 30 else len(known.intersection(view.words))


def vowelless_words(view: TextView) -> float:
    """Return the share of the longer Latin words without a vowel: keyboard noise, scrambled bytes."""
    long = [word for word in view.words if len(word) > 3 and word.isascii() and word.isalpha()]
    return ratio(sum(not re.search("[aeiouy]", word) for word in long), len(long)) if len(long) > 4 else 0.0


def strange_characters(view: TextView) -> float:
    """Replacement, control and private-use characters, and sequences of twice-decoded text, per character."""
    count = len(_STRANGE.findall(view.text)) + 2 * len(_MOJIBAKE.findall(view.text))
    return ratio(count, len(view.text))


def boilerplate_lines(view: TextView) -> float:
    """Return the share of lines that are boilerplate, 0 to 1."""
    return line_share(view, lambda line: len(line) < 200 and bool(_BOILERPLATE.search(line)))


def top_ngram(size: int) -> Callable[[TextView], float]:
    """Measure: share of characters covered by the most frequent n-gram, if it occurs more than twice.

    0 for texts under 50 words, Gopher's shortest: a few sentences about one person must repeat a name.
    """

    def measure(view: TextView) -> float:
        if length(view) < 50:
            return 0.0
        grams = view.grams
        start, count = grams.top(size)
        whole = grams.characters(0, len(view.words))
        return ratio(count * grams.characters(start, size), whole) if count > 2 else 0.0

    measure.__name__ = f"top_{size}_gram"
    return measure


def repeated_ngrams(size: int) -> Callable[[TextView], float]:
    """Measure: share of n-grams that are not the first of their kind. Where units are letters (Thai, Lao, Khmer,
    Myanmar), three of them stand for one: five letters are hardly a word."""

    def measure(view: TextView) -> float:
        span = 3 * size if view.unspaced and 2 * len(_LETTERS_ALONE.findall(view.text)) > len(view.words) else size
        total = view.grams.total(span)
        return ratio(total - view.grams.distinct(span), total)

    measure.__name__ = f"repeated_{size}_grams"
    return measure


def offensive(view: TextView, lists: WordLists | None = None) -> float:
    """Offensive words and phrases per 100 words, each different one counted at most three times."""
    counts = (lists or _packaged()).counts(view.text, view.language)
    return 100 * ratio(sum(min(3, count) for count in counts), max(20.0, length(view)))


@lru_cache(maxsize=1)
def _packaged() -> WordLists:
    return WordLists(packaged_words())


def packaged_words() -> Lists:
    """Return the package's list, English and Chinese, for texts of every language; `""` is its key."""
    with resources.as_file(resources.files("qwenkit.data.filters").joinpath("offensive.txt")) as path:
        return read_lists(path)


DEFAULT_RULES: tuple[Rule, ...] = (
    Rule("length", length, 10, 100_000, "Gopher (50 there)"),
    Rule("strange_characters", strange_characters, 0, 0.005, "CCNet-like; U+FFFD and mojibake"),
    Rule("mean_word_length", mean_word_length, 3, 10, "Gopher", "en"),
    Rule("mean_word_length_other", mean_word_length, 2, 15, "own: Korean words are short, Malayalam long", "spaced"),
    Rule("longest_word", longest_word, 0, 150, "own: keys and base64 (C4: 1000)", "spaced"),
    Rule("symbol_share", symbol_share, 0, 0.1, "Gopher (either sign by itself there)"),
    Rule("bullet_lines", bullet_lines, 0, 0.9, "Gopher (bullets alone there, no numbers)"),
    Rule("ellipsis_lines", ellipsis_lines, 0, 0.3, "Gopher"),
    Rule("unfinished_lines", unfinished_lines, 0, 0.88, "FineWeb (lines there)"),
    Rule("lettered_words", lettered_words, 0.7, 1, "Gopher (0.8 there, signs are words)"),
    Rule("letters", letters, 0.5, 1, "C4-like"),
    Rule("capitals", capitals, 0, 0.4, "own: shouting, tables of codes", "en"),
    Rule("stop_words_en", stop_words, 2, inf, "Gopher (eight words there)", "en"),
    Rule("stop_words_zh", stop_words, 2, inf, "Gopher, for Chinese characters", "zh"),
    Rule("vowelless_words", vowelless_words, 0, 0.3, "own: scrambled letters", "spaced"),
    Rule("boilerplate_lines", boilerplate_lines, 0, 0.3, "C4 (lines cut there)"),
    Rule("repeated_lines", repeated_lines, 0, 0.3, "Gopher"),
    Rule("repeated_line_characters", repeated_line_characters, 0, 0.2, "Gopher"),
    Rule("top_2_gram", top_ngram(2), 0, 0.2, "Gopher", "spaced"),
    Rule("top_3_gram", top_ngram(3), 0, 0.18, "Gopher", "spaced"),
    Rule("top_4_gram", top_ngram(4), 0, 0.16, "Gopher"),
    Rule("repeated_5_grams", repeated_ngrams(5), 0, 0.3, "Gopher (characters and 0.15 there)"),
    Rule("repeated_10_grams", repeated_ngrams(10), 0, 0.2, "Gopher (characters and 0.10 there)"),
    Rule("offensive", offensive, 0, 2.0, "C4 drops at one word of a list; here a rate"),
)

CURATED_RULES = ("strange_characters", "offensive")
"""Rules that also judge text chosen by hand, where sums, tables and verse are meant to be there."""
