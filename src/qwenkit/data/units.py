"""The unit of text that every overlap is counted in: words, and single characters of scripts without spaces.

Shingles (deduplication, section 2.1), 13-grams (decontamination, section 3.1 of GPT-3, cited there) and the repetition
rules all see a text as this one sequence of units, so Chinese and English are measured alike. A unit is hashed with
CRC-32 (the same on every machine, unlike `hash`) and an n-gram with splitmix64 over its units' hashes.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Collection, Iterator

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
_crc: dict[str, int] = {}


def normalise(text: str) -> str:
    """One form for comparing: NFKC, case folded, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def units(text: str) -> list[str]:
    """Words (runs of letters, digits, marks) and single characters of scripts without spaces; punctuation is left."""
    return _UNIT.findall(text)


def unit_spans(text: str) -> list[tuple[int, int]]:
    """The character range of every unit."""
    return [match.span() for match in _UNIT.finditer(text)]


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text belong to scripts without spaces."""
    return 2 * len(_UNSPACED.findall(text)) > sum(map(str.isalpha, text))


def mix(state: Hashes) -> Hashes:
    """The splitmix64 finaliser: every input bit reaches every output bit."""
    state = (state ^ (state >> np.uint64(30))) * _M1
    state = (state ^ (state >> np.uint64(27))) * _M2
    return state ^ (state >> np.uint64(31))


def _crc32(unit: str) -> int:
    value = _crc.get(unit)
    if value is None:
        if len(_crc) > 1_000_000:
            _crc.clear()
        value = _crc[unit] = zlib.crc32(unit.encode("utf-8", "surrogatepass"))
    return value


def unit_hashes(words: list[str]) -> Hashes:
    """CRC-32 of every unit."""
    return np.fromiter(map(_crc32, words), dtype=np.uint64, count=len(words))


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
