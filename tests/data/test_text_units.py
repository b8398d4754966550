"""Units and n-gram hashes: one measure for English and Chinese."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.data.text_units import is_unspaced, ngram_hashes, normal_hashes, normalise, unit_hashes, units


def test_words_and_characters_are_units() -> None:
    assert units("Hello, 世界! It's 3.5 km") == ["Hello", "世", "界", "It", "s", "3", "5", "km"]


@settings(deadline=None)  # the table of characters is made at the first use
@given(st.text())
def test_spans_are_the_units(text: str) -> None:
    assert [text[start:stop] for start, stop in zip(*unit_hashes(text)[1:])] == units(text)


@given(st.text())
def test_normalising_twice_changes_nothing_but_case_folding_of_compositions(text: str) -> None:
    once = normalise(text)
    assert "  " not in once and once == once.strip()


@settings(deadline=None)
@given(st.lists(st.text(st.one_of(st.characters(), st.sampled_from("éﬁ½…ß\u0301\u1161\u11a8\u037aİＡ가")))))
def test_texts_together_are_hashed_as_each_in_normal_form(texts: list[str]) -> None:
    hashes, ends = normal_hashes(texts)
    apart = [unit_hashes(normalise(text)).hashes.tolist() for text in texts]
    assert [part.tolist() for part in np.split(hashes, ends)[:-1]] == apart


def test_hashes_are_the_same_in_every_process() -> None:
    hashes = ngram_hashes(unit_hashes("the quick brown fox jumps over").hashes, 5)
    assert len(hashes) == 2
    assert hashes.tolist() == ngram_hashes(unit_hashes("the quick brown fox jumps over").hashes, 5).tolist()
    assert unit_hashes("The FOX, a fox").hashes.tolist()[1::2] == [0x551AF9F163CA7F53] * 2


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30), st.integers(1, 6))
def test_equal_ngrams_have_equal_hashes_and_others_differ(words: list[str], size: int) -> None:
    hashes = ngram_hashes(unit_hashes(" ".join(words)).hashes, size)
    grams = list(zip(*(words[offset:] for offset in range(min(size, max(1, len(words)))))))
    assert len(hashes) == len(grams)
    assert len(np.unique(hashes)) == len(set(grams))


def test_scripts_without_spaces() -> None:
    assert is_unspaced("今天天气很好 OK") and is_unspaced("สวัสดีชาวโลก") and not is_unspaced("hello 世界 and more")


def test_vowel_signs_are_parts_of_words() -> None:
    """Without them an Indic word falls into its consonants: words that differ are equal, and all words are short."""
    assert units("हिन्दी में लिखा") == ["हिन्दी", "में", "लिखा"]
    assert unit_hashes("काला").hashes.tolist() != unit_hashes("कीली").hashes.tolist()
    assert units("I ❤️ it") == ["I", "it"]
