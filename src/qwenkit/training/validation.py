"""The validation split of a training: documents by source or chats as batches, and the loss on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qwenkit.data.tokens.chat_shards import chat_examples
from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.tokenize import DEFAULT_SOURCE, MAX_VALIDATION_DOCUMENTS
from qwenkit.records import Row
from qwenkit.training.batches import PackedBatch, validation_batches
from qwenkit.training.lm_loss import mean_loss

if TYPE_CHECKING:
    from torch import nn

    from qwenkit.chat import ChatTokenizer, TooLong


def validation_sets(
    tok: ChatTokenizer, rows: Sequence[Row], seq_length: int, limit: int = MAX_VALIDATION_DOCUMENTS
) -> dict[str, list[PackedBatch]]:
    """Return documents as packed batches by source (`text` where none is named), at most `limit` documents of each."""
    sets: dict[str, list[PackedBatch]] = {}
    sources = [str(row.get("source") or DEFAULT_SOURCE) for row in rows]
    for source in sorted(set(sources)):
        chosen = [row for row, name in zip(rows, sources) if name == source][:limit]
        ids = [[*tok.encode(row["text"]), tok.eot_id] for row in chosen]
        dataset = InMemoryTokenDataset(Example(row["id"], i, [1.0] * len(i)) for row, i in zip(chosen, ids))
        sets[source] = validation_batches(dataset, seq_length, 8, True)
    return sets


def validation_chats(
    tok: ChatTokenizer, rows: Sequence[Row], seq_length: int, mask: str, too_long: TooLong
) -> dict[str, list[PackedBatch]]:
    """Return chats as packed batches of the set `chats`; no set where none of them is learnt from."""
    parts = (chat_examples(tok, row, mask, seq_length, too_long)[0] for row in rows)
    dataset = InMemoryTokenDataset(example for examples in parts for example in examples if example.learns)
    return {"chats": validation_batches(dataset, seq_length, 8, False)} if len(dataset.lengths) else {}


def validation_losses(model: nn.Module, sets: Mapping[str, Sequence[PackedBatch]]) -> dict[str, float]:
    """Return the loss on each set, in nats per token, rounded to five digits."""
    return {name: round(mean_loss(model, batches)["loss"], 5) for name, batches in sets.items()}
