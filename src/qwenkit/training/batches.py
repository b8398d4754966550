"""From packed rows to tensors: the data interface of a step.

    batches = Batches(dataset, order, batch_size=16, micro_batch_size=8)
    batch = batches(step)                      # its weight, tokens, ... as plain data
    for micro_batch in batch.micro_batches: ...            # two of 8 rows

`targets_BT[b, t]` is the token after `ids_BT[b, t]` in the same document, also where the packer cut between them; so
every token but the first of its document is trained on exactly once, however documents are packed. A document's last
token and the padding have weight 0. `documents_BT` numbers the documents of a row from 0, padding is -1.

Legend: B rows, T tokens.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwenkit.data.tokens.dataset import TokenDataset
from qwenkit.data.tokens.order import EpochOrder, PackedSequence
from qwenkit.errors import UserError
from qwenkit.training.step_batch import StepBatch, share_of
from qwenkit.training.world import ALONE, World

IGNORED = 0  # id of padding and target of weight 0: any valid id will do


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. Its counts are taken on the host when it is built, so that a step on an accelerator need not
    wait for them."""

    ids_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    """Loss weight of predicting each target; 0 at padding and at what is not supervised."""
    documents_BT: Tensor
    """The number of each token's document in its row, -1 at padding."""
    supervised_N: Tensor
    """The places in the flattened [B * T] of all tokens with a weight."""
    is_packed: bool
    """Whether some row holds more than one document or padding; where none does, attention needs no mask."""
    rows: tuple[PackedSequence, ...]
    names: tuple[str, ...]
    """The ids of the documents in the batch."""
    content: int | None
    """Supervised tokens that are content of an assistant's turn; None where the documents have no turns."""
    weight: float
    """The sum of loss weights: what this batch adds to the divisor of the loss."""
    tokens: int
    """Tokens in it, without padding."""

    @classmethod
    def of(
        cls,
        ids_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        documents_BT: Tensor,
        rows: tuple[PackedSequence, ...] = (),
        names: tuple[str, ...] = (),
        content: int | None = None,
    ) -> PackedBatch:
        """Return a batch of these tensors, which lie on the CPU, with its counts."""
        supervised_N = weights_BT.flatten().nonzero().squeeze(1)
        weight, tokens = float(weights_BT.sum(dtype=torch.float64)), int((documents_BT >= 0).sum())
        is_packed = bool(documents_BT.any())
        return cls(
            ids_BT, targets_BT, weights_BT, documents_BT, supervised_N, is_packed, rows, names, content, weight, tokens
        )  # fmt: skip

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its tensors on a device."""
        names = ("ids_BT", "targets_BT", "weights_BT", "documents_BT", "supervised_N")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})

    def describe(self) -> str:
        """Return its rows and documents in words, for an alarm."""
        rows = ", ".join(f"{row.epoch}:{row.number}" for row in self.rows[:4])
        names = ", ".join(self.names[:8])
        more = f" and {len(self.names) - 8} more" if len(self.names) > 8 else ""
        return f"rows (epoch:number) {rows}{', ...' if len(self.rows) > 4 else ''}; documents {names}{more}"


def build_batch(dataset: TokenDataset, rows: Sequence[PackedSequence], length: int) -> PackedBatch:
    """Return a batch [B, T] of packed sequences with T = `length` tokens, filled from the dataset."""
    shape = (len(rows), length)
    ids = np.full(shape, IGNORED, np.int64)
    targets = np.full(shape, IGNORED, np.int64)
    weights = np.zeros(shape, np.float32)
    documents = np.full(shape, -1, np.int64)
    content = None
    for b, row in enumerate(rows):
        at = 0
        for number, (document, start, stop) in enumerate(row.segments):
            here = slice(at, at + stop - start)
            ids[b, here] = dataset.tokens(document, start, stop)
            documents[b, here] = number
            following = dataset.tokens(document, start + 1, stop + 1)
            there = slice(at, at + len(following))
            targets[b, there] = following
            weights[b, there] = dataset.weights(document, start + 1, stop + 1)
            is_content = dataset.content(document, start + 1, stop + 1)
            if is_content is not None:
                content = (content or 0) + int((is_content & (weights[b, there] > 0)).sum())
            at += stop - start
    names = dict.fromkeys(dataset.ids[segment.document] for row in rows for segment in row.segments)
    tensors = [torch.from_numpy(array) for array in (ids, targets, weights, documents)]
    return PackedBatch.of(tensors[0], tensors[1], tensors[2], tensors[3], tuple(rows), tuple(names), content)


class RowNumbers(NamedTuple):
    """The numbers of some rows, counted without building their tensors; the fields are those of `StepBatch`."""

    weight: float
    content: int | None
    tokens: int
    fingerprint: int


def count_rows(dataset: TokenDataset, rows: Sequence[PackedSequence]) -> RowNumbers:
    """Return the numbers of packed sequences: the same bits in every process that counts the same rows.

    The weights are summed exactly and rounded once (`math.fsum`), so no order of summing shows."""
    weights: list[float] = []
    content: int | None = None
    tokens = fingerprint = 0
    for document, start, stop in (segment for row in rows for segment in row.segments):
        weights_N = dataset.weights(document, start + 1, stop + 1)
        is_content_N = dataset.content(document, start + 1, stop + 1)
        if is_content_N is not None:
            content = (content or 0) + int((is_content_N & (weights_N > 0)).sum())
        weights.append(float(weights_N.sum(dtype=np.float64)))
        tokens += stop - start
        for array in (dataset.tokens(document, start, stop), weights_N):
            fingerprint = zlib.crc32(array.tobytes(), fingerprint)
    return RowNumbers(math.fsum(weights), content, tokens, fingerprint)


class Batches:
    """The batch of a step, as a pure function of the step. In a world of n processes each reads every n-th sequence,
    and the numbers of the step are those of all."""

    def __init__(
        self,
        dataset: TokenDataset,
        order: EpochOrder,
        batch_size: int,
        micro_batch_size: int | None = None,
        world: World = ALONE,
    ) -> None:
        """Read from `dataset` in this order; without `micro_batch_size` a process's share is one micro-batch.

        Raises a `UserError` where the batch cannot be divided into equal shares and these into micro-batches."""
        self.dataset, self.order, self.batch_size, self.world = dataset, order, batch_size, world
        share = share_of(batch_size, world)
        self.micro_batch_size = micro_batch_size or share
        if share % self.micro_batch_size:
            each = f", {share} for each of {world.size} processes," if world.size > 1 else ""
            raise UserError(
                f"a batch of {batch_size}{each} cannot be cut into micro-batches of {self.micro_batch_size}",
                expected=f"micro_batch_size that divides {share}",
            )

    def __call__(self, step: int) -> StepBatch[PackedBatch]:
        """Return this process's micro-batches of a step, with the numbers of the whole step."""
        rows = self.order.sequences(step, self.batch_size)
        mine = rows[self.world.rank :: self.world.size]
        parts = [mine[at : at + self.micro_batch_size] for at in range(0, len(mine), self.micro_batch_size)]
        micro_batches = [build_batch(self.dataset, part, self.order.seq_length) for part in parts]
        return StepBatch(micro_batches, *count_rows(self.dataset, rows))


def document_batches(
    dataset: TokenDataset, seed: int, seq_length: int, batch_size: int, micro_batch_size: int | None = None
) -> Batches:
    """Return the batches of documents as pretraining reads them: packed one after the other and cut at `seq_length`, in
    an order drawn from `seed`."""
    order = EpochOrder(dataset.digest, seed, dataset.lengths, seq_length, split_documents=True)
    return Batches(dataset, order, batch_size, micro_batch_size)


def validation_batches(
    dataset: TokenDataset, seq_length: int, batch_size: int, split_documents: bool
) -> list[PackedBatch]:
    """Return batches that hold every token of a small dataset once, in a fixed order, for the loss on a validation
    split."""
    order = EpochOrder(dataset.digest, 0, dataset.lengths, seq_length, split_documents)
    count = order.sequences_per_epoch
    parts = [range(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]
    return [build_batch(dataset, [order.sequence_at(number) for number in part], seq_length) for part in parts]
