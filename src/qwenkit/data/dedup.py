"""Deduplication (section 2.1, steps 3 and 4): exact after normalisation, then near duplicates by MinHash and LSH.

    exact_duplicates(texts)                 -> {index of a copy: index of the first}
    near_duplicates(texts, threshold=0.8)   -> clusters of indices, each sorted, ordered by their first member
    best_copy(cluster, texts)               -> which one to keep

The report names the methods, not their parameters. Ours: 5-shingles of units (`units`: words, characters of scripts
without spaces), 128 permutations, bands chosen so that a pair exactly at the threshold is found with probability
0.995 or more, every found pair verified by its exact Jaccard similarity. So there are no false pairs, and the answer is
the same on every machine. A cluster is a connected component: a chain of small edits ends in one cluster.

Texts are hashed many at a time (`sketches`), because numpy's calls cost more than a short text's work. `clusters` does
the same over files, for corpora that memory does not hold.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenkit import draws
from qwenkit.data.units import Hashes, mix, ngram_hashes, ngrams_by_size, normalise, unit_hashes, unit_hashes_together
from qwenkit.errors import UserError

SHINGLE, PERMUTATIONS, RECALL = 5, 128, 0.995
_BATCH = 100_000  # characters
_SEED = 20230928  # fixed: signatures of two corpora can be compared


def exact_key(text: str) -> bytes:
    """Digest of a text after normalisation: form, case, spacing and punctuation do not count."""
    return exact_digest(unit_hashes(normalise(text)).hashes.tobytes())


def exact_digest(data: bytes) -> bytes:
    """BLAKE2 in 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def name_key(name: str) -> int:
    """A number for an id."""
    return int.from_bytes(exact_digest(name.encode("utf-8", "replace"))[:8], "little", signed=True)


def exact_duplicates(texts: Iterable[str]) -> dict[int, int]:
    """For every text that repeats an earlier one after normalisation: its index and the first one's."""
    first: dict[bytes, int] = {}
    copies = {}
    for index, text in enumerate(texts):
        original = first.setdefault(exact_key(text), index)
        if original != index:
            copies[index] = original
    return copies


def near_duplicates(texts: Iterable[str], threshold: float = 0.8) -> list[list[int]]:
    """Clusters of texts joined by pairs whose shingles have a Jaccard similarity of at least `threshold`."""
    texts = _checked(texts, threshold)
    _, keys = sketches(texts, threshold)
    shingles = lru_cache(maxsize=100_000)(lambda index: shingle(texts[index]))
    parent = list(range(len(texts)))
    join((bucket for column in keys.T for bucket in buckets(column)), shingles, threshold, parent)
    return clusters_of(parent)


def clusters_of(parent: list[int]) -> list[list[int]]:
    """The groups of a union-find forest that have more than one member."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        members[_root(parent, index)].append(index)
    return [cluster for _, cluster in sorted(members.items()) if len(cluster) > 1]


def _checked(texts: Iterable[str], threshold: float) -> list[str]:
    """The texts as a list; what near duplicates cannot be found in, or by, is refused."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
        raise UserError(f"threshold = {threshold!r}", expected="a number above 0 and at most 1")
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise UserError(f"texts = {texts!r:.40}", expected="texts, one after the other", mend="near_duplicates([text])")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"text {index} is {text!r:.40}", expected="a text")
    return found


def best_copy(cluster: Sequence[int], texts: Sequence[str], priority: Sequence[float] | None = None) -> int:
    """The copy to keep: highest priority (its source's weight), then the longest text, then the first."""
    return min(cluster, key=lambda index: (-priority[index] if priority else 0, -len(texts[index]), index))


