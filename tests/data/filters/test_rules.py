"""Every rule of every set: a text that breaks it and no other of its set, and one a step milder that breaks none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product, zip_longest

import pytest

from qwenkit.data.filters.c4 import bad_words
from qwenkit.data.filters.code import CODE_RULES
from qwenkit.data.filters.default import DEFAULT_RULES
from qwenkit.data.filters.gopher import GOPHER_RULES
from qwenkit.data.filters.rule_sets import RULE_SETS
from qwenkit.data.filters.rules import Rule, TextView, first_broken, measures
from qwenkit.data.filters.word_list import WordLists

SETS = {**RULE_SETS, "code": CODE_RULES}
SETS["c4"] = tuple(
    replace(rule, measure=partial(bad_words, lists=WordLists({"en": ["slut", "one two"]})))
    if rule.name == "c4_bad_words"
    else rule
    for rule in RULE_SETS["c4"]
)


class Words:
    """New words of consonants and vowels in turn, no two alike."""

    def __init__(self) -> None:
        self._made: dict[int, Iterator[tuple[str, ...]]] = {}

    def take(self, number: int, size: int = 6) -> list[str]:
        letters = ["bdfgklmnprstvz", "aeiou"] * size
        made = self._made.setdefault(size, product(*reversed(letters[:size])))
        return ["".join(reversed(next(made))) for _ in range(number)]

    def line(self, number: int = 10, size: int = 6, end: str = ".") -> str:
        return " ".join(self.take(number, size)) + end

    def lines(self, number: int, words: int = 10, size: int = 6) -> list[str]:
        return [self.line(words, size) for _ in range(number)]


def marked(mark: Callable[[str], str], of: int) -> Callable[[int], str]:
    """A text of so many lines, of which the first k are changed."""

    def make(number: int) -> str:
        lines = [*Words().lines(of - 1), "That is the end of it and all of it, as they have said."]
        return "\n".join(mark(line) if n < number else line for n, line in enumerate(lines))

    return make


def mixed(other: Callable[[int], str], total: int, rest: Callable[[int], int] = lambda k: 0) -> Callable[[int], str]:
    """Some words, among which k others stand, none beside another where that can be."""

    def make(number: int) -> str:
        plain, others = Words().take(total - rest(number)), [other(n) for n in range(number)]
        step = max(1, len(plain) // max(1, number))
        parts = [plain[n : n + step] for n in range(0, len(plain), step)]
        pairs = zip_longest(parts, others[: len(parts)], fillvalue=())
        found = [word for part, one in pairs for word in (*part, *([one] if one else []))]
        return " ".join([*found, *others[len(parts) :], "the", "of", "it."])

    return make


def repeated(size: int, unique: int = 100) -> Callable[[int], str]:
    """One phrase of so many words, k times among other words."""

    def make(number: int) -> str:
        words = Words()
        phrase = words.take(size)
        spread = [*([unique // number] * (number - 1)), unique - (number - 1) * (unique // number)]
        return " ".join(word for length in spread for word in (*words.take(length), *phrase)) + " the of it."

    return make


def twice(size: int, phrases: int = 4, end: str = "") -> Callable[[int], str]:
    """Some phrases of so many words, each twice, never beside the same words; k other words in all."""

    def make(unique: int) -> str:
        words = Words()
        found = [words.take(size) for _ in range(phrases)]
        gaps = [unique // (2 * phrases)] * (2 * phrases)
        gaps[0] += unique - sum(gaps)
        text = [word for gap, phrase in zip(gaps, found * 2) for word in (*words.take(gap), *phrase)]
        return "\n".join(" ".join(text[n : n + 17]) + end for n in range(0, len(text), 17)) + " the of it."

    return make


def short_lines_again(number: int, by: str = "\n", inside: int = 1) -> str:
    """Of ten paragraphs so many are a short one that was there."""
    words = Words()
    long = ["\n".join(words.lines(inside)) for _ in range(9 - number)]
    short = ["Ab."] * (number + 1)
    return "The end of it: " + by.join(part for pair in zip_longest(long, short, fillvalue="") for part in pair if part)


def long_line_again(number: int, among: int = 10) -> str:
    words = Words()
    line = words.line(number)
    return "\n".join([line, *words.lines(among - 1), "That is the end of it, and that was all of it.", line])


def four_words_again(number: int) -> str:
    """Lines of four long words, each twice, among lines of so many words."""
    words = Words()
    again = [words.line(4, 10) for _ in range(6)]
    other = words.lines(11, number)
    return "\n".join(part for pair in zip(again * 2, [*other, "the of"]) for part in pair)


def short_paragraphs_again(number: int) -> str:
    """Paragraphs of four lines of a word, each twice, among others of so many characters."""
    words = Words()
    again = ["\n".join(words.take(4, 4)) for _ in range(6)]
    other = [f"{a} {b}" for a, b in zip(["that", "with", *words.take(34, 4)], words.take(36, number - 5))]
    parts = zip_longest(again * 2, zip(*[iter(other)] * 3), fillvalue=())
    return "\n\n".join(text for paragraph, three in parts for text in (paragraph, *three))


def han(number: int) -> str:
    stop = "的一是不了在有人我他这为之大来以个中上们到说和地也"
    plain = [chr(code) for code in range(0x4E00, 0x4E80) if chr(code) not in stop]
    return "".join(plain[:80]) + "的是"[:number] + "。"


SOME = Words().take(100)
# set, rule, how a text is made, the value that breaks the rule, the value that just does not
CASES: list[tuple[str, str, Callable[..., str], object, object]] = [
    ("own", "length", lambda n: Words().line(n), 9, 10),
    ("own", "strange_characters", lambda n: Words().line(140) + " the of" + "\ufffd" * n, 6, 4),
    ("own", "mean_word_length", lambda n: Words().line(60, n) + " the of it.", 2, 4),
    ("own", "mean_word_length", lambda n: Words().line(60, n) + " the of it.", 11, 10),
    ("own", "mean_word_length_other", lambda n: Words().line(60, n) + " the of it.", 17, 15),
    ("own", "longest_word", lambda n: Words().line(100) + " the of " + "a" * n, 151, 150),
    ("own", "symbol_share", mixed(lambda n: "#", 98), 11, 10),
    ("own", "bullet_lines", marked(lambda line: f"1. {line}", 20), 19, 18),
    ("own", "ellipsis_lines", marked(lambda line: line + "..", 10), 4, 3),
    ("own", "unfinished_lines", marked(lambda line: line[:-1], 50), 45, 43),
    ("own", "lettered_words", mixed(str, 98, lambda k: k), 31, 30),
    ("own", "letters", lambda n: " ".join(word + "!" * n for word in SOME) + " the of", 7, 6),
    ("own", "capitals", mixed(lambda n: f"{SOME[n]}x".upper(), 100, lambda k: k), 45, 35),
    ("own", "stop_words_en", lambda n: " ".join([*SOME, "the", "of"][: 100 + n]) + ".", 1, 2),
    ("own", "stop_words_zh", han, 1, 2),
    ("own", "vowelless_words", mixed(lambda n: f"zk{'bcd'[n % 3]}{'dfghjklmnpqrs'[n // 3]}", 100, lambda k: k), 31, 30),
    ("own", "boilerplate_lines", marked(lambda line: f"All rights reserved, {line}", 10), 4, 3),
    ("own", "repeated_lines", short_lines_again, 4, 3),
    ("own", "repeated_line_characters", long_line_again, 36, 28),
    ("own", "top_2_gram", repeated(2), 13, 12),
    ("own", "top_3_gram", repeated(3), 8, 7),
    ("own", "top_4_gram", repeated(4), 5, 4),
    ("own", "repeated_5_grams", lambda n: twice(n, 12, ".")(24), 14, 11),
    ("own", "repeated_10_grams", twice(100, 1, "."), 240, 265),
    ("own", "offensive", lambda n: " ".join([*SOME, "the", "moron", "idiot", "stupid"][: 101 + n]) + " of.", 3, 2),
    ("gopher", "gopher_length", lambda n: Words().line(n - 2) + " the of", 49, 50),
    ("gopher", "gopher_mean_word_length", lambda n: Words().line(60, n) + " the of", 2, 4),
    ("gopher", "gopher_mean_word_length", lambda n: Words().line(60, n) + " the of", 11, 10),
    ("gopher", "gopher_symbols", mixed(lambda n: "#", 98), 12, 11),
    ("gopher", "gopher_symbols", mixed(lambda n: "…", 98), 12, 11),
    ("gopher", "gopher_bullet_lines", marked(lambda line: f"- {line}", 20), 19, 18),
    ("gopher", "gopher_ellipsis_lines", marked(lambda line: line + "..", 10), 4, 3),
    ("gopher", "gopher_lettered_words", mixed(lambda n: "***", 98), 26, 25),
    ("gopher", "gopher_stop_words", lambda n: " ".join([*SOME, "the", "of"][: 100 + n]), 1, 2),
    ("gopher", "gopher_repeated_lines", short_lines_again, 4, 3),
    ("gopher", "gopher_repeated_line_characters", four_words_again, 9, 12),
    ("gopher", "gopher_repeated_paragraphs", partial(short_lines_again, by="\n\n", inside=3), 4, 3),
    ("gopher", "gopher_repeated_paragraph_characters", short_paragraphs_again, 9, 10),
    ("gopher", "gopher_top_2_gram", repeated(2), 16, 13),
    ("gopher", "gopher_top_3_gram", repeated(3), 9, 7),
    ("gopher", "gopher_top_4_gram", repeated(4), 6, 4),
    ("gopher", "gopher_repeated_5_grams", twice(5), 68, 80),
    ("gopher", "gopher_repeated_6_grams", twice(6), 92, 106),
    ("gopher", "gopher_repeated_7_grams", twice(7), 120, 136),
    ("gopher", "gopher_repeated_8_grams", twice(8), 156, 174),
    ("gopher", "gopher_repeated_9_grams", twice(9), 198, 220),
    ("gopher", "gopher_repeated_10_grams", twice(10), 248, 276),
    ("c4", "c4_sentences", lambda n: "\n".join([*Words().lines(n), "a line with no end to it"]), 2, 3),
    ("c4", "c4_sentences", lambda end: "\n".join(line + end for line in Words().lines(3)), "..", "[2]"),
    ("c4", "c4_lorem_ipsum", lambda word: "\n".join([*Words().lines(3), f"Lorem {word}"]), "ipsum", "dolor"),
    ("c4", "c4_braces", lambda sign: "\n".join([*Words().lines(3), f"a {sign} b"]), "{", "("),
    ("c4", "c4_bad_words", lambda word: "\n".join([*Words().lines(3), f"A {word}."]), "Slut", "slutty"),
    ("c4", "c4_bad_words", lambda word: "\n".join([*Words().lines(3), word]), "one\ntwo", "one, two"),
    ("fineweb", "fineweb_closed_lines", marked(lambda line: line[:-1], 26), 23, 22),
    ("fineweb", "fineweb_short_lines", marked(lambda line: line[:20] + ".", 100), 68, 67),
    ("fineweb", "fineweb_repeated_line_characters", partial(long_line_again, among=80), 12, 7),
    ("fineweb", "fineweb_lines_per_word", lambda n: "\n".join(Words().lines(30, n, 12)), 3, 4),
    ("code", "code_mean_line", lambda n: "\n".join(Words().take(20, n)), 3, 4),
    ("code", "code_mean_line", lambda n: "\n".join(Words().take(20, n)), 101, 100),
    ("code", "code_longest_line", lambda n: "\n".join([*SOME, "x" * n]), 1001, 1000),
    ("code", "code_alphanumeric", lambda n: "\n".join(["aa" + "+" * n] * 20), 6, 5),
    ("code", "code_generated", lambda n: "\n".join(["import this"] * n + ["# Do not edit."]), 4, 5),
]  # fmt: skip


def broken(rules: tuple[Rule, ...], text: str, language: str) -> list[str]:
    attributes = measures(TextView(text, language), rules)
    return [rule.name for rule in rules if first_broken(attributes, [rule])]


@pytest.mark.parametrize(
    ("name", "rule", "make", "trips", "spares"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_rule_is_broken_alone_and_just_not(
    name: str, rule: str, make: Callable[..., str], trips: object, spares: object
) -> None:
    ends = {"_zh": "zh", "_other": "ko"}
    language = "code" if name == "code" else next((ends[end] for end in ends if rule.endswith(end)), "en")
    assert broken(SETS[name], make(trips), language) == [rule]
    assert broken(SETS[name], make(spares), language) == []


def test_every_rule_has_its_case() -> None:
    assert {rule for _, rule, *_ in CASES} == {rule.name for rules in SETS.values() for rule in rules}


def test_numbered_lines_are_no_bullets_of_gopher() -> None:
    text = marked(lambda line: f"1. {line}", 20)(20)
    assert broken(GOPHER_RULES, text, "en") == [] and "bullet_lines" in broken(DEFAULT_RULES, text, "en")


@pytest.mark.parametrize("text", ["", "one", "two words", "a b c", "\n", "的", "。" * 9])
def test_texts_too_short_for_a_measure_are_measured(text: str) -> None:
    for rule in (rule for rules in SETS.values() for rule in rules):
        assert rule.measure(TextView(text, "en")) >= 0
