"""Near duplicates by MinHash (Broder, 1997) and LSH (report §2.1, step 4), in memory; `minhash_dedup` does the same
over files.

    near_duplicates(texts, threshold=0.8)   -> clusters of indices, each sorted, ordered by their first member

The report names the method, not its parameters. Ours: 5-shingles of units (`text_units`: words, characters of scripts
without spaces), signatures of at most 128 values in the most selective banding that finds a pair exactly at the
threshold with probability 0.995 or more (`bands_for`: at 0.8 that is 21 bands of 6 rows, so 126 values), every found
pair verified by its exact Jaccard similarity. So there are no false pairs, and the answer is the same on every machine.
A cluster is a connected component: a chain of small edits ends in one cluster.

Signatures are fast similarity sketches (Dahlgaard, Knudsen and Thorup, "Fast Similarity Sketching", FOCS 2017): each
value of two texts is equal with the probability of their similarity, as with 128 permutations (Broder's MinHash), but
a shingle is thrown into one bin instead of being compared in all of them.

Texts are hashed many at a time (`sketches`), because numpy's calls cost more than a short text's work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenkit.data.dedup.exact import exact_digest
from qwenkit.data.text_units import Hashes, mix, ngram_hashes, normal_hashes
from qwenkit.errors import UserError

SHINGLE, VALUES, RECALL = 5, 128, 0.995
_BATCH = 100_000  # characters
_THROWS, _EMPTY = 8, np.uint32(0xFFFFFFFF)
_MOST_NEIGHBOURS = 16
_SEED = 20230928  # fixed: signatures of two corpora can be compared


def near_duplicates(texts: Iterable[str], threshold: float = 0.8) -> list[list[int]]:
    """Return the clusters of texts that are linked by pairs whose shingles have a Jaccard similarity of at least
    `threshold`.

    Each cluster is a sorted list of indices. Raises a `UserError` for texts that are not strings, or a threshold that
    is not above 0 and at most 1."""
    texts = _checked(texts, threshold)
    _, keys = sketches(texts, threshold)
    shingles = lru_cache(maxsize=100_000)(lambda index: shingle(texts[index]))
    parent = list(range(len(texts)))
    join((bucket for column in keys.T for bucket in buckets(column)), shingles, threshold, parent)
    return clusters_of(parent)


def clusters_of(parent: list[int]) -> list[list[int]]:
    """Return the groups of a union-find forest that have more than one member."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        members[_root(parent, index)].append(index)
    return [cluster for _, cluster in sorted(members.items()) if len(cluster) > 1]


def _checked(texts: Iterable[str], threshold: float) -> list[str]:
    """Return the texts as a list; raises a `UserError` for other values and an impossible threshold."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
        raise UserError(f"threshold = {threshold!r}", expected="a number above 0 and at most 1")
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise UserError(
            f"texts = {texts!r:.40}", expected="strings, one after the other", hint="near_duplicates([text])"
        )
    result = list(texts)
    for index, text in enumerate(result):
        if not isinstance(text, str):
            raise UserError(f"text {index} is {text!r:.40}", expected="a string")
    return result


def shingle(text: str) -> Hashes:
    """Return the sorted distinct hashes of a text's 5-shingles."""
    return np.unique(ngram_hashes(normal_hashes([text])[0], SHINGLE))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Return the size of the intersection over the size of the union of two sorted sets."""
    if min(len(left), len(right)) == 0:
        return 0.0
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)


def sketches(texts: Sequence[str], threshold: float, near: bool = True, strict: bool = False) -> tuple[Hashes, Hashes]:
    """Return the exact key [texts, 2] and the band keys [texts, bands] of each text.

    Texts that agree in any band are candidates. A key of 0 belongs to a text without units, and band keys are 0 where
    `near` is false. A `strict` exact key ignores spacing only: in a sum or in code, a sign can change the meaning."""
    bands, rows = bands_for(threshold)
    exact = np.zeros((len(texts), 2), dtype=np.uint64)
    keys = np.zeros((len(texts), bands), dtype=np.uint64)
    for start, stop in _batches(texts):
        hashes, ends = normal_hashes(texts[start:stop])
        filled = np.diff(ends, prepend=0) > 0
        parts = [hashes[first:end].tobytes() for first, end in zip([0, *ends[:-1].tolist()], ends.tolist())]
        if strict:
            parts = [" ".join(text.split()).encode("utf-8", "surrogatepass") for text in texts[start:stop]]
        digests = b"".join(map(exact_digest, parts))
        exact[start:stop] = np.frombuffer(digests, dtype="<u8").reshape(-1, 2) * filled[:, None].astype(np.uint64)
        if near:
            signatures = signatures_of(*_shingles(hashes, ends), stop - start, bands * rows)
            keys[start:stop] = np.where(filled[:, None], _band_keys(signatures, bands, rows), np.uint64(0))
    return exact, keys


def _band_keys(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    state = np.full((len(signatures), bands), _SEED, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for row in range(rows):
            state = mix(state * np.uint64(3) + signatures[:, row::rows])
    return state | np.uint64(1)


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts that together fit into a processor's cache."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > _BATCH:
            yield start, index
            start, size = index, 0
        size += len(text) + 1
    if start < len(texts):
        yield start, len(texts)


def _shingles(hashes: Hashes, ends: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return the shingles of texts whose units are given together, and the number of each shingle's text."""
    counts = np.diff(ends, prepend=0)
    grams = ngram_hashes(hashes, SHINGLE) if len(hashes) >= SHINGLE else hashes[:0]
    owner = np.repeat(np.arange(len(ends)), counts)[: len(grams)]
    within = np.arange(len(grams)) + SHINGLE <= ends[owner]
    short = np.flatnonzero((counts > 0) & (counts < SHINGLE))
    own = [ngram_hashes(hashes[ends[text] - counts[text] : ends[text]], SHINGLE) for text in short.tolist()]
    return np.concatenate([grams[within], *own]), np.concatenate([owner[within], short])