def shingle(text: str) -> Hashes:
    """Sorted distinct hashes of a text's 5-shingles."""
    return np.unique(ngram_hashes(unit_hashes(normalise(text)).hashes, SHINGLE))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets."""
    if min(len(left), len(right)) == 0:
        return 0.0
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)


def sketches(texts: Sequence[str], threshold: float, near: bool = True) -> tuple[Hashes, Hashes]:
    """Of each text its exact key in two numbers, and its band keys (0 if not `near`): texts that agree in any band are
    candidates. 0: a text without units."""
    bands, rows = bands_for(threshold)
    exact = np.zeros((len(texts), 2), dtype=np.uint64)
    keys = np.zeros((len(texts), bands), dtype=np.uint64)
    for start, stop in _batches(texts):
        (hashes, _, _), ends = unit_hashes_together([normalise(text) for text in texts[start:stop]])
        filled = np.diff(ends, prepend=0) > 0
        parts = [hashes[first:end] for first, end in zip([0, *ends[:-1].tolist()], ends.tolist())]
        digests = b"".join(exact_digest(part.tobytes()) for part in parts)
        exact[start:stop] = np.frombuffer(digests, dtype="<u8").reshape(-1, 2) * filled[:, None].astype(np.uint64)
        if near:
            signatures = _signatures(hashes, ends, bands * rows)
            keys[start:stop] = np.where(filled[:, None], _band_keys(signatures, bands, rows), np.uint64(0))
    return exact, keys


def _band_keys(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    state = np.full((len(signatures), bands), _SEED, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for row in range(rows):
            state = mix(state * np.uint64(3) + signatures[:, row::rows])
    return state | np.uint64(1)


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of texts that together fit a processor's cache."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > _BATCH:
            yield start, index
            start, size = index, 0
        size += len(text) + 1
    if start < len(texts):
        yield start, len(texts)


def _signatures(hashes: Hashes, ends: npt.NDArray[np.int64], permutations: int) -> npt.NDArray[np.uint32]:
    """MinHash signatures of texts whose units are given together."""
    grams = dict(ngrams_by_size(hashes, {SHINGLE})).get(SHINGLE, hashes[:0])
    found = np.empty((len(ends), permutations), dtype=np.uint32)
    first = 0
    for row, end in enumerate(ends.tolist()):
        short = end - first < SHINGLE
        own = ngram_hashes(hashes[first:end], SHINGLE) if short else grams[first : end - SHINGLE + 1]
        found[row] = signature(own, permutations)
        first = end
    return found


def signature(shingles: Hashes, permutations: int = PERMUTATIONS) -> npt.NDArray[np.uint32]:
    """MinHash: under each of `permutations` hash functions, the smallest value of the set (repeats do not matter)."""
    multiply, add, table = _permutations(permutations)
    values = (shingles >> np.uint64(32)).astype(np.uint32)[:, None]
    smallest = np.full(permutations, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(values), len(table)):  # the table stays in the processor's cache
        part = table[: len(values) - start]
        np.multiply(values[start : start + len(part)], multiply, out=part)
        np.add(part, add, out=part)
        np.minimum(smallest, part.min(axis=0), out=smallest)
    return smallest


def bands_for(threshold: float, permutations: int = PERMUTATIONS, recall: float = RECALL) -> tuple[int, int]:
    """(bands, rows): the most selective banding that finds a pair at the threshold with probability `recall`."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


@lru_cache(maxsize=4)
def _permutations(count: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Factors and summands of the permutations of 32-bit numbers (multiply by an odd one, add), and room to work."""
    numbers = (draws.bits(_SEED, np.arange(2)[:, None], np.arange(count)) >> np.uint64(32)).astype(np.uint32)
    return numbers[0] | np.uint32(1), numbers[1], np.empty((256, count), dtype=np.uint32)


def buckets(keys: Hashes) -> Iterator[list[int]]:
    """Groups of positions with equal keys, each ascending, in order of their first; key 0 is in none."""
    order = np.argsort(keys, kind="stable")
    order = order[np.searchsorted(keys[order], 1) :]
    for start, stop in sorted(runs(keys[order][1:] == keys[order][:-1]), key=lambda run: order[run[0]]):
        yield order[start:stop].tolist()


def runs(equal: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges of a sorted array whose values are equal: `equal[i]` says that values i and i + 1 are."""
    equal = np.concatenate([[False], equal, [False]])
    starts, stops = np.flatnonzero(equal[1:] & ~equal[:-1]), np.flatnonzero(equal[:-1] & ~equal[1:]) + 1
    return list(zip(starts.tolist(), stops.tolist()))


def join(
    found: Iterable[Sequence[int]], shingles: Callable[[int], Hashes], threshold: float, parent: list[int]
) -> None:
    """Unite in `parent` the members of every bucket that are similar."""
    different: set[tuple[int, int]] = set()
    for bucket in found:
        _join(bucket, shingles, threshold, parent, different)


def _join(
    bucket: Sequence[int],
    shingles: Callable[[int], Hashes],
    threshold: float,
    parent: list[int],
    different: set[tuple[int, int]],
) -> None:
    """Unite the members of a bucket that are similar. Neighbours first: n copies are united by n - 1 comparisons."""
    for gap in range(1, len(bucket)):
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


# -- lines -----------------------------------------------------------------------------------------------------------


def collapse_repeated_lines(text: str) -> str:
    """Every run of equal lines once: what menus, counters and broken templates leave behind."""
    lines = text.split("\n")
    return "\n".join(line for before, line in zip([None, *lines], lines) if line != before or not line.strip())


def line_keys(text: str) -> list[int]:
    """One number for each line of a text, equal for lines that are equal after normalisation; 0: nothing in it."""
    hashes, starts, _ = unit_hashes(text)
    if not len(hashes):
        return [0] * (text.count("\n") + 1)
    breaks = np.flatnonzero(np.array([char == "\n" for char in text])) if "\n" in text else np.empty(0, np.int64)
    edges = np.concatenate([[0], np.searchsorted(starts, breaks), [len(starts)]])
    with np.errstate(over="ignore"):
        places = np.arange(len(hashes)) - np.repeat(edges[:-1], np.diff(edges))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(mix(hashes + places.astype(np.uint64)))])
        keys = sums[edges[1:]] - sums[edges[:-1]]
    return np.where(np.diff(edges) > 0, keys | np.uint64(1), np.uint64(0)).tolist()


def without_lines(text: str, common: Collection[int]) -> str:
    """A text without the lines that are known to stand in many texts."""
    return "\n".join(line for line, key in zip(text.split("\n"), line_keys(text)) if key not in common)
