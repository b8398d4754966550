"""Rows out of files: JSON in its forms, CSV and Parquet, each row with its number.

    for number, row in json_rows(path, quarantine): ...

What is not a row goes to the quarantine with its number; reading goes on behind it.
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
    """Yield rows with their numbers: of lines, or in a document."""
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
    """Yield rows of a table of which the first line names the columns, numbered by the line that they begin in."""
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
    """Lines with their ends up to the first damage; bytes that are no UTF-8 stay, as halves of surrogates."""
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
    """Yield rows of the row groups `start` to `stop`, the first of which has the number `first`."""
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
    """The rows of a batch; instead of one that cannot be Python's, why."""
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
    """Whether a column holds times: no field of a document is one, and they may lie outside Python's."""
    import pyarrow.types

    return pyarrow.types.is_temporal(kind)


def value_of(row: Row, key: str) -> object:
    """Return the value of a column, or of a row within it that `a.b` names."""
    if key in row or "." not in key:
        return row.get(key)
    outer, _, inner = key.partition(".")
    within = row.get(outer)
    return value_of(within, inner) if isinstance(within, dict) else None


def said(value: object) -> str | bytes | None:
    """Return the text in a value: itself, or what the messages in a list say; None: neither."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        parts = [each.get("content", each.get("value")) for each in value]
        return "\n\n".join(parts) if all(isinstance(each, str) for each in parts) else None
    return value if isinstance(value, str | bytes) else None


def likely_key(row: Row) -> str | None:
    """Return the column that most likely is the text of a row that has no `text`: one that is called so, or the only
    text, or messages."""
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
