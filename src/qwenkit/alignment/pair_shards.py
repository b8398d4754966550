"""Comparisons to token shards, as chats are in `data.tokens.chat_shards`.

    rows = tokenize_pairs([path], digests, plan, folder, workers=2)
    pairs = open_pairs(rows)              # the training split, each pair read when it is asked for
    pair_metrics(rows)                    # what became of every pair

A shard holds two texts for each pair: the chosen one, then the rejected one. Pairs of one prompt are in the same split
of training and validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.alignment.pair_encoding import StoredPairs, encode_pair
from qwenkit.data.chats.datasets import prompt_of
from qwenkit.data.tokens.row_shards import TokenizedRows, TokenizePlan, encode_rows, outcome_words, tokenize_rows
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.data.chats.reading import ChatSplit, Source
    from qwenkit.data.pipeline.executor import DoneRecord


def tokenize_pairs(
    source: Source,
    digests: Sequence[str],
    plan: TokenizePlan,
    folder: Path,
    *,
    max_bad: float = 1.0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> TokenizedRows:
    """Tokenize comparisons into shards; see `tokenize_rows`, whose errors it raises."""
    return tokenize_rows(
        "pairs", source, digests, plan, encode_split, folder, max_bad=max_bad, workers=workers, progress=progress
    )


def open_pairs(rows: TokenizedRows) -> StoredPairs:
    """Return the pairs of the training split, each read when it is asked for."""
    from qwenkit.data.tokens.shards import INDEX, Shards, join_shards

    if not (rows.shards / INDEX).exists():
        join_shards(rows.shards, rows.splits)
    return StoredPairs(Shards(rows.shards))


def encode_split(out: Path, split: ChatSplit, plan: TokenizePlan) -> DoneRecord:
    """Write the pairs of a split as a shard of texts."""
    from qwenkit.data.tokens.shards import ShardWriter

    tok = plan.load_tokenizer()
    too_long = "truncate" if plan.too_long == "truncate" else "drop"
    with ShardWriter(out, None) as shard:

        def write(row: Row, counts: Counter[str]) -> str:
            pair, outcome, was_cut = encode_pair(row, tok, plan.seq_length, too_long)
            if pair is not None:
                counts["cut"] += was_cut
                for ids in (pair.chosen, pair.rejected):
                    counts["tokens"] += shard.add({"id": pair.id, "place": row["place"]}, ids)
            return outcome

        return encode_rows(out, split, plan, write, prompt_of)


def pair_metrics(rows: TokenizedRows) -> dict[str, int]:
    """Return what became of every pair: read = quarantined + held out + too long + same text + pairs."""
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
