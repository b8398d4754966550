"""Rows of chats or comparisons to token shards, a file split at a time by workers, as documents are in `tokenize`.

    rows = tokenize_rows(CHAT_ROWS, [path], digests, plan, folder, workers=2)
    rows.counts         what became of every row
    rows.validation     the first rows of the validation split

The work from the top down:

1. `tokenize_rows` is given a `RowKind`: `chat_shards.CHAT_ROWS` or `alignment.pair_shards.PAIR_ROWS`.
2. It lists the file splits of the source (some megabytes of a file each) and gives each of them to
   `Executor.run_phase` as one task. It sums up what the tasks return.
3. A worker process runs `encode_file_split` for a task: it opens the kind's writer on an empty folder, reads the rows,
   drops those that overlap a test, sets the validation rows apart, and counts what becomes of every row.
4. `RowKind.open_writer` opens the shard and gives a function `write(row, counts)` (`chat_shards.write_chat`,
   `pair_shards.write_pair`), which encodes a row of the training split, writes its tokens and returns its outcome.

After a kill only the file splits that were being encoded are repeated, any number of workers makes the same bytes, and
all rows are never in memory at once. Every row is counted once:

    read = quarantined + test_overlap + held_out + too_long + same_text + kept

where `held_out` are the rows of the validation split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwenkit.artifacts import stamps
from qwenkit.chat import TooLong
from qwenkit.data.chats.datasets import QUARANTINE, called, read_checked_split, refuse_bad
from qwenkit.data.chats.overlap import without_overlap
from qwenkit.data.chats.reading import SPLIT_BYTES, ChatSplit, Source, chat_splits
from qwenkit.data.documents import VALIDATION_FILE, row_batches, train_validation_split
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.pipeline.executor import DoneRecord

MAX_VALIDATION_ROWS = 2000
"""Validation rows that are measured by: the interval of a share over them is about 2 % wide."""
OUTCOMES = ("quarantined", "test_overlap", "held_out", "too_long", "same_text", "kept")
_VALIDATION_KEYS = ("id", "messages", "tools", "chosen", "rejected", "flipped")
_PROBE = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})


@dataclass(frozen=True)
class TokenizePlan:
    """How rows become tokens: everything that the bytes of a shard depend on besides its rows."""

    tokenizer: Path
    style: str
    seq_length: int
    """Tokens that a chat, or a side of a pair, may have."""
    too_long: TooLong
    validation_share: float
    seed: int
    """Of the draw of the validation split."""
    mask: str = "qwen"
    tests: Path | None = None
    """Test sets: a row that shares a 13-gram with one of them is dropped."""

    def key(self) -> dict[str, Any]:
        """Return all of it but the paths, whose content counts by its digest. These names stand in files."""
        return {
            "style": self.style, "row": self.seq_length, "too_long": self.too_long, "share": self.validation_share,
            "seed": self.seed, "mask": self.mask,
        }  # fmt: skip

    def load_tokenizer(self) -> ChatTokenizer:
        """Return the tokenizer with its chat style, loaded once in a process while its files stay as they are."""
        return _tokenizer(self.tokenizer, self.style, *stamps(self.tokenizer))


@dataclass(frozen=True)
class TokenizedRows:
    """Rows as tokens, in `shard_count` shards below `folder`. `validation` are the first rows of the validation split,
    as many as are measured by; `quarantined` the first that cannot be learnt from, and `reasons` counts why."""

    folder: Path
    kind: str
    shard_count: int
    counts: Counter[str]
    reasons: Counter[str]
    validation: list[Row]
    quarantined: list[Row]

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / self.kind


WriteRow = Callable[[Row, Counter[str]], str]
"""`write(row, counts)`: write the tokens of a row, add to the counts, and return one of `OUTCOMES`, or the reason why
the row cannot be used."""


@dataclass(frozen=True)
class RowKind:
    """How one kind of rows is read and written. Its functions are a module's own, for workers find them by name."""

    name: Literal["chats", "pairs"]
    open_writer: Callable[[Path, TokenizePlan], AbstractContextManager[WriteRow]]
    """Open the writer of a shard in an empty folder."""
    group: Callable[[Row], str]
    """The name that a row shares with others: rows of one name are all in the training split or all in the validation
    split."""


