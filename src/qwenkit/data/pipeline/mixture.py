"""The mixture (section 2.1, steps 7 and 8): sources up-sampled by weight, instruction data among them.

The report up-samples chosen sources and mixes multi-task instruction data into pretraining, and gives no weights. Ours
are the recipe's: weight 1 takes every document once, 2.5 every document twice and a random half a third time, 0.3 a
random 30 %. Copies keep the document's id and are told apart by their number, `copy`: 0, 1, 2. The place of documents
in training is not decided here: the order of the data room shuffles them anew in every epoch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qwenkit import rng

Row = dict[str, Any]


def copies(weight: float, seed: int, source: str, name: str) -> int:
    """How often a document of a source appears: the weight, rounded up or down by a draw that is the document's own."""
    whole = math.floor(weight)
    if weight == whole:
        return whole
    return whole + int(rng.uniform(rng.derive_seed(seed, "mixture", source, name), 0) < weight - whole)


def repeat(row: Row, times: int) -> Iterator[Row]:
    """A row so many times, numbered."""
    for copy in range(times):
        yield {**row, "copy": copy}


def mix(rows: Iterable[Row], weights: Mapping[str, float], seed: int) -> Iterator[Row]:
    """Rows repeated by the weight of their source; a row drawn 0 times is left out."""
    for row in rows:
        yield from repeat(row, copies(weights.get(row["source"], 1.0), seed, row["source"], row["id"]))


def shares(rows: Iterable[Row]) -> dict[str, float]:
    """Each source's share of the characters, largest first."""
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["source"]] += len(row["text"])
    total = sizes.total() or 1
    return {source: size / total for source, size in sizes.most_common()}
