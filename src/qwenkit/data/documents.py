"""The documents that stages learn from: a corpus artifact's, or those of a plain JSONL or Parquet file with `text`.

    for row in iter_documents(corpus): ...            # one after the other; nobody need hold them all
    for split in corpus_splits(corpus): ...           # the same in file splits, each to be read by itself:
        for row in read_corpus_split(split): ...
    train, validation = train_validation_split(rows, share, seed)

A row has an `id`, a `text` and the `place` that it came from; a bad one is a `UserError` with its file and number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from qwenkit import rng
from qwenkit.compression import packing
from qwenkit.data.readers.file_splits import FileSplit, split_lines, split_row_groups
from qwenkit.errors import UserError
from qwenkit.records import Row, json_kind, name_of, numbered_jsonl, read_parquet

DOCUMENTS = "documents-*.parquet"
VALIDATION_FILE = "aside.jsonl"
"""The first rows of the validation split, in a file beside a shard. The name is frozen, for folders of earlier versions
have it, and so are "held_out" in counts and metrics, and "held-out" where a seed is derived."""
SPLIT_BYTES = 16 << 20
_BATCH_ROWS, _BATCH_CHARACTERS = 1024, 1 << 21


def corpus_splits(corpus: Path, size: int = SPLIT_BYTES) -> Iterator[FileSplit]:
    """Yield the files of a corpus artifact, or file splits of about `size` bytes of another file (all of a compressed
    one).

    Raises a `UserError` where there is no such file, or no corpus in the folder."""
    files = sorted(corpus.glob(DOCUMENTS)) if corpus.is_dir() else [corpus]
    if not files or not files[0].exists():
        raise UserError("no corpus here", where=str(corpus), expected=f"a folder with {DOCUMENTS}, or a JSONL file")
    for path in files:
        if corpus.is_dir() or packing(path):
            yield FileSplit(path)
        else:
            yield from split_row_groups(path, size) if path.suffix == ".parquet" else split_lines(path, size)


def read_corpus_split(split: FileSplit) -> Iterator[Row]:
    """Yield the documents of a file split; one without an id is named by its file and number.

    Raises a `UserError` with file and row for a row without a text, or whose id is neither a string nor a number."""
    path = split.path
    for number, (line, row) in enumerate(_numbered_rows(split), split.rows):
        where = f"{path}, row {number + 1}"
        row = {"id": f"{path.stem}-{number}", "place": f"{path.name}:{line}", **row}
        if not isinstance(row.get("text"), str):
            raise UserError("missing key `text`", where=where, expected="a string")
        row["id"] = row_id(row["id"], where)
        yield row


def _numbered_rows(split: FileSplit) -> Iterator[tuple[int, Row]]:
    """Yield rows with the number of their line."""
    if fnmatch(split.path.name, DOCUMENTS):
        from qwenkit.data.parquet_io import read_documents

        return enumerate(read_documents(split.path), 1)
    if split.path.suffix == ".parquet":
        groups = None if split.stop is None else range(split.start, split.stop)
        return enumerate(read_parquet(split.path, groups), split.lines + 1)
    return numbered_jsonl(split.path, None, split.start, split.stop, split.lines)


def row_id(value: object, where: str | None = None) -> str:
    """Return the id of a row as a string: a number becomes its digits. Raises a `UserError` for anything else."""
    name = name_of(value)
    if name is None:
        kind = "empty" if value == "" else json_kind(value)
        raise UserError(f"`id` is {kind}", where=where, expected="a string or a number")
    return name


def iter_documents(corpus: Path) -> Iterator[Row]:
    """Yield all documents of a corpus in order; raises a `UserError` where there are none."""
    row = None
    for split in corpus_splits(corpus):
        for row in read_corpus_split(split):
            yield row
    if row is None:
        raise no_documents(corpus)


def no_documents(corpus: Path) -> UserError:
    """Return the error for a corpus without documents."""
    return UserError("no documents in this file", where=str(corpus), expected="one JSON object a line, with `text`")


def _text_length(row: Row) -> int:
    return len(row["text"])


def row_batches(rows: Iterable[Row], characters: Callable[[Row], int] = _text_length) -> Iterator[list[Row]]:
    """Yield rows some at a time, in bounded memory: at most 1024 rows, and about two million characters."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += characters(row)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def document_id(row: Row) -> str:
    """Return the id of the document that a row holds: the copies of an up-sampled document share it."""
    return row["id"]


def train_validation_split(
    rows: list[Row], share: float, seed: int, name: Callable[[Row], str] = document_id
) -> tuple[list[Row], list[Row]]:
    """Return (training rows, validation rows), with about `share` of the rows in the second.

    Each name has a random draw of its own, so that one more row moves no other, and rows with equal names stay
    together."""
    names = [zlib.crc32(name(row).encode(errors="surrogatepass")) for row in rows]
    drawn = rng.uniform(seed, names) < share
    train = [row for row, is_validation in zip(rows, drawn) if not is_validation]
    return train, [row for row, is_validation in zip(rows, drawn) if is_validation]
