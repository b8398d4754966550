"""File splits of a source that are read independently, and the rows of each in this package's form.

    chat_splits(path, "chats", 16 << 20) -> list[ChatSplit]     # a function of the files and of the size alone
    read_chat_split(split, quarantine) -> Iterator[Row]     # {"id", "messages", "tools"?, "place", ...}

JSON lines are split at lines and Parquet at row groups; a compressed file, a JSON document and a table of CSV are one
split each, read as a stream. A row without an id is named by its place: `chat-0` in a single file, `name-0` among
several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qwenkit import compression
from qwenkit.data.chats import files, formats
from qwenkit.data.chats.forms import COLUMNS, Converted, converted
from qwenkit.data.readers import row_files, text_lines
from qwenkit.data.readers.file_splits import FileSplit, split_lines, split_row_groups
from qwenkit.data.readers.json_files import BROKEN, is_document
from qwenkit.errors import UserError, within
from qwenkit.files import corrupted
from qwenkit.records import Quarantine, Row, dumps, json_kind, name_of

SPLIT_BYTES = 16 << 20
Source = Path | Sequence[Path]
Check = Callable[[Row], None]
_DAMAGE = {compression.CUT, compression.DAMAGED, row_files.BROKEN_CSV, row_files.DAMAGED_GROUP}
_STEMS = {"chats": "chat", "prompts": "prompt", "pairs": "pair"}


@dataclass(frozen=True)
class ChatSplit:
    """A split of a file: of JSON lines the bytes `start` to `stop`, of Parquet row groups, else the whole file.

    `first` is the number of its first row (of JSON lines: line); `stem` begins the ids of rows without one."""

    path: Path
    root: Path
    kind: str
    format: str
    stem: str
    start: int = 0
    stop: int | None = None
    first: int = 1


def chat_splits(source: Source, kind: str, size: int = SPLIT_BYTES, own: Sequence[str] = ()) -> list[ChatSplit]:
    """Return the splits of a source's files, of about `size` bytes each.

    A source is one path, or several that are read one after the other; `own` names the file of an artifact that holds
    them."""
    return splits_of(files.find(source, kind, own), kind, size)


def splits_of(sources: files.Files, kind: str, size: int = SPLIT_BYTES) -> list[ChatSplit]:
    """Return the splits of files that `find` returned."""
    return [split for file in sources.taken for split in _splits(file, sources, kind, size)]


def _splits(path: Path, sources: files.Files, kind: str, size: int) -> Iterator[ChatSplit]:
    form, packed = formats.format_of(path), formats.packing(path)
    stem = _STEMS[kind] if len(sources.taken) == 1 else sources.named(path)
    splits = iter([FileSplit(path)])
    if form == "parquet":
        splits = _row_groups(path, size)
    elif form == "json" and not packed and path.stat().st_size > size and _is_lines(path):
        splits = split_lines(path, size)
    for split in splits:
        yield ChatSplit(path, sources.root, kind, form, stem, split.start, split.stop, split.lines + 1)


def _is_lines(path: Path) -> bool:
    """Return whether a file is lines of UTF-8, which can be read from any line on."""
    return not text_lines.is_wide(path) and not is_document(path)


def _row_groups(path: Path, size: int) -> Iterator[FileSplit]:
    splits = list(split_row_groups(path, size))
    if splits == [FileSplit(path)]:  # as for a corrupted file
        raise corrupted(path, "Parquet")
    return iter(splits)


def read(
    source: Source, kind: str, quarantine: Quarantine | None = None, check: Check | None = None, own: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield every row of a source; see `read_chat_split`."""
    for split in chat_splits(source, kind, own=own):
        yield from read_chat_split(split, quarantine, check)


def read_chat_split(
    split: ChatSplit, quarantine: Quarantine | None = None, check: Check | None = None
) -> Iterator[Row]:
    """Yield the rows of a split in this package's form.

    Rows that do not fit, or that `check` refuses, go to the quarantine; without one the first of them is a `UserError`
    with its file and number."""
    for _, result in read_forms(split, quarantine, check):
        yield result.row


def read_forms(
    split: ChatSplit, quarantine: Quarantine | None = None, check: Check | None = None, most: int | None = None
) -> Iterator[tuple[Row, Converted]]:
    """Yield each row as it was written, and its converted form. `most` limits how many rows are read, and how many bad
    ones."""
    gate = _Gate(quarantine, most)
    gate.root = split.root
    called = gate.named(split.path)
    for number, raw in islice(gate.until_enough(raw_rows(split, gate)), most):
        try:
            result = _own(split, number, raw, f"{called}:{number}")
            if check is not None:
                check(result.row)
        except UserError as error:
            if quarantine is None:
                with within(f"{split.path}, row {number}"):
                    raise
            with contextlib.suppress(_Enough):  # `until_enough` ends the loop
                gate.refused(error, split, number, raw)
            continue
        yield raw, result


