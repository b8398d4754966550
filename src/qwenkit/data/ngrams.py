"""How often a text repeats itself: n-grams of its words, counted by sorting their hashes.

    grams = NgramStats(["to", "be", "or", "not", "to", "be"])
    grams.distinct(2), grams.total(2)      -> 4, 5
    grams.top(2)                           -> 0, 2: the most frequent is words[0:2], and stands there twice
    grams.repeated(2)                      -> 4: characters in 2-grams that stood before

Every repetition rule (Gopher's, and ours after them) uses one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwenkit.data.text_units import Hashes, among, mix, ngrams_by_size


class NgramStats:
    """The n-grams of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        """Number the distinct words, so that equal words have equal hashes."""
        numbers: dict[str, int] = {}
        codes = np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), np.uint64, len(words))
        self._words = mix(codes + np.uint64(1))
        self._ends = np.cumsum([0, *map(len, words)])
        self._hashes: dict[int, Hashes] = {}
        self._sorted: dict[int, Hashes] = {}
        self._places = {0: np.arange(len(words))}  # by size, where n-grams begin that occur twice

    def hashes(self, size: int) -> Hashes:
        """Return a number for each n-gram of `size` words in order, equal for equal n-grams."""
        if size not in self._hashes:
            self._hashes[size] = dict(ngrams_by_size(self._words, {size})).get(size, self._words[:0])
        return self._hashes[size]

    def total(self, size: int) -> int:
        """Return the number of n-grams."""
        return max(0, len(self._words) - size + 1)

    def distinct(self, size: int) -> int:
        """Return the number of distinct n-grams."""
        order = self._in_order(size)
        return len(order) and 1 + int(np.count_nonzero(order[1:] != order[:-1]))

    def top(self, size: int) -> tuple[int, int]:
        """Return where the most frequent n-gram (the first of several) begins, and how often it occurs; (0, 0) where
        there is none."""
        order = self._in_order(size)
        if not len(order):
            return 0, 0
        starts = np.flatnonzero(np.concatenate([[True], order[1:] != order[:-1]]))
        counts = np.diff(starts, append=len(order))
        best = order[starts[counts == counts.max()]]
        return int(np.flatnonzero(among(self.hashes(size), best))[0]), int(counts.max())

    def characters(self, start: int, size: int) -> int:
        """Return the characters of an n-gram's words, without what stands between them."""
        return int(self._ends[start + size] - self._ends[start])

    def repeated(self, size: int) -> int:
        """Return the characters in n-grams that repeat an earlier one; none is counted twice, as the next n-gram begins
        after it.

        An n-gram that repeats at one size also repeats at every smaller size, so after the smallest few places are
        looked at."""
        hashes, order = self.hashes(size), self._in_order(size)
        places = self._places[max(known for known in self._places if known < size)]
        places = places[places < len(hashes)]
        self._places[size] = places = places[among(hashes[places], order[1:][order[1:] == order[:-1]])]
        return self._walk(places.tolist(), hashes[places].tolist(), size)

    def _walk(self, places: list[int], keys: list[int], size: int) -> int:
        known: set[int] = set()
        free = characters = 0
        for place, key in zip(places, keys):
            if place < free:
                continue
            if key in known:
                characters += self.characters(place, size)
                free = place + size
            known.add(key)
        return characters

    def _in_order(self, size: int) -> Hashes:
        if size not in self._sorted:
            self._sorted[size] = np.sort(self.hashes(size))
        return self._sorted[size]
