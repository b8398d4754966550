"""Chats to token shards with loss weights (report §3.1).

    rows = tokenize_rows(CHAT_ROWS, [path], digests, plan, folder, workers=2)
    dataset = open_chats(rows)            # the training split, memory-mapped
    chat_metrics(rows)                    # what became of every chat

A chat of more tokens than `plan.seq_length` is dropped, or cut between its turns (`plan.too_long`). The flow from files
to shards is in `row_shards`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qwenkit.chat import TooLong
from qwenkit.data.documents import document_id
from qwenkit.data.tokens.row_shards import RowKind, TokenizedRows, TokenizePlan, WriteRow, outcome_words
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.pipeline.executor import DoneRecord
    from qwenkit.data.tokens.dataset import Example
    from qwenkit.data.tokens.example_shards import ExampleShards, ExampleWriter
    from qwenkit.data.tokens.shards import Shards

NO_ANSWER = "no answer to learn from"


@contextmanager
def chat_writer(out: Path, plan: TokenizePlan) -> Iterator[WriteRow]:
    """Open a shard with loss weights in a folder, and give the function that writes a chat into it."""
    from qwenkit.data.tokens.example_shards import ExampleWriter

    with ExampleWriter(out) as shard:
        yield partial(write_chat, shard, plan.load_tokenizer(), plan)


def write_chat(shard: ExampleWriter, tok: ChatTokenizer, plan: TokenizePlan, row: Row, counts: Counter[str]) -> str:
    """Write a chat as one example, or as several where it is cut; return `kept`, `too_long`, or `NO_ANSWER`.

    Adds to `counts`: parts (examples written), cut (1 for a chat that is cut), turns_left_out, tokens."""
    examples, left_out = chat_examples(tok, row, plan.mask, plan.seq_length, plan.too_long)
    learnt = [example for example in examples if example.learns]
    if examples and not learnt:
        return NO_ANSWER
    counts["parts"] += len(learnt)
    counts["cut"] += bool(learnt and (left_out or len(examples) > 1))
    counts["turns_left_out"] += left_out if learnt else 0
    for example in learnt:
        counts["tokens"] += shard.add_example(example, place=row["place"])
    return "kept" if learnt else "too_long"


CHAT_ROWS = RowKind("chats", chat_writer, document_id)
"""Chats: the copies of an up-sampled chat are in one split."""


def chat_examples(
    tok: ChatTokenizer, row: Row, mask: str, max_tokens: int, too_long: TooLong
) -> tuple[list[Example], int]:
    """Return a chat as examples of at most `max_tokens` tokens, and how many of its turns are in none of them."""
    from qwenkit.chat import cut

    intact = chat_example(tok, row, mask)
    if len(intact.ids) <= max_tokens:
        return [intact], 0
    tools = row.get("tools")
    parts, left_out = cut(
        row["messages"], max_tokens, too_long, lambda part: len(tok.render(part, tools, mask=mask).ids)
    )
    names = [row["id"]] if len(parts) == 1 else [f"{row['id']}/{number}" for number in range(len(parts))]
    examples = [chat_example(tok, {**row, "id": name, "messages": part}, mask) for name, part in zip(names, parts)]
    return examples, left_out


def chat_example(tok: ChatTokenizer, row: Row, mask: str) -> Example:
    """Return a chat as ids with loss weights; its content is what assistants say, which the sentinel counts."""
    from qwenkit.data.tokens.dataset import Example

    rendered = tok.render(row["messages"], tools=row.get("tools"), mask=mask)
    content = [False] * len(rendered.ids)
    for start, stop, role, kind in rendered.spans:
        if role == "assistant" and kind == "content":
            content[start:stop] = [True] * (stop - start)
    return Example(row["id"], rendered.ids, rendered.weights, content)


def open_chats(rows: TokenizedRows, documents: Shards | None = None, numbers: Sequence[int] = ()) -> ExampleShards:
    """Return the chats as one dataset, and behind them those `documents` of a corpus that are replayed."""
    from qwenkit.data.pipeline.executor import DONE, make_shard
    from qwenkit.data.tokens.example_shards import ExampleShards, join_examples
    from qwenkit.data.tokens.shards import INDEX, shard_folder

    folder, shards = rows.shards, rows.shard_count
    if len(numbers):
        out = shard_folder(folder, shards)
        if not (out / DONE).exists():
            make_shard(write_documents, out, (documents, numbers))
        shards += 1
    if not (folder / INDEX).exists():
        join_examples(folder, shards)
    return ExampleShards(folder)


def write_documents(out: Path, documents: Shards, numbers: Sequence[int]) -> DoneRecord:
    """Write some documents of a corpus as a shard of plain examples, every token with loss weight 1."""
    from qwenkit.data.tokens.dataset import Example
    from qwenkit.data.tokens.example_shards import ExampleWriter

    with ExampleWriter(out) as shard:
        for number in numbers:
            ids = documents.tokens(number, 0, int(documents.lengths[number]))
            shard.add_example(Example(f"replay/{documents.ids[number]}", ids, [1.0] * len(ids)))
    return {"documents": len(numbers)}


def chat_metrics(rows: TokenizedRows) -> dict[str, int]:
    """Return what became of every chat: read = quarantined + dropped + validation + chats."""
    names = {"read": "read", "quarantined": "quarantined", "dropped_test_overlap": "test_overlap",
             "held_out": "held_out", "dropped_too_long": "too_long", "chats": "kept", "conversations": "parts",
             "cut": "cut", "turns_left_out": "turns_left_out"}  # fmt: skip
    return {name: rows.counts[count] for name, count in names.items()}


_NOT_LEARNT = {
    "dropped_test_overlap": "that overlap a test left out",
    "dropped_too_long": "too long for a row and left out",
    "cut": "too long for a row and cut between turns",
    "quarantined": "not usable and put aside",
}


def chat_summary(metrics: Mapping[str, int]) -> str:
    """Return in words how many chats were learnt from and how many were not, of the counts of `chat_metrics`."""
    chats = f"{metrics['chats']} chats"
    if metrics["conversations"] > metrics["chats"]:
        chats += f" in {metrics['conversations']} parts"
    return ", ".join([chats, *outcome_words(metrics, _NOT_LEARNT)])
