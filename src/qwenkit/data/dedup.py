"""Deduplication (section 2.1, steps 3 and 4): exact after normalisation, then near duplicates by MinHash and LSH.

    exact_duplicates(texts)                 -> {index of a copy: index of the first}
    near_duplicates(texts, threshold=0.8)   -> clusters of indices, each sorted, ordered by their first member
    best_copy(cluster, texts)               -> which one to keep

The report names the methods, not their parameters. Ours: 5-shingles of units (`units`: words, characters of scripts
without spaces), 128 permutations, bands chosen so that a pair exactly at the threshold is found with probability
0.995 or more, every found pair verified by its exact Jaccard similarity. So there are no false pairs, and the answer is
the same on every machine. A cluster is a connected component: a chain of small edits ends in one cluster.

Shingles of all texts are held in memory: some 10^5 documents per process.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from qwenkit import draws
from qwenkit.data.units import Hashes, ngram_hashes, normalise, unit_hashes, units
from qwenkit.errors import UserError

SHINGLE, PERMUTATIONS, RECALL = 5, 128, 0.995
_SEED = 20230928  # fixed: signatures of two corpora can be compared


def exact_key(text: str) -> bytes:
    """Digest of a text after normalisation: form, case, spacing and punctuation do not count."""
    plain = re.sub(r"[^\w\s]", "", normalise(text))
    return hashlib.blake2b(" ".join(plain.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


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
    shingles = [shingle(text) for text in texts]
    parent = list(range(len(texts)))
    different: set[tuple[int, int]] = set()
    for bucket in _buckets(shingles, threshold):
        _join(bucket, shingles, threshold, parent, different)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
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
    return np.unique(ngram_hashes(unit_hashes(units(normalise(text))), SHINGLE))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets."""
    if min(len(left), len(right)) == 0:
        return 0.0
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)


def signature(shingles: Hashes, permutations: int = PERMUTATIONS) -> npt.NDArray[np.uint32]:
    """MinHash: under each of `permutations` hash functions, the smallest value of the set. Multiply-shift hashing."""
    multiply, add = _permutations(permutations)
    smallest = np.full(permutations, np.iinfo(np.uint32).max, dtype=np.uint32)
    with np.errstate(over="ignore"):
        for start in range(0, len(shingles), 4096):  # bounds the table to 4096 x 128 numbers
            chunk = shingles[start : start + 4096, None]
            table = ((chunk * multiply + add) >> np.uint64(32)).astype(np.uint32)
            smallest = np.minimum(smallest, table.min(axis=0))
    return smallest


def bands_for(threshold: float, permutations: int = PERMUTATIONS, recall: float = RECALL) -> tuple[int, int]:
    """(bands, rows): the most selective banding that finds a pair at the threshold with probability `recall`."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


def _permutations(count: int) -> tuple[Hashes, Hashes]:
    numbers = draws.bits(_SEED, np.arange(2)[:, None], np.arange(count))
    return numbers[0] | np.uint64(1), numbers[1]


def _buckets(shingles: Sequence[Hashes], threshold: float) -> Iterator[list[int]]:
    """Groups of texts whose signatures agree in a whole band."""
    bands, rows = bands_for(threshold)
    filled = [index for index, hashes in enumerate(shingles) if len(hashes)]
    if len(filled) < 2:
        return
    signatures = np.stack([signature(shingles[index]) for index in filled])
    for band in range(bands):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for index, row in zip(filled, np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])):
            buckets[row.tobytes()].append(index)
        yield from (bucket for bucket in buckets.values() if len(bucket) > 1)


def _join(
    bucket: list[int],
    shingles: Sequence[Hashes],
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
            if jaccard(shingles[left], shingles[right]) >= threshold:
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


def remove_repeated_lines(texts: Sequence[str], most: int) -> tuple[list[str], int]:
    """Texts without the lines that stand in more than `most` of them (site furniture), and how many lines went."""
    keys = [[exact_key(line) if line.strip() else b"" for line in text.split("\n")] for text in texts]
    spread = Counter(key for lines in keys for key in set(lines) if key)
    removed = 0
    cleaned = []
    for text, lines in zip(texts, keys):
        kept = [line for line, key in zip(text.split("\n"), lines) if spread[key] <= most]
        removed += len(lines) - len(kept)
        cleaned.append("\n".join(kept))
    return cleaned, removed
