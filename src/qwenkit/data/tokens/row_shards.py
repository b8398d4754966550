"""Rows of chats or comparisons to token shards, a split of a file at a time by workers, as documents are in `tokenize`.

    rows = tokenize_rows("chats", [path], digests, plan, encode_split, folder, workers=2)
    rows.counts         what became of every row
    rows.validation     the first rows of the validation split

What a row becomes is said by the function that encodes a split: `chat_shards.encode_split` for chats,
`alignment.pair_shards.encode_split` for comparisons. A split is some megabytes of a file. A kill redoes the splits that
were being made, any number of workers makes the same bytes, and all rows are never in memory at once. Every row is
counted once:

    read = quarantined + test_overlap + held_out + too_long + same_text + kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit.artifacts import stamps
from qwenkit.chat import TooLong
from qwenkit.data.chats.datasets import QUARANTINE, called, read_split, refuse_bad
from qwenkit.data.chats.overlap import without_overlap
from qwenkit.data.chats.reading import SPLIT_BYTES, ChatSplit, Source, chat_splits
from qwenkit.data.documents import row_batches, train_validation_split
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.pipeline.executor import DoneRecord

VALIDATION = "aside.jsonl"
MAX_VALIDATION_ROWS = 2000
"""Validation rows that are measured by: the interval of a share over them is about 2 % wide."""
OUTCOMES = ("quarantined", "test_overlap", "held_out", "too_long", "same_text", "kept")
_VALIDATION_KEYS = ("id", "messages", "tools", "chosen", "rejected", "flipped")
_PROBE = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})


@dataclass(frozen=True)
class TokenizePlan:
    """How rows become tokens: everything that the bytes of a split depend on besides its rows."""

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
    """Rows as tokens, in `splits` shards below `folder`. `validation` are the first rows of the validation split, as
    many as are measured by; `quarantined` the first that cannot be learnt from, and `reasons` counts why."""

    folder: Path
    kind: str
    splits: int
    counts: Counter[str]
    reasons: Counter[str]
    validation: list[Row]
    quarantined: list[Row]

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / self.kind


EncodeSplit = Callable[[Path, ChatSplit, TokenizePlan], "DoneRecord"]
"""Write the tokens of a split as a shard into a folder. A function of a module, for workers must find it by name."""


def tokenize_rows(
    kind: str,
    source: Source,
    digests: Sequence[str],
    plan: TokenizePlan,
    encode: EncodeSplit,
    folder: Path,
    *,
    max_bad: float = 1.0,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> TokenizedRows:
    """Tokenize the `kind` ("chats" or "pairs") of rows in `source`; what is done already in the folder stays.

    `digests` are of everything that is read: the rows, the tokenizer, the tests. Raises a `UserError` where more than a
    share `max_bad` of the rows cannot be used, where none is left to learn from, and for a tokenizer that cannot train.
    """
    from qwenkit.data.pipeline.executor import Executor

    plan.load_tokenizer().render(_PROBE, mask=plan.mask)  # a folder that cannot train says so at once
    splits = chat_splits(source, kind, SPLIT_BYTES)
    key = [list(digests), plan.key(), [[split.path.name, split.start, split.stop] for split in splits]]
    with Executor(folder, workers, progress=progress) as work:
        records = work.run_phase(kind, key, [(split, plan) for split in splits], encode)
        validation, quarantined = (
            list(islice(chain.from_iterable(read_jsonl(work.path(kind, n, name)) for n in range(len(splits))), most))
            for name, most in ((VALIDATION, MAX_VALIDATION_ROWS), (QUARANTINE, Quarantine().keep))
        )
    counts, reasons = Counter[str](), Counter[str]()
    for record in records:
        counts.update(record["counts"])
        reasons.update(record["reasons"])
    refuse_bad(source, counts["read"], reasons, quarantined, max_bad)
    rows = TokenizedRows(folder, kind, len(splits), counts, reasons, validation, quarantined)
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


def outcome_words(counts: Mapping[str, int], words: Mapping[str, str]) -> list[str]:
    """Return how many rows were not simply learnt from, in words ("3 too long"), for those counts that are not 0."""
    return [f"{counts[name]} {what}" for name, what in words.items() if counts[name]]


def encode_rows(
    out: Path,
    split: ChatSplit,
    plan: TokenizePlan,
    write: Callable[[Row, Counter[str]], str],
    name: Callable[[Row], str],
) -> DoneRecord:
    """Read a split, set apart rows that overlap a test and the validation rows, and give the others to `write`.

    `write(row, counts)` writes a row and returns one of `OUTCOMES`, or the reason why the row cannot be used. Rows of
    one `name` are in the same split of training and validation.
    """
    counts, quarantine = Counter[str](dict.fromkeys(OUTCOMES, 0)), Quarantine()
    first: list[Row] = []
    for batch in row_batches(read_split(split, quarantine), _characters):
        usable = without_overlap(batch, plan.tests)
        train, validation = train_validation_split(usable, plan.validation_share, plan.seed, name)
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
    write_jsonl(out / VALIDATION, first)
    write_jsonl(out / QUARANTINE, quarantine.rows)
    return {"counts": dict(counts), "reasons": dict(quarantine.counts)}


def _outcome(row: Row, counts: Counter[str], write: Callable[[Row, Counter[str]], str]) -> str:
    """What became of a row; of one that the template refuses, why."""
    try:
        return write(row, counts)
    except UserError as error:
        return error.what


def _characters(row: Row) -> int:
    """About how long a row is."""
    return sum(len(message.get("content") or "") for message in row["messages"])


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, style: str, *_: int) -> ChatTokenizer:
    from qwenkit.chat.publish import chat_tokenizer

    return chat_tokenizer(folder, style)
