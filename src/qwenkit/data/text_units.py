"""The unit of text that every overlap is counted in: words, and single characters of scripts without spaces.

Shingles (deduplication, section 2.1), 13-grams (decontamination, section 3.1 of GPT-3, cited there), the learned filter
and the repetition rules all see a text as this one sequence of units, so Chinese and English are measured alike.
`units` gives them as texts, `unit_hashes` as 64-bit numbers with their places, `normal_hashes` those of some texts in
normal form: both look whole arrays of code points up in tables. Hashes are the same on every machine, unlike `hash`:
that of a unit sums over its characters a random number of the character times one of its place, that of an n-gram is a
polynomial in those of its units; both end in splitmix64.
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
_MARKS = "".join(  # vowel signs and accents, which `\w` leaves out; selectors of emoji are none
    chr(code)
    for code in range(0x300, 0x20000)
    if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F
)
_SIGNS = re.sub(f"[{UNSPACED}]", "", _MARKS)  # those that are part of words, and no units by themselves
_UNIT = re.compile(rf"[{UNSPACED}]|(?:[^\W{UNSPACED}]|[{_SIGNS}])+")
_UNSIGNED = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")  # the same where no sign is: three times as fast
_UNSPACED = re.compile(rf"[{UNSPACED}]")
SIGN = re.compile(f"[{_MARKS}]")
_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PLACES = 4096  # later characters of a unit take the numbers of places from the beginning again
_ORDINARY = 0x32400  # no character above has another form


def normalise(text: str) -> str:
    """One form for comparing: NFKC, case folded, every run of white space one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(_form(text).split())


def _form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def units(text: str) -> list[str]:
    """Words (runs of letters, digits, marks) and single characters of scripts without spaces; punctuation is left."""
    return (_UNSIGNED if text.isascii() or not SIGN.search(text) else _UNIT).findall(text)


def is_unspaced(text: str) -> bool:
    """Return whether most letters of a text belong to scripts without spaces."""
    return 2 * len(_UNSPACED.findall(text)) > sum(map(str.isalpha, text))


def mix(state: Hashes) -> Hashes:
    """Return the splitmix64 finaliser: every input bit reaches every output bit."""
    state = (state ^ (state >> np.uint64(30))) * _M1
    state = (state ^ (state >> np.uint64(27))) * _M2
    return state ^ (state >> np.uint64(31))


class Units(NamedTuple):
    """The units of a text as numbers: unit `i` is `text[starts[i]:stops[i]]`."""

    hashes: Hashes
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]


class _Table(NamedTuple):
    """Of every code point: what it is in a text, what it counts for in a hash (0 outside units), and whether its form
    depends on its neighbours or is longer than one character."""

    kinds: npt.NDArray[np.uint8]
    numbers: Hashes
    odd: npt.NDArray[np.bool_]


_NONE, _WORD, _WHOLE = range(3)  # stands in no unit; in a word; is a unit by itself


@lru_cache(maxsize=1)
def _plain() -> npt.NDArray[np.uint8]:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    kinds = np.zeros(len(everything), dtype=np.uint8)
    for match in re.finditer(rf"[\w{_SIGNS}]+", everything):
        kinds[match.start() : match.end()] = _WORD
    for match in _UNSPACED.finditer(everything):
        kinds[match.start()] = _WHOLE
    return kinds


@lru_cache(maxsize=1)
def _folded() -> _Table:
    """Characters as they stand, counted as their normal form; where that is longer, as the first of their folding."""
    codes = np.arange(sys.maxunicode + 1)
    forms = ((code, _form(chr(code))) for code in range(_ORDINARY))
    codes[:_ORDINARY] = [ord(form if len(form) == 1 else chr(code).casefold()[0]) for code, form in forms]
    return _table(_plain(), codes, np.zeros(len(codes), dtype=np.bool_))


