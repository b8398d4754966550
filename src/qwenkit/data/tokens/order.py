"""Which tokens are in which step: a pure function of (corpus digest, seed, step), so that resume needs no state.

    order = Order(store.digest, seed, store.lengths, row=2048, split=True)
    order.rows(step, batch_size)          # the rows of one step; a worker takes every n-th of them
    order.trace(step, batch_size)         # the documents in it
    order.find(document, batch_size)      # the steps of one epoch that hold a document

Each epoch shuffles the documents anew, packs them (`packer.pack`) and shuffles the rows: without that a long document
would fill whole batches by itself (one source file of 20,000 tokens made five batches of nothing else, and the loss
jumped by 3 nats), and best fit would put long conversations first. Rows are numbered through the epochs, each of
`rows_per_epoch`; a batch may hold the end of one epoch and the start of the next. Workers play no part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit import rng
from qwenkit.data.tokens.packing import Piece, Rows, pack
from qwenkit.errors import UserError


class Row(NamedTuple):
    """A row of a step: its epoch, its number in that epoch, and the pieces that fill it."""

    epoch: int
    number: int
    pieces: list[Piece]


class Epoch(NamedTuple):
    """`documents` turns the packer's document numbers into the corpus's; row i of the epoch is `packed[places[i]]`."""

    packed: Rows
    documents: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


class Order:
    """The order of a corpus. `digest` names its bytes: another corpus under the same seed has another order."""

    def __init__(self, digest: str, seed: int, lengths: npt.ArrayLike, row: int, split: bool) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64).reshape(-1)
        self.row, self.split = row, split
        self._seed = rng.derive_seed(seed, "order", digest)
        self._epoch = lru_cache(maxsize=2)(self._pack_epoch)
        packed, documents, _ = self._epoch(0)
        self.rows_per_epoch, self.tokens_per_epoch, self.fill = len(packed), packed.tokens, packed.fill
        self.too_long = np.sort(documents[packed.too_long])
        if not self.rows_per_epoch:
            raise UserError(
                f"no row can be filled from {len(self.lengths)} documents ({len(self.too_long)} are too long)",
                expected=f"at least one document of 1 to {row} tokens",
                hint="give more text, or raise the row length",
            )

    def rows(self, step: int, batch_size: int) -> list[Row]:
        """The rows of a step of `batch_size` rows."""
        return [self.row_at(number) for number in range(step * batch_size, (step + 1) * batch_size)]

    def row_at(self, number: int) -> Row:
        """Row `number`, counted through the epochs."""
        epoch, index = divmod(number, self.rows_per_epoch)
        packed, documents, places = self._epoch(epoch)
        pieces = packed[int(places[index])]
        return Row(epoch, index, [Piece(int(documents[d]), start, stop) for d, start, stop in pieces])

    def epoch_of(self, step: int, batch_size: int) -> float:
        """Epochs done before a step: 1.5 is the middle of the second."""
        return step * batch_size / self.rows_per_epoch

    def steps(self, epochs: float, batch_size: int) -> int:
        """Steps that cover so many epochs, the last one perhaps reaching into the next."""
        return int(np.ceil(epochs * self.rows_per_epoch / batch_size))

    def trace(self, step: int, batch_size: int) -> list[int]:
        """The documents of a step, ascending."""
        return sorted({piece.document for row in self.rows(step, batch_size) for piece in row.pieces})

    def find(self, document: int, batch_size: int, epoch: int = 0) -> list[int]:
        """The steps in which an epoch shows (parts of) a document."""
        packed, documents, places = self._epoch(epoch)
        pieces = np.flatnonzero(documents[packed.pieces[:, 0]] == document)
        rows = np.searchsorted(packed.bounds, pieces, side="right") - 1
        numbers = epoch * self.rows_per_epoch + np.argsort(places)[rows]
        return np.unique(numbers // batch_size).tolist()

    def _pack_epoch(self, epoch: int) -> Epoch:
        documents = rng.permutation(self._seed, len(self.lengths), 0, epoch)
        packed = pack(self.lengths[documents], self.row, self.split)
        count = len(packed)
        return Epoch(packed, documents, rng.permutation(self._seed, count, 1, epoch))