def _own(split: ChatSplit, number: int, raw: Row, place: str) -> Converted:
    """Return a row in this package's form, with its id and place."""
    if "id" in raw and raw["id"] is not None and name_of(raw["id"]) is None:
        kind = "empty" if raw["id"] == "" else json_kind(raw["id"])
        raise UserError(f"`id` is {kind}", expected="a string or a number")
    result = converted(raw, split.kind)
    name = result.row.get("id")
    called = f"{split.stem}-{number - 1}" if name is None else name_of(name)
    return result._replace(row={**result.row, "id": called, "place": place})


class _Enough(Exception):
    """The wanted number of bad rows is reached."""


class _Gate(Quarantine):
    """Passes bad records on to a quarantine. A corrupted file is refused, and without a quarantine every bad record."""

    def __init__(self, quarantine: Quarantine | None, most: int | None = None) -> None:
        super().__init__()
        self.behind, self.most, self.passed = quarantine, most, 0

    def until_enough(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        """Yield rows up to the first bad one that is one too many."""
        with contextlib.suppress(_Enough):
            yield from rows

    def add(
        self, reason: str, file: Path | str, *, line: int | None = None, offset: int | None = None, sample: str = "",
        detail: str = "", expected: str = "",
    ) -> None:  # fmt: skip
        if reason in _DAMAGE:
            raise formats.damaged(Path(file), reason)
        if reason == BROKEN:
            what = f"broken JSON in row {line}, and what follows it cannot be told apart"
            raise UserError(what, where=str(file), hint="fix that row, or write one object a line")
        if self.behind is None:
            what = f"{reason} ({detail})" if detail else reason
            raise UserError(what, where=f"{file}, row {line}", expected="one JSON object a line")
        self.passed += 1
        self.behind.root = self.root
        self.behind.add(reason, file, line=line, offset=offset, sample=sample, detail=detail, expected=expected)
        if self.passed == self.most:
            raise _Enough

    def refused(self, error: UserError, split: ChatSplit, number: int, raw: Row) -> None:
        """A row that does not fit, by the reason; where in the row stands before its sample."""
        sample, where = dumps_safe(raw), error.where or ""
        near = f" (nearest: {error.nearest})" if error.nearest else ""
        self.add(error.what, split.path, line=number, sample=f"{where}: {sample}" if where else sample, detail=where,
                 expected=f"{error.expected or ''}{near}")  # fmt: skip


def dumps_safe(row: Row) -> str:
    """Return a row as text for people, whatever it holds."""
    try:
        return dumps(row)
    except (TypeError, ValueError, RecursionError):
        return str(row)


def raw_rows(split: ChatSplit, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a split as they are written, with their numbers."""
    try:
        yield from _READERS[split.format](split, quarantine)
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror or error})", where=str(split.path)) from error


def _json(split: ChatSplit, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    for number, row in row_files.json_rows(split.path, quarantine, split.start, split.stop, split.first):
        inside = _inside(row, split.path) if number == 1 else None
        yield from enumerate(inside, 1) if inside is not None else ((number, row),)


def _inside(row: Row, path: Path) -> list[Row] | None:
    """Return the rows of a document that holds them in a list under some name; None where it is a row itself."""
    if COLUMNS & row.keys() or "text" in row:
        return None
    lists = {name: value for name, value in row.items() if _is_rows(value)}
    if len(lists) > 1:
        raise UserError(f"an object with several lists of rows: {', '.join(lists)}", where=str(path),
                        hint="write the rows that are meant into a file of their own")  # fmt: skip
    return next(iter(lists.values()), None)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _parquet(split: ChatSplit, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    return row_files.parquet_rows(split.path, quarantine, split.start, split.stop, split.first)


def _csv(split: ChatSplit, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    for number, row in row_files.csv_rows(split.path, quarantine):
        if not COLUMNS & row.keys():
            names = ", ".join(name[:40] for name in list(row)[:6])
            raise UserError(
                f"the first line of the table names no column that is known, but: {names}", where=str(split.path),
                expected="messages; instruction and output; prompt and completion; question and answer; ...",
                hint="write the names of the columns into the first line",
            )  # fmt: skip
        yield number, row


def _arrow(split: ChatSplit, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    return formats.arrow(split.path)


_READERS: dict[str, Any] = {"json": _json, "parquet": _parquet, "csv": _csv, "arrow": _arrow}
