"""The random numbers of one row, read one after the other: `RowRng(seed, "chat", 17)` is always the same sequence.

The world is made of many small choices. A `RowRng` is a cursor over the counter-based numbers of `qwenkit.rng`, so that
row 17 is the same row whether or not rows 0 to 16 were made, and no generator state exists anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from qwenkit import rng

T = TypeVar("T")
_BLOCK, _ROWS = 48, 256


class RowRng:
    """A cursor over the random numbers of one row."""

    def __init__(self, seed: int, row: int, block: list[float] | None = None) -> None:
        """Start at the first number of a row; `block` are its first numbers where they are already drawn."""
        self._seed, self._row = seed, row
        self._blocks = -1 if block is None else 0
        self._values = iter(block or ())

    def unit(self) -> float:
        """Return the next number in [0, 1)."""
        for value in self._values:
            return value
        self._blocks += 1
        start = self._blocks * _BLOCK
        self._values = iter(rng.uniform(self._seed, self._row, np.arange(start, start + _BLOCK)).tolist())
        return next(self._values)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.unit() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[int(self.unit() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options, in drawn order."""
        left = list(options)
        return [left.pop(int(self.unit() * len(left))) for _ in range(count)]

    def other(self, options: Sequence[T], than: T) -> T:
        """Return an option that is not `than`."""
        return self.pick([option for option in options if option != than])


def rows(seed: int, purpose: str, count: int) -> Iterator[RowRng]:
    """Yield the random numbers of `count` rows of one purpose; the first ones are drawn for 256 rows at a time, 20
    times faster."""
    seed = rng.derive_seed(seed, purpose)
    for start in range(0, count, _ROWS):
        row = np.arange(start, min(start + _ROWS, count))
        for number, block in zip(row.tolist(), rng.uniform(seed, row[:, None], np.arange(_BLOCK)).tolist()):
            yield RowRng(seed, number, block)