def signatures_of(shingles: Hashes, owner: npt.NDArray[np.int64], texts: int, values: int) -> npt.NDArray[np.uint32]:
    """Return the MinHash signature [texts, values] of each text. `owner` is the number of a shingle's text; repeated
    shingles do not matter.

    One-permutation hashing (Li, Owen and Zhang, 2012): every shingle falls into a bin, and the smallest number of a bin
    stays. Texts with empty bins hash their shingles again, into empty bins only; a bin that is still empty takes the
    smallest number of all shingles under a hash of its own. So a value is always the first of the text's shingles in a
    random order that belongs to the bin."""
    signatures = np.full(texts * values, _EMPTY)
    for throw in range(_THROWS):
        thrown = _again(shingles, np.uint64(throw)) if throw else shingles
        places = owner * values + (((thrown >> np.uint64(32)) * np.uint64(values)) >> np.uint64(32)).astype(np.int64)
        free = slice(None) if throw == 0 else signatures[places] == _EMPTY
        np.minimum.at(signatures, places[free], thrown[free].astype(np.uint32))
        left = (signatures.reshape(texts, values) == _EMPTY).any(axis=1)[owner]
        shingles, owner = shingles[left], owner[left]
        if throw == 0:
            shingles, owner = _distinct(shingles, owner)
    _fill(signatures.reshape(texts, values), shingles, owner)
    return signatures.reshape(texts, values)


def _again(shingles: Hashes, throw: npt.NDArray[np.uint64] | np.uint64) -> Hashes:
    """Return other hashes of the shingles."""
    with np.errstate(over="ignore"):
        return mix(shingles + throw * np.uint64(_SEED))


def _distinct(shingles: Hashes, owner: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return each shingle of a text once, sorted by text."""
    order = np.lexsort((shingles, owner))
    shingles, owner = shingles[order], owner[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (shingles[1:] != shingles[:-1]) | (owner[1:] != owner[:-1])
    return shingles[new], owner[new]


def _fill(signatures: npt.NDArray[np.uint32], shingles: Hashes, owner: npt.NDArray[np.int64]) -> None:
    """Give empty bins of texts that have shingles the smallest number under the bin's own hash."""
    known, first, counts = np.unique(owner, return_index=True, return_counts=True)
    which, bins = np.nonzero(signatures[known] == _EMPTY)
    if not len(which):
        return
    sizes = counts[which]
    starts = np.cumsum(sizes) - sizes
    at = np.arange(int(sizes.sum())) - np.repeat(starts - first[which], sizes)
    thrown = _again(shingles[at], np.repeat((_THROWS + bins).astype(np.uint64), sizes))
    signatures[known[which], bins] = np.minimum.reduceat(thrown.astype(np.uint32), starts)


def signature(shingles: Hashes, values: int = VALUES) -> npt.NDArray[np.uint32]:
    """Return the signature [values] of one set of shingles."""
    return signatures_of(shingles, np.zeros(len(shingles), dtype=np.int64), 1, values)[0]


def bands_for(threshold: float, values: int = VALUES, recall: float = RECALL) -> tuple[int, int]:
    """Return (bands, rows): the most selective banding that finds a pair at the threshold with probability `recall`."""
    for rows in range(values, 0, -1):
        bands = values // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    return values, 1


def buckets(keys: Hashes) -> Iterator[list[int]]:
    """Yield the groups of positions with equal keys, each ascending, in order of their first position; key 0 is in
    none."""
    order = np.argsort(keys, kind="stable")
    order = order[np.searchsorted(keys[order], 1) :]
    for start, stop in sorted(runs(keys[order][1:] == keys[order][:-1]), key=lambda run: order[run[0]]):
        yield order[start:stop].tolist()


def runs(equal: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the ranges of a sorted array whose values are equal; `equal[i]` says whether values i and i + 1 are."""
    equal = np.concatenate([[False], equal, [False]])
    starts, stops = np.flatnonzero(equal[1:] & ~equal[:-1]), np.flatnonzero(equal[:-1] & ~equal[1:]) + 1
    return list(zip(starts.tolist(), stops.tolist()))


def join(
    candidates: Iterable[Sequence[int]], shingles: Callable[[int], Hashes], threshold: float, parent: list[int]
) -> None:
    """Merge the members of every bucket that are similar, in the union-find forest `parent`."""
    different: set[tuple[int, int]] = set()
    for bucket in candidates:
        _join(bucket, shingles, threshold, parent, different)


def _join(
    bucket: Sequence[int],
    shingles: Callable[[int], Hashes],
    threshold: float,
    parent: list[int],
    different: set[tuple[int, int]],
) -> None:
    """Unite the members of a bucket that are similar. Neighbours first: n copies are united by n - 1 comparisons, and
    members are compared with so many of their neighbours at most: pages of one template, thousands in a bucket, would
    all be compared with all. Real copies among them agree in bands of their own words too, and meet in small buckets.
    """
    for gap in range(1, min(len(bucket), _MOST_NEIGHBOURS + 1)):
        if len({_root(parent, index) for index in bucket}) == 1:
            return
        for left, right in zip(bucket, bucket[gap:]):
            a, b = _root(parent, left), _root(parent, right)
            if a == b or (left, right) in different:
                continue
            if jaccard(shingles(left), shingles(right)) >= threshold:
                parent[max(a, b)] = min(a, b)
            else:
                different.add((left, right))


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
