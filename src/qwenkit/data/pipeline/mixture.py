"""The mixture (section 2.1, steps 7 and 8): sources up-sampled by weight, instruction data among them.

The report up-samples chosen sources and mixes multi-task instruction data into pretraining, and gives no weights. Ours
are the recipe's: weight 1 takes every document once, 2.5 every document twice and a random half a third time, 0.3 a
random 30 %. Copies keep the document's id and differ in their number, `copy`: 0, 1, 2. The place of documents in
training is not decided here: the order of training (`tokens.order`) shuffles them anew in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from qwenkit import rng
from qwenkit.records import Row


def copies(weight: float, seed: int, source: str, name: str) -> int:
    """Return how often a document of a source appears: the weight, rounded up or down by a random draw of the
    document's own."""
    whole = math.floor(weight)
    if weight == whole:
        return whole
    return whole + int(rng.uniform(rng.derive_seed(seed, "mixture", source, name), 0) < weight - whole)


def repeat(row: Row, times: int) -> Iterator[Row]:
    """Yield a row that many times, with the number of the copy."""
    for copy in range(times):
        yield {**row, "copy": copy}
