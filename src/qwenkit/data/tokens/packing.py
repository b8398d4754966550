"""The one packer: documents of given lengths into sequences of `seq_length` tokens (report §2.4, "shuffle and
merge").

    packed = pack(lengths, seq_length=2048, split_documents=True)    # pretraining: joined in order, cut at 2048 tokens
    packed = pack(lengths, seq_length=2048, split_documents=False)   # chats: whole conversations, best fit
    packed[3]                                              # [Segment(document, start, stop), ...]

It sees lengths only, so it serves shards, examples and rollouts alike. Every token is placed exactly once; with
`split_documents=False` a document longer than a sequence is left out and listed in `dropped_too_long`. The last
sequence may be short. Sorting by length makes the number and shape of best-fit sequences independent of the order of
the documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError

Ints = npt.NDArray[np.int64]


class Segment(NamedTuple):
    """Tokens [start, stop) of one document."""

    document: int
    start: int
    stop: int


class PackedSequences(Sequence[list[Segment]]):
    """Packed sequences, each a list of segments.

    `segments` [segments, 3] has the columns document, start, stop; sequence i is `segments[bounds[i]:bounds[i + 1]]`.
    `dropped_too_long` lists the documents that are left out because they are longer than `seq_length` tokens."""

    def __init__(self, segments: Ints, bounds: Ints, dropped_too_long: Ints, seq_length: int) -> None:
        """Keep the segments and the bounds of the sequences."""
        self.segments, self.bounds, self.dropped_too_long = segments, bounds, dropped_too_long
        self.seq_length = seq_length

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> list[Segment]:  # type: ignore[override]
        """Return the segments of a sequence; raises `IndexError` beyond the last."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return [Segment(*segment) for segment in self.segments[self.bounds[index] : self.bounds[index + 1]].tolist()]

    def __iter__(self) -> Iterator[list[Segment]]:
        """Yield the segments of each sequence."""
        return (self[index] for index in range(len(self)))

    @property
    def tokens(self) -> int:
        """Return how many tokens are placed."""
        return int((self.segments[:, 2] - self.segments[:, 1]).sum())

    @property
    def fill(self) -> float:
        """Return the share of the positions in all sequences that hold tokens, 0 to 1."""
        return self.tokens / (len(self) * self.seq_length) if len(self) else 0.0


def pack(lengths: npt.ArrayLike, seq_length: int, split_documents: bool) -> PackedSequences:
    """Pack documents of these lengths [documents] into sequences of at most `seq_length` tokens.

    Documents keep their index in `lengths`; empty ones take no space. `split_documents` cuts documents
    where a sequence is full; without it they stay whole (best-fit decreasing; Ding et al., 2024). Raises a `UserError`
    for a `seq_length` below 2."""
    if seq_length < 2:
        raise UserError(
            f"a sequence of {seq_length} tokens holds nothing to predict", expected="a `seq_length` of 2 or more"
        )
    counts = np.asarray(lengths, dtype=np.int64).reshape(-1)
    return _cut(counts, seq_length) if split_documents else _best_fit(counts, seq_length)


def _cut(lengths: Ints, seq_length: int) -> PackedSequences:
    """Join everything, cut at every multiple of `seq_length`: segments lie between ends of documents and sequences."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    edges = np.unique(np.concatenate([ends[lengths > 0], np.arange(0, total, seq_length)]))
    starts, stops = edges[:-1], edges[1:]
    documents = np.searchsorted(ends, starts, side="right")
    offsets = (ends - lengths)[documents]
    segments = np.stack([documents, starts - offsets, stops - offsets], axis=1).astype(np.int64)
    count = -(-total // seq_length)
    bounds = np.searchsorted(starts, np.arange(count + 1) * seq_length)
    return PackedSequences(segments, bounds, np.zeros(0, np.int64), seq_length)


def _best_fit(lengths: Ints, seq_length: int) -> PackedSequences:
    """Pack the longest first, each into the fullest sequence that still takes it."""
    order = np.argsort(-lengths, kind="stable")
    fitting = order[(lengths[order] <= seq_length) & (lengths[order] > 0)]
    placed = _assign(lengths[fitting].tolist(), seq_length)
    by_sequence = np.argsort(placed, kind="stable")
    documents = fitting[by_sequence]
    segments = np.stack([documents, np.zeros_like(documents), lengths[documents]], axis=1)
    count = int(placed.max()) + 1 if len(placed) else 0
    bounds = np.searchsorted(placed[by_sequence], np.arange(count + 1))
    return PackedSequences(segments, bounds, np.sort(order[lengths[order] > seq_length]), seq_length)


def _assign(lengths: list[int], seq_length: int) -> Ints:
    """Return the sequence of each length. `rooms` are the distinct amounts of room left, ascending; `open_sequences`
    are the sequences that have them."""
    rooms: list[int] = []
    open_sequences: dict[int, list[int]] = {}
    placed = np.zeros(len(lengths), np.int64)
    count = 0
    for number, length in enumerate(lengths):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            target, room, count = count, seq_length, count + 1
        else:
            room = rooms[at]
            target = open_sequences[room].pop()
            if not open_sequences[room]:
                del open_sequences[room], rooms[at]
        placed[number] = target
        if left := room - length:
            if left not in open_sequences:
                open_sequences[left] = []
                insort(rooms, left)
            open_sequences[left].append(target)
    return placed
