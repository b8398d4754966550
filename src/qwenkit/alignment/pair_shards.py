"""Comparisons to token shards, as chats are in `data.tokens.chat_shards`.

    rows = tokenize_rows(PAIR_ROWS, [path], digests, plan, folder, workers=2)
    pairs = open_pairs(rows)              # the training split, each pair read when it is asked for
    pair_metrics(rows)                    # what became of every pair

A shard holds two texts for each pair: the chosen one, then the rejected one. Pairs of one prompt are all in the
training split or all in the validation split. The flow from files to shards is in `data.tokens.row_shards`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.alignment.pair_encoding import StoredPairs, encode_pair
from qwenkit.data.chats.datasets import prompt_of
from qwenkit.data.tokens.row_shards import RowKind, TokenizedRows, TokenizePlan, WriteRow, outcome_words
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.alignment.pair_encoding import ChatRenderer
    from qwenkit.data.tokens.shards import ShardWriter


@contextmanager
def pair_writer(out: Path, plan: TokenizePlan) -> Iterator[WriteRow]:
    """Open a shard of texts in a folder, and give the function that writes a pair into it."""
    from qwenkit.data.tokens.shards import ShardWriter

    with ShardWriter(out, None) as shard:
        yield partial(write_pair, shard, plan.load_tokenizer(), plan)


def write_pair(shard: ShardWriter, tok: ChatRenderer, plan: TokenizePlan, row: Row, counts: Counter[str]) -> str:
    """Write a pair as two texts, the chosen one first; return `kept`, `too_long` or `same_text`.

    Adds to `counts`: cut (1 for a pair whose prompt is cut) and tokens."""
    too_long = "truncate" if plan.too_long == "truncate" else "drop"
    pair, outcome, was_cut = encode_pair(row, tok, plan.seq_length, too_long)
    if pair is not None:
        counts["cut"] += was_cut
        for ids in (pair.chosen, pair.rejected):
            counts["tokens"] += shard.add({"id": pair.id, "place": row["place"]}, ids)
    return outcome


PAIR_ROWS = RowKind("pairs", pair_writer, prompt_of)
"""Comparisons: the pairs of one prompt are in one split."""


def open_pairs(rows: TokenizedRows) -> StoredPairs:
    """Return the pairs of the training split, each read when it is asked for."""
    from qwenkit.data.tokens.shards import INDEX, Shards, join_shards

    if not (rows.shards / INDEX).exists():
        join_shards(rows.shards, rows.shard_count)
    return StoredPairs(Shards(rows.shards))


def pair_metrics(rows: TokenizedRows) -> dict[str, int]:
    """Return what became of every pair: read = quarantined + validation + too long + same text + pairs."""
    names = {"read": "read", "quarantined": "quarantined", "held_out": "held_out", "too_long": "too_long",
             "same_text": "same_text", "pairs": "kept", "cut": "cut"}  # fmt: skip
    return {name: rows.counts[count] for name, count in names.items()}


_NOT_LEARNT = {
    "too_long": "longer than `seq_length` and left out",
    "cut": "longer than `seq_length` and without the oldest turns",
    "same_text": "with two equal answers left out",
    "quarantined": "not usable and put aside",
}


def pair_summary(metrics: Mapping[str, int]) -> str:
    """Return in words how many pairs were learnt from and how many were not, of the counts of `pair_metrics`."""
    return ", ".join([f"{metrics['pairs']} pairs", *outcome_words(metrics, _NOT_LEARNT)])
