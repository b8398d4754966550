"""Trace a document: from its file to the tokens of a step, and back.

    fates(corpus, "page-00012")                 -> rows of the ledger with this id, and of copies dropped for it
    index.find("page-00012")                    -> its numbers in the index of the tokens, one for each copy of it
    steps_of(order, numbers, batch_size, steps) -> the steps that show each of them, in all epochs of a run
    seen_in(order, index, 17, batch_size)       -> the documents of a step: where they come from, which of their tokens

Steps and their batches are a pure function of the order of a run; nothing is recorded while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from qwenkit.data import parquet_io
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.data.tokens.shards import Index
from qwenkit.errors import UserError, nearest
from qwenkit.records import Row


def fates(corpus: Path, name: str) -> list[Row]:
    """Return the ledger's rows of a document, and of the copies that were dropped for it."""
    path = corpus / "ledger.parquet"
    if not path.exists():
        raise UserError("no ledger here", where=str(corpus), expected="a corpus artifact with ledger.parquet")
    with parquet_io.sound(path):
        parquet_io.refuse_other_columns(pq.read_schema(str(path)), parquet_io.LEDGER)
        rows = pq.read_table(str(path), filters=[("id", "=", name)]).to_pylist()
        if rows:
            return rows + pq.read_table(str(path), filters=[("of", "=", name)]).to_pylist()
        known = pq.read_table(str(path), columns=["id"])["id"].slice(0, 100_000).to_pylist()
    raise UserError(f"no document {name!r} in this corpus", where=str(path), nearest=nearest(name, known))


def steps_of(order: EpochOrder, documents: Sequence[int], batch_size: int, steps: int) -> dict[int, list[int]]:
    """Return, for each of some documents, those of the first `steps` steps that show it; an epoch is packed once for
    all."""
    steps_by_document: dict[int, set[int]] = {document: set() for document in documents}
    for epoch in range(math.ceil(order.epoch_of(steps, batch_size)) if documents else 0):
        for document, shown in steps_by_document.items():
            shown.update(step for step in order.find(document, batch_size, epoch) if step < steps)
    return {document: sorted(shown) for document, shown in steps_by_document.items()}


def seen_in(order: EpochOrder, index: Index, step: int, batch_size: int) -> list[Row]:
    """Return the documents of a step as rows of the index, each with the `pieces` of it that the step shows."""
    pieces: dict[int, list[tuple[int, int]]] = {}
    for sequence in order.sequences(step, batch_size):
        for document, start, stop in sequence.segments:
            pieces.setdefault(document, []).append((start, stop))
    numbers = sorted(pieces)
    return [{**row, "pieces": sorted(pieces[number])} for number, row in zip(numbers, index.origins(numbers))]
