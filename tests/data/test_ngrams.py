"""Repetition by sorted hashes equals repetition by counting tuples."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from qwenkit.data.ngrams import NgramStats


def counted(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[offset:] for offset in range(size))))


def walked(words: list[str], size: int) -> int:
    seen: set[tuple[str, ...]] = set()
    at = characters = 0
    while at + size <= len(words):
        gram = tuple(words[at : at + size])
        characters += sum(map(len, gram)) if gram in seen else 0
        at += size if gram in seen else 1
        seen.add(gram)
    return characters


@given(st.lists(st.sampled_from("a bb ccc".split()), max_size=60), st.integers(1, 6))
def test_counts(words: list[str], size: int) -> None:
    grams, counts = NgramStats(words), counted(words, size)
    assert (grams.distinct(size), grams.total(size)) == (len(counts), counts.total())
    start, count = grams.top(size)
    gram, expected = counts.most_common(1)[0] if counts else ((), 0)
    assert count == expected and tuple(words[start : start + size if counts else 0]) == gram
    assert not counts or grams.characters(start, size) == sum(map(len, gram))


@given(st.lists(st.sampled_from("a bb ccc".split()), max_size=60))
def test_characters_in_what_stood_before(words: list[str]) -> None:
    grams = NgramStats(words)
    for size in (3, 2, 5, 4, 5):
        assert grams.repeated(size) == walked(words, size)
