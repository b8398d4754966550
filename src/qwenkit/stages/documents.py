"""The documents that stages learn from: a corpus artifact's, or those of a plain JSONL or Parquet file with `text`.

    for row in documents(corpus): ...          # one after the other; nobody need hold them all
    for part in parts(corpus): ...             # the same in parts of some megabytes, each to be read by itself:
        for row in read_part(part): ...
    kept, aside = split(rows, share, seed)     # which of them only measure

A row has an `id`, a `text` and the `place` that it came from; a bad one is a `UserError` with its file and number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from qwenkit import rng
from qwenkit.compression import packing
from qwenkit.data.test_sets import identity
from qwenkit.errors import UserError
from qwenkit.records import Row, numbered_jsonl, read_parquet, row_groups

DOCUMENTS = "documents-*.parquet"
PART_BYTES = 16 << 20
_ROWS, _CHARACTERS = 1024, 1 << 21  # of a block


@dataclass(frozen=True)
class Part:
    """A part of a file that is read by itself: of JSONL the bytes `start` to `stop`, of Parquet row groups; before it
    there are so many `lines`, of which so many are `rows`."""

    path: Path
    start: int = 0
    stop: int | None = None
    lines: int = 0
    rows: int = 0


def parts(corpus: Path, size: int = PART_BYTES) -> Iterator[Part]:
    """The files of a corpus artifact, or parts of another file of about `size` bytes; a packed file is one part."""
    files = sorted(corpus.glob(DOCUMENTS)) if corpus.is_dir() else [corpus]
    if not files or not files[0].exists():
        raise UserError("no corpus here", where=str(corpus), expected=f"a folder with {DOCUMENTS}, or a JSONL file")
    for path in files:
        if corpus.is_dir() or packing(path):
            yield Part(path)
        elif path.suffix == ".parquet":
            yield from _row_groups(path, size)
        else:
            from qwenkit.data.readers.text_lines import line_parts

            yield from (Part(path, *part) for part in line_parts(path, size))


def _row_groups(path: Path, size: int) -> Iterator[Part]:
    import pyarrow as pa

    try:
        yield from (Part(path, start, stop, rows, rows) for start, stop, rows in row_groups(path, size))
    except (pa.ArrowException, OSError):  # reading will say what is wrong with it
        yield Part(path)


def read_part(part: Part) -> Iterator[Row]:
    """The documents of a part. One without an id is called by its file and number."""
    path = part.path
    for number, (line, row) in enumerate(_numbered(part), part.rows):
        where = f"{path}, row {number + 1}"
        row = {"id": f"{path.stem}-{number}", "place": f"{path.name}:{line}", **row}
        if not isinstance(row.get("text"), str):
            raise UserError("missing key `text`", where=where, expected="a string")
        row["id"] = identity(row["id"], where)
        yield row


def _numbered(part: Part) -> Iterator[tuple[int, Row]]:
    """Rows with the number of their line."""
    if fnmatch(part.path.name, DOCUMENTS):
        from qwenkit.data.parquet_io import read_documents

        return enumerate(read_documents(part.path), 1)
    if part.path.suffix == ".parquet":
        groups = None if part.stop is None else range(part.start, part.stop)
        return enumerate(read_parquet(part.path, groups), part.lines + 1)
    return numbered_jsonl(part.path, None, part.start, part.stop, part.lines)


def documents(corpus: Path) -> Iterator[Row]:
    """All documents; none at all is a mistake."""
    row = None
    for part in parts(corpus):
        for row in read_part(part):
            yield row
    if row is None:
        raise empty(corpus)


def empty(corpus: Path) -> UserError:
    """What is said of a corpus without documents."""
    return UserError("no documents in this file", where=str(corpus), expected="one JSON object a line, with `text`")


def _letters(row: Row) -> int:
    return len(row["text"])


def blocks(rows: Iterable[Row], letters: Callable[[Row], int] = _letters) -> Iterator[list[Row]]:
    """Documents some at a time, in bounded memory."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += letters(row)
        if len(block) == _ROWS or size >= _CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def document_of(row: Row) -> str:
    """The document that a row is: the copies of one that is up-sampled share its id."""
    return row["id"]


def split(
    rows: list[Row], share: float, seed: int, name: Callable[[Row], str] = document_of
) -> tuple[list[Row], list[Row]]:
    """(kept, held out): by a draw for each name, so that one row more moves no other, and equal names stay together."""
    names = [zlib.crc32(name(row).encode(errors="surrogatepass")) for row in rows]
    aside = rng.uniform(seed, names) < share
    return [r for r, out in zip(rows, aside) if not out], [r for r, out in zip(rows, aside) if out]
