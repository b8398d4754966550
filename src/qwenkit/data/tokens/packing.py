"""The one packer: from documents of given lengths to rows of `row` tokens (report §2.4, "shuffle and merge").

    rows = pack(lengths, row=2048, split=True)     # pretraining: joined in the given order, cut at `row` tokens
    rows = pack(lengths, row=2048, split=False)    # chats: whole conversations, best fit
    rows[3]                                        # [Piece(document, start, stop), ...]

It sees lengths only, so it serves shards, examples and rollouts alike. Every token is placed exactly once; with
`split=False` a document longer than a row is placed nowhere and listed in `too_long`. The last row of a split may be
short. Sorting by length makes the number and shape of best-fit rows independent of the order of the documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError

Ints = npt.NDArray[np.int64]


class Piece(NamedTuple):
    """Tokens [start, stop) of one document."""

    document: int
    start: int
    stop: int


class Rows(Sequence[list[Piece]]):
    """Packed rows. `pieces[bounds[i]:bounds[i + 1]]` (columns document, start, stop) are row i."""

    def __init__(self, pieces: Ints, bounds: Ints, too_long: Ints, row: int) -> None:
        self.pieces, self.bounds, self.too_long, self.row = pieces, bounds, too_long, row

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> list[Piece]:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return [Piece(*piece) for piece in self.pieces[self.bounds[index] : self.bounds[index + 1]].tolist()]

    def __iter__(self) -> Iterator[list[Piece]]:
        return (self[index] for index in range(len(self)))

    @property
    def tokens(self) -> int:
        """Tokens placed."""
        return int((self.pieces[:, 2] - self.pieces[:, 1]).sum())

    @property
    def fill(self) -> float:
        """Share of the rows' room that holds tokens."""
        return self.tokens / (len(self) * self.row) if len(self) else 0.0


def pack(lengths: npt.ArrayLike, row: int, split: bool) -> Rows:
    """Rows of at most `row` tokens. Documents keep their index in `lengths`; empty ones take no room."""
    if row < 2:
        raise UserError(f"a row of {row} tokens holds nothing to predict", expected="a row of 2 tokens or more")
    counts = np.asarray(lengths, dtype=np.int64).reshape(-1)
    return _cut(counts, row) if split else _best_fit(counts, row)


def _cut(lengths: Ints, row: int) -> Rows:
    """Join everything, cut at every multiple of `row`: the pieces lie between document ends and row ends."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    marks = np.unique(np.concatenate([ends[lengths > 0], np.arange(0, total, row)]))
    starts, stops = marks[:-1], marks[1:]
    documents = np.searchsorted(ends, starts, side="right")
    offsets = (ends - lengths)[documents]
    pieces = np.stack([documents, starts - offsets, stops - offsets], axis=1).astype(np.int64)
    rows = -(-total // row)
    return Rows(pieces, np.searchsorted(starts, np.arange(rows + 1) * row), np.zeros(0, np.int64), row)


def _best_fit(lengths: Ints, row: int) -> Rows:
    """Longest first, each into the fullest row that still takes it."""
    order = np.argsort(-lengths, kind="stable")
    fits = order[(lengths[order] <= row) & (lengths[order] > 0)]
    placed = _assign(lengths[fits].tolist(), row)
    by_row = np.argsort(placed, kind="stable")
    documents = fits[by_row]
    pieces = np.stack([documents, np.zeros_like(documents), lengths[documents]], axis=1)
    count = int(placed.max()) + 1 if len(placed) else 0
    bounds = np.searchsorted(placed[by_row], np.arange(count + 1))
    return Rows(pieces, bounds, np.sort(order[lengths[order] > row]), row)


def _assign(lengths: list[int], row: int) -> Ints:
    """The row of each length. `rooms` are the distinct amounts of room left, `open_rows` the rows that have them."""
    rooms: list[int] = []
    open_rows: dict[int, list[int]] = {}
    placed = np.zeros(len(lengths), np.int64)
    count = 0
    for number, length in enumerate(lengths):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            target, room, count = count, row, count + 1
        else:
            room = rooms[at]
            target = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        placed[number] = target
        if left := room - length:
            if left not in open_rows:
                open_rows[left] = []
                insort(rooms, left)
            open_rows[left].append(target)
    return placed
