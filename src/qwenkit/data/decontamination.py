"""Decontamination (report §2.1, last paragraph): drop documents that share a 13-gram with a test, after GPT-3 (Brown et
al., 2020).

    index = TestIndex(test_texts)
    index.matches(document)  -> spans of the document, each with the test text it overlaps

A gram is 13 units (`units`): words without case and punctuation, single characters of scripts without spaces. A test
text shorter than 13 units, but of at least `shortest`, is matched as a whole: otherwise short tests could never be
found. Numbers in equal steps (1, 2, 3, ...) are counting and belong to no test; other common texts (a factorial, "if
you have any other questions") are recognised by the number of documents that hold them: `common`, which in GPT-3 is
more than 10. The report applies this to instruction data and to the tests it reports; `build_corpus` always does so for
instruction sources, and for all others unless the recipe leaves it out.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qwenkit.data.text_units import (
    Hashes,
    Units,
    among,
    ngram_hashes,
    ngrams_by_size,
    unit_hashes,
    unit_hashes_together,
    units,
)

GRAM, SHORTEST = 13, 8


@dataclass(frozen=True)
class Match:
    """`document[start:stop]` holds a gram of test text number `test`."""

    start: int
    stop: int
    test: int


class TestIndex:
    """All n-grams of the test texts, and which text each came from."""

    __test__ = False  # the name is the field's; this is not a test case

    def __init__(
        self, texts: Iterable[str], gram: int = GRAM, shortest: int = SHORTEST, common: Hashes | None = None
    ) -> None:
        """Index the test texts by n-grams of `gram` units (words, or characters of scripts without spaces).

        A text of `shortest` to `gram` units is one n-gram; shorter ones are left out, and so are the n-grams in
        `common`."""
        self.gram = gram
        self._tests: dict[int, dict[int, int]] = {}  # gram size -> hash -> number of the first text that holds it
        tidied = (unicodedata.normalize("NFC", text.replace("\xad", "")) for text in texts)  # as documents are
        for number, text in enumerate(tidied):
            hashes = unit_hashes(text).hashes
            size = min(gram, len(hashes))
            if size >= min(shortest, gram):
                table = self._tests.setdefault(size, {})
                counting = _counting(text, size)
                for at, value in enumerate(ngram_hashes(hashes, size).tolist()):
                    if at not in counting:
                        table.setdefault(value, number)
        for value in () if common is None else common.tolist():
            for table in self._tests.values():
                table.pop(value, None)
        self._sorted = {size: np.array(sorted(table), dtype=np.uint64) for size, table in self._tests.items()}

    def grams_in(self, document: str) -> Hashes:
        """Return the distinct n-grams of the tests that a document contains, to count document frequencies."""
        by_size = ngrams_by_size(unit_hashes(document).hashes, self._sorted)
        known = [grams[among(grams, self._sorted[size])] for size, grams in by_size]
        return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *known]))

    def holding(self, texts: Sequence[str]) -> list[bool]:
        """Return which of some texts overlap a test, all looked up together."""
        hashed, ends = unit_hashes_together(texts)
        holds = np.zeros(len(texts), dtype=np.bool_)
        for size, grams in ngrams_by_size(hashed.hashes, self._sorted):
            at = np.flatnonzero(among(grams, self._sorted[size]))
            text = np.searchsorted(ends, at, side="right")
            holds[text[text == np.searchsorted(ends, at + size - 1, side="right")]] = True
        return holds.tolist()

    def matches(self, document: str) -> list[Match]:
        """Return the spans of a document that overlap a test; touching spans of one test are joined."""
        hashed = unit_hashes(document)
        ranges = []
        for size, grams in ngrams_by_size(hashed.hashes, self._sorted):
            for at in np.flatnonzero(among(grams, self._sorted[size])).tolist():
                ranges.append((at, at + size, self._tests[size][int(grams[at])]))
        return _joined(sorted(ranges), hashed) if ranges else []


def _counting(text: str, size: int) -> set[int]:
    """Return where the n-grams of a text begin that are numbers in equal steps."""
    numbers = [int(unit) if unit.isdecimal() and len(unit) < 16 else None for unit in units(text)]
    steps = [None if None in pair else pair[1] - pair[0] for pair in itertools.pairwise(numbers)]  # type: ignore[operator]
    runs = (set(steps[at : at + size - 1]) for at in range(len(numbers) - size + 1))
    return {at for at, run in enumerate(runs) if len(run) == 1 and None not in run}


def _joined(ranges: list[tuple[int, int, int]], hashed: Units) -> list[Match]:
    """Return ranges of units as spans of characters, overlapping ones of one test as one."""
    joined: list[list[int]] = []
    for start, stop, test in ranges:
        if joined and joined[-1][2] == test and start <= joined[-1][1]:
            joined[-1][1] = max(stop, joined[-1][1])
        else:
            joined.append([start, stop, test])
    return [Match(int(hashed.starts[start]), int(hashed.stops[stop - 1]), test) for start, stop, test in joined]


def overlap_13gram(training: Iterable[str], tests: Iterable[str]) -> int:
    """Return how many training texts share 13 units with a test text; about a million characters are looked up at a
    time."""
    index, count, size = TestIndex(tests), 0, 0
    together: list[str] = []
    for text in training:
        together.append(text)
        size += len(text)
        if size >= 1 << 20:
            count, size = count + sum(index.holding(together)), 0
            together.clear()
    return count + sum(index.holding(together))
