"""Rows out of files: JSON in its forms, CSV and Parquet, each row with its number.

    for number, row in json_rows(path, quarantine): ...

What is not a row goes to the quarantine with its number; reading continues after it.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenkit.compression import CUT, Damage
from qwenkit.data.readers import text_lines
from qwenkit.data.readers.json_files import is_document, values
from qwenkit.data.readers.sources import suffix_of
from qwenkit.records import Quarantine, Row, parse_line

BROKEN_CSV, DAMAGED_GROUP = "broken CSV, not read beyond", "damaged row group"
Numbered = Iterator[tuple[int, dict[str, Any]]]
_CSV_DELIMITERS = ",;\t|"
_SPOILT = re.compile("[\udc80-\udcff]")
_LIKELY = re.compile(
    r"text|content|contents|body|document|doc|article|passage|code|raw_content|page_content|story", re.I
)


def json_rows(
    path: Path, quarantine: Quarantine, start: int = 0, stop: int | None = None, first: int = 1, skip: bool = False
) -> Numbered:
    """Yield (number, row) of JSON lines, or of the rows in one document."""
    is_part = start or stop is not None
    lines = (
        values(path, quarantine)
        if not is_part and is_document(path)
        else text_lines.lines(path, quarantine, start, stop, first, skip)
    )
    for number, line in lines:
        for row in parse_line(line, path, number, quarantine):
            yield number, row


def csv_rows(path: Path, quarantine: Quarantine) -> Numbered:
    """Yield (number, row) of a table whose first line names the columns; the number is that of the line where a row
    begins."""
    csv.field_size_limit(text_lines.MAX_RECORD)
    lines = _text_lines(path, quarantine)
    head = next(lines, "")
    delimiter = "\t" if suffix_of(path) == ".tsv" else max(_CSV_DELIMITERS, key=head.count)
    columns = next(csv.reader([head], delimiter=delimiter), [])
    table, number = csv.reader(lines, delimiter=delimiter), 2
    while True:
        try:
            row = next(table, None)
        except csv.Error as error:
            quarantine.add(BROKEN_CSV, path, line=number, sample=str(error))
            return
        if row is None:
            return
        if row and len(row) != len(columns):
            quarantine.add("a row of another length than the header", path, line=number, sample=delimiter.join(row))
        elif any(not cell.isascii() and _SPOILT.search(cell) for cell in row):
            quarantine.add("invalid UTF-8", path, line=number, sample=_SPOILT.sub("?", delimiter.join(row)))
        elif row:
            yield number, dict(zip(columns, row))
        number = table.line_num + 2


def _text_lines(path: Path, quarantine: Quarantine) -> Iterator[str]:
    """Yield lines with their ends up to the first corruption; invalid UTF-8 stays, as surrogates."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    rest = ""
    for part in text_lines.blocks(path):
        if isinstance(part, Damage):
            quarantine.add(part.reason, path, offset=part.offset)
            break
        *whole, rest = (rest + decoder.decode(part)).split("\n")
        yield from (line.removeprefix("\ufeff") + "\n" for line in whole)
    if rest:
        yield rest.removeprefix("\ufeff")


def parquet_rows(path: Path, quarantine: Quarantine, start: int, stop: int | None, first: int) -> Numbered:
    """Yield (number, row) of the row groups `start` to `stop`; `first` is the number of the first row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = first - 1
    try:
        file = pq.ParquetFile(str(path))
    except (pa.ArrowException, OSError) as error:
        quarantine.add(CUT, path, line=first, sample=str(error))
        return
    columns = [field.name for field in file.schema_arrow if field.name == "id" or not _of_no_use(field.type)]
    for group in range(start, file.metadata.num_row_groups if stop is None else stop):
        last = number + file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=columns):
                for row in _batch_rows(batch):
                    number += 1
                    if isinstance(row, dict):
                        yield number, row
                    else:
                        quarantine.add("a row with a value that cannot be read", path, line=number, sample=str(row))
        except (pa.ArrowException, OSError) as error:
            quarantine.add(DAMAGED_GROUP, path, line=number + 1, sample=str(error))
        number = last


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """Yield the rows of a batch, or an error for one that Python cannot represent."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # of pyarrow's own too
        rows = map(_as_row, batch.to_struct_array())
    yield from rows


def _as_row(scalar: Any) -> dict[str, Any] | Exception:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return error


def _of_no_use(kind: Any) -> bool:
    """Return whether a column holds times: documents have no such field, and the values may be out of Python's
    range."""
    import pyarrow.types

    return pyarrow.types.is_temporal(kind)


def value_of(row: Row, key: str) -> object:
    """Return the value of a column, or of the nested field that `a.b` names."""
    if key in row or "." not in key:
        return row.get(key)
    outer, _, inner = key.partition(".")
    within = row.get(outer)
    return value_of(within, inner) if isinstance(within, dict) else None


def said(value: object) -> str | bytes | None:
    """Return the text of a value: a string itself, or the contents of a list of messages; None for anything else."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        parts = [each.get("content", each.get("value")) for each in value]
        return "\n\n".join(parts) if all(isinstance(each, str) for each in parts) else None
    return value if isinstance(value, str | bytes) else None


def likely_key(row: Row) -> str | None:
    """Return the column that most likely holds the text of a row without `text`: by its name, as the only string, or as
    messages."""
    texts = [key for key, value in row.items() if said(value) and key not in ("id", "url", "licence", "license")]
    usual = [key for key in texts if _LIKELY.fullmatch(key)]
    spoken = [key for key in texts if isinstance(row[key], list)]
    nested = [
        f"{key}.{inner}"
        for key, value in row.items()
        if isinstance(value, dict)
        for inner in value
        if _LIKELY.fullmatch(inner) and isinstance(value[inner], str)
    ]
    candidates = usual or spoken or nested or (texts if len(texts) == 1 else [])
    return candidates[0] if candidates and len(candidates[0]) <= 60 else None
