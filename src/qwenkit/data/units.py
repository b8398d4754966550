"""The unit of text that every overlap is counted in: words, and single characters of scripts without spaces.

Shingles (deduplication, section 2.1), 13-grams (decontamination, section 3.1 of GPT-3, cited there), the learned filter
and the repetition rules all see a text as this one sequence of units, so Chinese and English are measured alike.
`units` gives them as texts, `unit_hashes` as 64-bit numbers with their places, from whole arrays of code points at
once: ten times as fast. Hashes are the same on every machine, unlike `hash`; n-grams are hashed by splitmix64 over
those of their units.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Han, kana, Thai, Lao, Myanmar, Khmer: written without spaces, so a unit is one character.
UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PLACE = np.uint64(0xA0761D6478BD642F)


def normalise(text: str) -> str:
    """One form for comparing: NFKC, case folded, every run of white space one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def units(text: str) -> list[str]:
    """Words (runs of letters, digits, marks) and single characters of scripts without spaces; punctuation is left."""
    return _UNIT.findall(text)


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text belong to scripts without spaces."""
    return 2 * len(_UNSPACED.findall(text)) > sum(map(str.isalpha, text))


def mix(state: Hashes) -> Hashes:
    """The splitmix64 finaliser: every input bit reaches every output bit."""
    state = (state ^ (state >> np.uint64(30))) * _M1
    state = (state ^ (state >> np.uint64(27))) * _M2
    return state ^ (state >> np.uint64(31))


class Units(NamedTuple):
    """The units of a text as numbers: unit `i` is `text[starts[i]:stops[i]]`."""

    hashes: Hashes
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]


@lru_cache(maxsize=1)
def _classes() -> npt.NDArray[np.uint8]:
    """Of every code point: 0 stands in no unit, 1 in a word, 2 is a unit by itself."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    classes = np.zeros(len(everything), dtype=np.uint8)
    for match in re.finditer(r"\w+", everything):
        classes[match.start() : match.end()] = 1
    for match in _UNSPACED.finditer(everything):
        classes[match.start()] = 2
    return classes


@lru_cache(maxsize=1)
def _longer() -> dict[int, str]:
    """Characters whose folding is longer than one, with its first."""
    everything = (chr(code) for code in range(sys.maxunicode + 1))
    return {ord(char): char.casefold()[0] for char in everything if len(char.casefold()) > 1}


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def unit_hashes_together(texts: Sequence[str]) -> tuple[Units, npt.NDArray[np.int64]]:
    """The units of some texts, hashed as one long text, and where each text's units end: for many short texts."""
    units = unit_hashes("\n".join(texts))
    return units, np.searchsorted(units.starts, np.cumsum([len(text) + 1 for text in texts]))


def unit_hashes(text: str) -> Units:
    """Hashes and places of all units, case folded. Of a folding longer than one character the first counts."""
    folded = text.casefold()
    if len(folded) != len(text):
        folded = text.translate(_longer()).casefold()
    codes = _codes(folded)
    classes = _classes()[_codes(text)]
    before = np.concatenate([[np.uint8(0)], classes[:-1]]) if len(classes) else classes
    starts = np.flatnonzero((classes == 2) | ((classes == 1) & (before != 1)))
    if not len(starts):
        return Units(np.empty(0, dtype=np.uint64), starts, starts)
    inside = np.flatnonzero(classes)
    first = np.searchsorted(inside, starts)
    counts = np.diff(np.append(first, len(inside)))
    places = np.arange(len(inside), dtype=np.uint64) - np.repeat(first.astype(np.uint64), counts)
    with np.errstate(over="ignore"):
        terms = mix(codes[inside].astype(np.uint64) * _GOLDEN + places * _PLACE)
        return Units(mix(np.add.reduceat(terms, first)), starts, starts + counts)


def ngram_hashes(hashes: Hashes, size: int) -> Hashes:
    """64-bit hashes of all n-grams in order; a text shorter than `size` is one n-gram of all it has."""
    size = min(size, len(hashes))
    if size == 0:
        return np.empty(0, dtype=np.uint64)
    return dict(ngrams_by_size(hashes, {size}))[size]


def ngrams_by_size(hashes: Hashes, sizes: Collection[int]) -> Iterator[tuple[int, Hashes]]:
    """(size, hashes of its n-grams in order) for every wanted size, in one pass: an n-gram's hash is made from that of
    the one shorter by a unit. A text shorter than a size has none of it."""
    state = np.full(len(hashes), _GOLDEN, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for size in range(1, min(len(hashes), max(sizes, default=0)) + 1):
            count = len(hashes) - size + 1
            state = mix(state[:count] * np.uint64(3) + hashes[size - 1 :] + _GOLDEN)
            if size in sizes:
                yield size, state
