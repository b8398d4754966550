"""Chats and comparisons to token shards, in chunks by workers, as documents are in `tokens`.

    tokens = tokenize_rows("chats", inputs, plan, folder, workers=2)
    tokens.counts      what became of every row
    tokens.aside       the first rows that only measure
    open_chats(tokens)      what is learnt, with loss weights, memory-mapped
    open_pairs(tokens)

A chunk is some megabytes of a file. A kill redoes the chunks that were being made; any number of workers makes the same
bytes; a list of all rows is nowhere. Of every row it is told what became of it:

    read = quarantined + test_overlap + held_out + too_long + same_text + kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.artifacts import stamps
from qwenkit.chat import TooLong
from qwenkit.data.chats.datasets import called, prompt_of, read_split, refuse_bad
from qwenkit.data.chats.reading import SPLIT_BYTES, ChatSplit, chat_splits
from qwenkit.data.documents import document_id, row_batches, train_validation_split
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, read_jsonl, write_jsonl
from qwenkit.stages.base import Input, sources

if TYPE_CHECKING:
    from qwenkit.alignment import StoredPairs
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.decontamination import TestIndex
    from qwenkit.data.tokens.dataset import Example
    from qwenkit.data.tokens.example_shards import ExampleShards
    from qwenkit.data.tokens.shards import Shards

ASIDE, QUARANTINE = "aside.jsonl", "quarantine.jsonl"
MEASURED = 2000  # held-out rows that are measured by: an interval of some 2 % of what is right or wrong
NO_ANSWER = "no answer to learn from"
CARRIED = ("id", "messages", "tools", "chosen", "rejected", "flipped")
PROBE = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})
OUTCOMES = ("quarantined", "test_overlap", "held_out", "too_long", "same_text", "kept")


@dataclass(frozen=True)
class Plan:
    """How rows become tokens: what the bytes of a chunk depend on, beside its rows."""

    tokenizer: Path
    style: str
    row: int
    too_long: TooLong
    share: float
    seed: int
    mask: str = "qwen"
    tests: Path | None = None

    def key(self) -> dict[str, Any]:
        """All of it but where files lie; those count by their digests."""
        return {name: value for name, value in asdict(self).items() if name not in ("tokenizer", "tests")}


@dataclass(frozen=True)
class Tokens:
    """Rows as tokens, in shards below `folder`. `aside` are the first held-out rows, as many as are measured by; `bad`
    the first that cannot be learnt from, and `reasons` why."""

    folder: Path
    kind: str
    chunks: int
    counts: Counter[str]
    reasons: Counter[str]
    aside: list[Row]
    bad: list[Row]


def tokenize_rows(
    kind: str,
    inputs: dict[str, Input],
    plan: Plan,
    folder: Path,
    *,
    max_bad: float = 1.0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> Tokens:
    """Tokenize the chats or pairs of `inputs["data"]`; what is done already in the folder stays. More rows that cannot
    be used than `max_bad` bears end it."""
    from qwenkit.data.pipeline.executor import Executor

    source = sources(inputs, "data")
    tok = _tokenizer(plan.tokenizer, plan.style, *stamps(plan.tokenizer))
    tok.render(PROBE, mask=plan.mask)  # a folder that cannot train says so at once
    splits = chat_splits(source, kind, SPLIT_BYTES)
    read = ("data", "model", "decontaminate")
    digests = [item.digest for name, item in inputs.items() if name.partition(".")[0] in read]
    key = [digests, plan.key(), [[part.path.name, part.start, part.stop] for part in splits]]
    with Executor(folder, workers, progress=progress) as work:
        marks = work.run_phase(kind, key, [(part, plan) for part in splits], ENCODE[kind])
        aside, bad = (
            list(islice(chain.from_iterable(read_jsonl(work.path(kind, n, name)) for n in range(len(splits))), some))
            for name, some in ((ASIDE, MEASURED), (QUARANTINE, Quarantine().keep))
        )
    counts, reasons = Counter[str](), Counter[str]()
    for mark in marks:
        counts.update(mark["counts"])
        reasons.update(mark["reasons"])
    refuse_bad(source, counts["read"], reasons, bad, max_bad)
    return some(Tokens(folder, kind, len(splits), counts, reasons, aside, bad), called(source))


def outcomes(counts: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    """What became of rows that were not simply learnt from, in words; nothing of what befell none."""
    return [f"{counts[name]} {what}" for name, what in words.items() if counts[name]]


def put_aside(rows: list[Row], out: Path) -> None:
    """Write down beside a model which rows were not usable, where there are any."""
    if rows:
        write_jsonl(out / QUARANTINE, rows)


def some(tokens: Tokens, source: str) -> Tokens:
    """The same; a `UserError` where nothing is left to learn from."""
    if tokens.counts["kept"]:
        return tokens
    if not tokens.counts["read"]:
        raise UserError(f"no {tokens.kind} here", where=source, expected="one JSON object a line")
    words = [f"{tokens.counts[name]} {name.replace('_', ' ')}" for name in OUTCOMES if tokens.counts[name]]
    why = [f"{reason} ({count})" for reason, count in tokens.reasons.most_common(3)]
    raise UserError(
        f"none of {tokens.counts['read']} {tokens.kind} is left to learn from: {', '.join([*words, *why])}",
        where=source,
        hint="raise `seq_length`, or set `too_long`" if tokens.counts["too_long"] else "",
    )


def open_chats(tokens: Tokens, documents: Shards | None = None, numbers: Sequence[int] = ()) -> ExampleShards:
    """The chats as one store, and behind them those `documents` of a corpus that are replayed."""
    from qwenkit.data.pipeline.executor import DONE, make_shard
    from qwenkit.data.tokens.example_shards import ExampleShards, join_examples
    from qwenkit.data.tokens.shards import INDEX, shard_folder

    folder, chunks = tokens.folder / tokens.kind, tokens.chunks
    if len(numbers):
        out = shard_folder(folder, chunks)
        if not (out / DONE).exists():
            make_shard(write_documents, out, (documents, numbers))
        chunks += 1
    if not (folder / INDEX).exists():
        join_examples(folder, chunks)
    return ExampleShards(folder)


def open_pairs(tokens: Tokens) -> StoredPairs:
    """The pairs, each read when it is asked for."""
    from qwenkit.alignment import StoredPairs
    from qwenkit.data.tokens.shards import INDEX, Shards, join_shards

    folder = tokens.folder / tokens.kind
    if not (folder / INDEX).exists():
        join_shards(folder, tokens.chunks)
    return StoredPairs(Shards(folder))


def write_documents(out: Path, documents: Shards, numbers: Sequence[int]) -> dict[str, Any]:
    """Some documents of a corpus as a shard of plain examples."""
    from qwenkit.data.tokens.dataset import Example
    from qwenkit.data.tokens.example_shards import ExampleWriter

    with ExampleWriter(out) as shard:
        for number in numbers:
            ids = documents.tokens(number, 0, int(documents.lengths[number]))
            shard.add_example(Example(f"replay/{documents.ids[number]}", ids, [1.0] * len(ids)))  # pyright: ignore[reportArgumentType]
    return {"documents": len(numbers)}


def encode_chats(out: Path, split: ChatSplit, plan: Plan) -> dict[str, Any]:
    """The chats of a part as a shard with loss weights."""
    from qwenkit.data.tokens.example_shards import ExampleWriter

    tok = _tokenizer(plan.tokenizer, plan.style, *stamps(plan.tokenizer))
    with ExampleWriter(out) as shard:

        def write(row: Row, counts: Counter[str]) -> str:
            examples, left_out = chat_examples(tok, row, plan.mask, plan.row, plan.too_long)
            learnt = [example for example in examples if example.learns]
            if examples and not learnt:
                return NO_ANSWER
            counts["parts"] += len(learnt)
            counts["cut"] += bool(learnt and (left_out or len(examples) > 1))
            counts["turns_left_out"] += left_out if learnt else 0
            for example in learnt:
                counts["tokens"] += shard.add_example(example, place=row["place"])
            return "kept" if learnt else "too_long"

        return _encode(out, split, plan, write, document_id)


def chat_examples(
    tok: ChatTokenizer, row: Row, mask: str, longest: int, too_long: TooLong
) -> tuple[list[Example], int]:
    """A chat as examples of at most `longest` tokens, and how many of its turns are in none. Their content is what
    assistants say, which the sentinel counts."""
    from qwenkit.chat import cut

    whole = example(tok, row, mask)
    if len(whole.ids) <= longest:
        return [whole], 0
    tools = row.get("tools")
    parts, left_out = cut(row["messages"], longest, too_long, lambda part: len(tok.render(part, tools, mask=mask).ids))
    names = [row["id"]] if len(parts) == 1 else [f"{row['id']}/{number}" for number in range(len(parts))]
    return [example(tok, {**row, "id": name, "messages": part}, mask) for name, part in zip(names, parts)], left_out


def example(tok: ChatTokenizer, row: Row, mask: str) -> Example:
    """A chat as ids with loss weights."""
    from qwenkit.data.tokens.dataset import Example

    r = tok.render(row["messages"], tools=row.get("tools"), mask=mask)
    content = [False] * len(r.ids)
    for start, stop, role, kind in r.spans:
        if role == "assistant" and kind == "content":
            content[start:stop] = [True] * (stop - start)
    return Example(row["id"], r.ids, r.weights, content)


def encode_comparisons(out: Path, split: ChatSplit, plan: Plan) -> dict[str, Any]:
    """The pairs of a part as a shard of texts: the chosen one, then the rejected one, of each."""
    from qwenkit.alignment.pair_encoding import encode_pair
    from qwenkit.data.tokens.shards import ShardWriter

    tok = _tokenizer(plan.tokenizer, plan.style, *stamps(plan.tokenizer))
    too_long = "truncate" if plan.too_long == "truncate" else "drop"
    with ShardWriter(out, None) as shard:

        def write(row: Row, counts: Counter[str]) -> str:
            pair, outcome, was_cut = encode_pair(row, tok, plan.row, too_long)  # pyright: ignore[reportArgumentType]
            if pair is not None:
                counts["cut"] += was_cut
                for ids in (pair.chosen, pair.rejected):
                    counts["tokens"] += shard.add({"id": pair.id, "place": row["place"]}, ids)
            return outcome

        return _encode(out, split, plan, write, prompt_of)


ENCODE: dict[str, Callable[..., dict[str, Any]]] = {"chats": encode_chats, "pairs": encode_comparisons}


def _encode(
    out: Path, split: ChatSplit, plan: Plan, write: Callable[[Row, Counter[str]], str], name: Callable[[Row], str]
) -> dict[str, Any]:
    """Read a part, set apart what overlaps a test and what is held out, and write the rest; `write` says what became of
    a row."""
    counts, quarantine = Counter[str](dict.fromkeys(OUTCOMES, 0)), Quarantine()
    aside: list[Row] = []
    for block in row_batches(read_split(split, quarantine), _letters):
        sound = without_overlap(block, plan.tests)
        kept, validation = train_validation_split(sound, plan.share, plan.seed, name)
        counts["test_overlap"] += len(block) - len(sound)
        counts["held_out"] += len(validation)
        aside += [{key: row[key] for key in CARRIED if key in row} for row in validation[: MEASURED - len(aside)]]
        for row in kept:
            outcome = _outcome(row, counts, write)
            if outcome in OUTCOMES:
                counts[outcome] += 1
            else:
                file, _, line = row["place"].rpartition(":")
                quarantine.add(outcome, file, line=int(line), sample=str(row["messages"]))
    counts["quarantined"] = len(quarantine)
    counts["read"] = sum(counts[outcome] for outcome in OUTCOMES)
    write_jsonl(out / ASIDE, aside)
    write_jsonl(out / QUARANTINE, quarantine.rows)
    return {"counts": dict(counts), "reasons": dict(quarantine.counts)}


def _outcome(row: Row, counts: Counter[str], write: Callable[[Row, Counter[str]], str]) -> str:
    """What became of a row; of one that the template refuses, why."""
    try:
        return write(row, counts)
    except UserError as error:
        return error.what


def _letters(row: Row) -> int:
    """About how long a row is."""
    return sum(len(message.get("content") or "") for message in row["messages"])


def without_overlap(rows: list[Row], tests: Path | None) -> list[Row]:
    """Those rows no message of which shares a 13-gram with a test question (report §2.1)."""
    overlaps = overlapping(rows, tests)
    return [row for row, count in zip(rows, overlaps) if not count]


def overlapping(rows: list[Row], tests: Path | None) -> list[int]:
    """How many messages of each row share 13 units with a test."""
    if tests is None or not rows:
        return [0] * len(rows)
    from qwenkit.chat.messages import text_of

    holding = iter(_tests(tests, *stamps(tests)).holding([text_of(each) for row in rows for each in row["messages"]]))
    return [sum(islice(holding, len(row["messages"]))) for row in rows]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, style: str, *_: int) -> ChatTokenizer:
    from qwenkit.chat.publish import chat_tokenizer

    return chat_tokenizer(folder, style)


@lru_cache(maxsize=1)
def _tests(testsets: Path, *_: int) -> TestIndex:
    from qwenkit.data.decontamination import TestIndex
    from qwenkit.data.test_sets import question_texts

    return TestIndex(question_texts(testsets))