def tokenize_rows(
    kind: RowKind,
    source: Source,
    digests: Sequence[str],
    plan: TokenizePlan,
    folder: Path,
    *,
    max_bad: float = 1.0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> TokenizedRows:
    """Tokenize the rows of `source`; finished shards in the folder are kept.

    `digests` are of everything that is read: the rows, the tokenizer, the tests. Raises a `UserError` where more than a
    share `max_bad` of the rows cannot be used, where none is left to learn from, and for a tokenizer that cannot train.
    """
    from qwenkit.data.pipeline.executor import Executor

    plan.load_tokenizer().render(_PROBE, mask=plan.mask)  # a folder that cannot train says so at once
    file_splits = chat_splits(source, kind.name, SPLIT_BYTES)
    key = [list(digests), plan.key(), [[each.path.name, each.start, each.stop] for each in file_splits]]
    with Executor(folder, workers, progress=progress) as work:
        tasks = [(file_split, plan, kind) for file_split in file_splits]
        records = work.run_phase(kind.name, key, tasks, encode_file_split)

        def first_rows(name: str, most: int) -> list[Row]:
            files = (work.path(kind.name, number, name) for number in range(len(file_splits)))
            return list(islice(chain.from_iterable(map(read_jsonl, files)), most))

        validation = first_rows(VALIDATION_FILE, MAX_VALIDATION_ROWS)
        quarantined = first_rows(QUARANTINE, Quarantine().keep)
    counts, reasons = Counter[str](), Counter[str]()
    for record in records:
        counts.update(record["counts"])
        reasons.update(record["reasons"])
    refuse_bad(source, counts["read"], reasons, quarantined, max_bad)
    rows = TokenizedRows(folder, kind.name, len(file_splits), counts, reasons, validation, quarantined)
    _refuse_nothing_left(rows, called(source))
    return rows


def _refuse_nothing_left(rows: TokenizedRows, source: str) -> None:
    """Raise a `UserError` where no row is left to learn from."""
    if rows.counts["kept"]:
        return
    if not rows.counts["read"]:
        raise UserError(f"no {rows.kind} here", where=source, expected="one JSON object a line")
    words = [f"{rows.counts[name]} {name.replace('_', ' ')}" for name in OUTCOMES if rows.counts[name]]
    why = [f"{reason} ({count})" for reason, count in rows.reasons.most_common(3)]
    raise UserError(
        f"none of {rows.counts['read']} {rows.kind} is left to learn from: {', '.join([*words, *why])}",
        where=source,
        hint="raise `seq_length`, or set `too_long`" if rows.counts["too_long"] else "",
    )


def encode_file_split(out: Path, file_split: ChatSplit, plan: TokenizePlan, kind: RowKind) -> DoneRecord:
    """Write the training rows of a file split as a shard into the folder `out`, and beside it its first validation rows
    and the rows that cannot be used. Return `counts` by outcome, and `reasons` of the unusable rows.

    Rows that overlap a test are only counted."""
    counts, quarantine = Counter[str](dict.fromkeys(OUTCOMES, 0)), Quarantine()
    first: list[Row] = []
    with kind.open_writer(out, plan) as write:
        for batch in row_batches(read_checked_split(file_split, quarantine), _characters):
            usable = without_overlap(batch, plan.tests)
            train, validation = train_validation_split(usable, plan.validation_share, plan.seed, kind.group)
            counts["test_overlap"] += len(batch) - len(usable)
            counts["held_out"] += len(validation)
            few = validation[: MAX_VALIDATION_ROWS - len(first)]
            first += [{key: row[key] for key in _VALIDATION_KEYS if key in row} for row in few]
            for row in train:
                outcome = _outcome(row, counts, write)
                if outcome in OUTCOMES:
                    counts[outcome] += 1
                else:
                    file, _, line = row["place"].rpartition(":")
                    quarantine.add(outcome, file, line=int(line), sample=str(row["messages"]))
    counts["quarantined"] = len(quarantine)
    counts["read"] = sum(counts[outcome] for outcome in OUTCOMES)
    write_jsonl(out / VALIDATION_FILE, first)
    write_jsonl(out / QUARANTINE, quarantine.rows)
    return {"counts": dict(counts), "reasons": dict(quarantine.counts)}


def _outcome(row: Row, counts: Counter[str], write: WriteRow) -> str:
    """Write a row and return its outcome; for one that the template refuses, the reason."""
    try:
        return write(row, counts)
    except UserError as error:
        return error.what


def _characters(row: Row) -> int:
    """Return about how long a row is, in characters."""
    return sum(len(message.get("content") or "") for message in row["messages"])


def outcome_words(counts: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    """Return how many rows were not simply learnt from, in words ("3 too long"), for those counts that are not 0."""
    return [f"{counts[name]} {what}" for name, what in words.items() if counts[name]]


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, style: str, *_: int) -> ChatTokenizer:
    from qwenkit.chat.publish import chat_tokenizer

    return chat_tokenizer(folder, style)
