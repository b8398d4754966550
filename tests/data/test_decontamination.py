"""13-grams: found wherever they are planted, never where they are not, in words and in characters."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.data.decontamination import TestIndex
from qwenkit.data.text_units import units

TEST = "Which river did the ships of the northern lords follow when they brought timber to the town of Aln?"
ZH = "请问北方领主的船只沿着哪一条河流把木材运到小镇的港口？"
FILLER = "Nothing in this sentence has anything to do with it, except that it is long enough to be found."


def test_planted_span_is_found_whatever_its_case_and_punctuation() -> None:
    document = f"{FILLER} WHICH river did the ships, of the Northern lords: follow when they brought timber! {FILLER}"
    [match] = TestIndex([FILLER.upper()[:20], TEST]).matches(document)
    assert match.test == 1
    assert (
        document[match.start : match.stop]
        == "WHICH river did the ships, of the Northern lords: follow when they brought timber"
    )


def test_chinese_by_characters() -> None:
    [match] = TestIndex([ZH]).matches("老师说：“北方领主的船只沿着哪一条河流”是个好问题。")
    assert match.stop - match.start == 14


def test_twelve_shared_words_are_not_enough() -> None:
    words = units(TEST)
    assert TestIndex([TEST]).matches(" ".join(words[:12]) + " " + FILLER) == []
    assert len(TestIndex([TEST]).matches(" ".join(words[:13]) + " " + FILLER)) == 1


def test_short_tests_match_whole_and_very_short_ones_never() -> None:
    index = TestIndex(["The capital of Norland is Aln, they say.", "What is it?"])
    assert len(index.matches(f"{FILLER} the capital of norland is aln they say {FILLER}")) == 1
    assert index.matches("the capital of norland is Bree, they say. What is it?") == []


def test_counting_is_no_overlap_and_other_numbers_are() -> None:
    index = TestIndex(
        ["(1, 2, 3, 4, 5, 6, 7, 8)", "3 1 4 1 5 9 2 6 5", "Count: " + ", ".join(map(str, range(0, 60, 2)))]
    )
    assert index.matches("[[1, 2, 3], [4, 5, 6], [7, 8, 9]] and " + " ".join(map(str, range(0, 60, 2)))) == []
    assert len(index.matches("[3, 1, 4], [1, 5, 9], [2, 6, 5]")) == 1


def test_what_many_documents_hold_can_be_left_out_whatever_its_length() -> None:
    tests = [TEST, "def factorial(n): return n * factorial(n - 1)"]
    common = TestIndex(tests).grams_in(f"{tests[1]} {FILLER}")
    index = TestIndex(tests, common=common)
    assert len(common) == 1 and len(TestIndex(tests).matches(tests[1])) == 1
    assert index.matches(tests[1]) == [] and len(index.matches(TEST)) == 1


def test_wide_letters_and_soft_hyphens_hide_nothing() -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" < char <= "~" else char for char in TEST)
    assert len(TestIndex([TEST]).matches(wide)) == 1 and TestIndex([TEST]).holding([wide]) == [True]
    assert len(TestIndex([TEST.replace("which", "wh\xadich").replace("river", "ri\xadver")]).matches(TEST)) == 1


def test_touching_spans_of_one_test_are_joined() -> None:
    [match] = TestIndex([TEST]).matches(TEST)
    assert (match.start, match.stop) == (0, len(TEST) - 1)


_words = st.lists(st.sampled_from("a b c d e".split()), max_size=40)


@given(_words, _words)
def test_equals_brute_force(document: list[str], test: list[str]) -> None:
    grams = {tuple(test[at : at + 5]) for at in range(len(test) - 4)}
    expected = any(tuple(document[at : at + 5]) in grams for at in range(len(document) - 4))
    assert bool(TestIndex([" ".join(test)], gram=5, shortest=5).matches(" ".join(document))) == expected


def test_no_tests_no_matches() -> None:
    assert TestIndex([]).matches(TEST) == [] and TestIndex([TEST]).matches("") == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=20).map(" ".join), max_size=8))
def test_together_as_one_by_one(texts: list[str]) -> None:
    index = TestIndex(["a b c a b c a", "c c c c a"], gram=5, shortest=3)
    assert index.holding(texts) == [bool(index.matches(text)) for text in texts]


def test_a_test_in_decomposed_letters_is_found() -> None:
    text = "Nguyễn Thị Hồng đã viết một bài báo về lịch sử của thành phố Hồ Chí Minh vào năm ngoái"
    assert TestIndex([unicodedata.normalize("NFD", text)]).matches(text)