@lru_cache(maxsize=1)
def _normal() -> _Table:
    """Characters as what `normalise` makes of them. Odd are those that join with or move past others, and those that
    become several of which one is in a unit."""
    kinds, codes = _plain(), np.arange(sys.maxunicode + 1)
    odd = np.zeros(len(codes), dtype=np.bool_)
    odd[0x1160:0x1200] = True  # parts of Korean syllables
    for code in range(_ORDINARY):
        form = _form(chr(code))
        if len(form) == 1:
            codes[code] = ord(form)
        elif any(kinds[ord(char)] for char in form):
            odd[code] = True
        else:
            codes[code] = ord(" ")
        pair = unicodedata.decomposition(chr(code)).split()
        if len(pair) == 2 and "<" not in pair[0]:
            odd[int(pair[1], 16)] = True
        odd[code] |= unicodedata.combining(chr(code)) > 0
    codes[odd] = np.flatnonzero(odd)
    return _table(kinds[codes], codes, odd)


def _table(kinds: npt.NDArray[np.uint8], codes: npt.NDArray[np.int64], odd: npt.NDArray[np.bool_]) -> _Table:
    with np.errstate(over="ignore"):
        return _Table(kinds, np.where(kinds == _NONE, np.uint64(0), mix(codes.astype(np.uint64) * _GOLDEN)), odd)


@lru_cache(maxsize=1)
def _places() -> Hashes:
    """An odd number for each place of a character in its unit."""
    with np.errstate(over="ignore"):
        return mix(np.arange(1, _PLACES + 1, dtype=np.uint64) * _M1) | np.uint64(1)


def _codes(text: str) -> npt.NDArray[np.intp]:
    """Code points, as what tables are indexed by fastest."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.intp)


def _hashed(codes: npt.NDArray[np.intp], table: _Table) -> Units:
    """The units among some characters."""
    kinds = table.kinds[codes]
    alone, inner = kinds == _WHOLE, kinds == _WORD
    first, last = inner.copy(), inner.copy()
    first[1:] &= ~inner[:-1]
    last[:-1] &= ~inner[1:]
    starts, stops = np.flatnonzero(alone | first), np.flatnonzero(alone | last) + 1
    if not len(starts):
        return Units(np.empty(0, dtype=np.uint64), starts, starts)
    begin = int(starts[0])
    places = np.arange(begin, len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    with np.errstate(over="ignore"):
        terms = table.numbers[codes[begin:]] * _places()[places & (_PLACES - 1)]
        return Units(mix(np.add.reduceat(terms, starts - begin)), starts, stops)


def unit_hashes(text: str) -> Units:
    """Hashes and places of all units, in normal form as far as a character has one of one character."""
    return _hashed(_codes(text), _folded())


def among(values: npt.NDArray[np.integer], known: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return which values are in a sorted array."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def unit_hashes_together(texts: Sequence[str]) -> tuple[Units, npt.NDArray[np.int64]]:
    """Return the units of some texts, hashed as one long text, and where each text's units end: for many short
    texts."""
    units = unit_hashes("\n".join(texts))
    return units, _ends(units, texts)


def normal_hashes(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return the same of the texts in normal form, without places: `unit_hashes(normalise(text)).hashes` of each."""
    table, codes = _normal(), _codes("\n".join(texts))
    if len(at := np.flatnonzero(table.odd[codes])):
        owners = set(np.searchsorted(np.cumsum([len(text) + 1 for text in texts]), at, side="right").tolist())
        texts = [normalise(text) if number in owners else text for number, text in enumerate(texts)]
        codes = _codes("\n".join(texts))
    units = _hashed(codes, table)
    return units.hashes, _ends(units, texts)


def _ends(units: Units, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.searchsorted(units.starts, np.cumsum([len(text) + 1 for text in texts]))


def ngram_hashes(hashes: Hashes, size: int) -> Hashes:
    """64-bit hashes of all n-grams in order; a text shorter than `size` is one n-gram of all it has."""
    size = min(size, len(hashes))
    if size == 0:
        return np.empty(0, dtype=np.uint64)
    return dict(ngrams_by_size(hashes, {size}))[size]


def ngrams_by_size(hashes: Hashes, sizes: Collection[int]) -> Iterator[tuple[int, Hashes]]:
    """Yield (size, hashes of its n-grams in order) for every wanted size, in one pass: an n-gram's number is made from
    that of the one shorter by a unit. A text shorter than a size has none of it."""
    state = np.zeros(len(hashes), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for size in range(1, min(len(hashes), max(sizes, default=0)) + 1):
            state = state[: len(hashes) - size + 1] * _GOLDEN + hashes[size - 1 :]
            if size in sizes:
                yield size, mix(state)
