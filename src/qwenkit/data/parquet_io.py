"""Rows to Parquet and back in bounded memory: the form of everything between the phases of a corpus."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qwenkit.files import corrupted
from qwenkit.records import Row

DOCUMENT = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "source", "kind", "licence", "language", "url", "place", "meta")]
    + [("copy", pa.int32())]
)
LEDGER = pa.schema(
    [(name, pa.string()) for name in ("id", "source", "place", "step", "rule", "seen", "of")] + [("copies", pa.int32())]
)
_ROWS, _CHARACTERS = 1000, 8 << 20


class Writer:
    """Appends rows to a Parquet file; a row group is some megabytes. Same rows, same bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = pq.ParquetWriter(str(path), schema, compression="zstd")
        self._rows: list[Row] = []
        self._size = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._file.close()

    def add(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)
        self._size += len(row.get("text") or "")
        if len(self._rows) >= _ROWS or self._size >= _CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a row group."""
        if self._rows:
            columns = {field.name: [row.get(field.name) for row in self._rows] for field in self._schema}
            self._file.write_table(pa.table(columns, schema=self._schema))
            self._rows, self._size = [], 0


@contextlib.contextmanager
def sound(path: Path) -> Iterator[None]:
    """What cannot be read of a Parquet file that may come from anywhere, in words."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise corrupted(path, "Parquet") from error


def refuse_other_columns(schema: pa.Schema, known: pa.Schema) -> None:
    """A `KeyError` where a file lacks a column that is read, or has others in its place: for `sound` to tell."""
    for field in known:
        if schema.field(field.name).type != field.type:
            raise KeyError(field.name)


def read(path: Path, columns: list[str] | None = None) -> Iterator[list[Row]]:
    """Yield a Parquet file's rows, a batch at a time: no more than a row group is in memory."""
    file = pq.ParquetFile(str(path))
    for group in range(file.metadata.num_row_groups):
        yield file.read_row_group(group, columns=columns).to_pylist()


def read_documents(path: Path) -> Iterator[Row]:
    """Yield documents as people know them: the source's own plain fields among them, empty columns left out."""
    for rows in read(path):
        for row in rows:
            meta = json.loads(row.pop("meta") or "{}")
            yield {**meta, **{key: value for key, value in row.items() if value is not None}}


def join(paths: Iterable[Path], out: Path, schema: pa.Schema) -> None:
    """Some files of one schema as one."""
    with pq.ParquetWriter(str(out), schema, compression="zstd") as writer:
        for path in paths:
            file = pq.ParquetFile(str(path))
            for group in range(file.metadata.num_row_groups):
                writer.write_table(file.read_row_group(group))
