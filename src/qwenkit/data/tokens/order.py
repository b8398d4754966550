"""The order of training: which tokens are in which step, a pure function of (corpus digest, seed, step). Resuming needs
no state.

    order = EpochOrder(dataset.digest, seed, dataset.lengths, seq_length=2048, split_documents=True)
    order.sequences(step, batch_size)     # the sequences of one step; a worker takes every n-th of them
    order.trace(step, batch_size)         # the documents in it
    order.find(document, batch_size)      # the steps of one epoch that hold a document

Permutations and steps are those of `data.shuffled_order`. Each epoch shuffles the documents anew, packs them (`pack`)
and shuffles the sequences: without that a long document would fill whole batches by itself (one source file of 20,000
tokens made five batches of nothing else, and the loss jumped by 3 nats), and best fit would put long conversations
first. Sequences are numbered through the epochs, each of `sequences_per_epoch`; a batch may hold the end of one epoch
and the start of the next. The number of workers has no effect.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenkit import rng
from qwenkit.data.shuffled_order import ShuffledOrder, place_of, step_numbers
from qwenkit.data.tokens.packing import PackedSequences, Segment, pack
from qwenkit.errors import UserError


class PackedSequence(NamedTuple):
    """A sequence of a step: its epoch, its number in that epoch, and the segments of documents that fill it."""

    epoch: int
    number: int
    segments: list[Segment]


class Epoch(NamedTuple):
    """One epoch, packed: sequence i is `packed[positions[i]]`, and `documents` turns the packer's document numbers into
    the dataset's."""

    packed: PackedSequences
    documents: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


class EpochOrder:
    """The order of a dataset, epoch after epoch.

    `digest` names the dataset's bytes: another dataset under the same seed has another order. `lengths` [documents] are
    in tokens. `fill` is the share of the first epoch's sequences that holds tokens, and `dropped_too_long` lists the
    documents that never appear. Raises a `UserError` where no sequence can be filled.
    """

    def __init__(self, digest: str, seed: int, lengths: npt.ArrayLike, seq_length: int, split_documents: bool) -> None:
        """Pack the first epoch."""
        self.lengths = np.asarray(lengths, dtype=np.int64).reshape(-1)
        self.seq_length, self.split_documents = seq_length, split_documents
        self._seed = rng.derive_seed(seed, "order", digest)
        self._epoch = lru_cache(maxsize=2)(self._pack_epoch)
        packed, documents, _ = self._epoch(0)
        self.sequences_per_epoch, self.tokens_per_epoch, self.fill = len(packed), packed.tokens, packed.fill
        self.dropped_too_long = np.sort(documents[packed.dropped_too_long])
        if not self.sequences_per_epoch:
            too_long = len(self.dropped_too_long)
            raise UserError(
                f"no sequence can be filled from {len(self.lengths)} documents ({too_long} are too long)",
                expected=f"at least one document of 1 to {seq_length} tokens",
                hint="give more text, or raise `seq_length`",
            )

    def sequences(self, step: int, batch_size: int) -> list[PackedSequence]:
        """Return the `batch_size` sequences of a step."""
        return [self.sequence_at(number) for number in step_numbers(step, batch_size)]

    def sequence_at(self, number: int) -> PackedSequence:
        """Return sequence `number`, counted through the epochs."""
        epoch, index = place_of(number, self.sequences_per_epoch)
        packed, documents, positions = self._epoch(epoch)
        segments = packed[int(positions[index])]
        return PackedSequence(epoch, index, [Segment(int(documents[d]), start, stop) for d, start, stop in segments])

    def epoch_of(self, step: int, batch_size: int) -> float:
        """Return the number of epochs done before a step: 1.5 is the middle of the second."""
        return step * batch_size / self.sequences_per_epoch

    def steps(self, epochs: float, batch_size: int) -> int:
        """Return the number of steps that cover so many epochs; the last may reach into the next epoch."""
        return int(np.ceil(epochs * self.sequences_per_epoch / batch_size))

    def trace(self, step: int, batch_size: int) -> list[int]:
        """Return the documents of a step, ascending."""
        sequences = self.sequences(step, batch_size)
        return sorted({segment.document for sequence in sequences for segment in sequence.segments})

    def find(self, document: int, batch_size: int, epoch: int = 0) -> list[int]:
        """Return the steps in which an epoch shows a document or parts of it, ascending."""
        packed, documents, positions = self._epoch(epoch)
        segments = np.flatnonzero(documents[packed.segments[:, 0]] == document)
        places = np.searchsorted(packed.bounds, segments, side="right") - 1
        numbers = epoch * self.sequences_per_epoch + np.argsort(positions)[places]
        return np.unique(numbers // batch_size).tolist()

    def _pack_epoch(self, epoch: int) -> Epoch:
        documents = ShuffledOrder(len(self.lengths), self._seed, 0).permutation(epoch)
        packed = pack(self.lengths[documents], self.seq_length, self.split_documents)
        return Epoch(packed, documents, ShuffledOrder(len(packed), self._seed, 1).permutation(epoch))
