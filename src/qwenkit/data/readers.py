"""Readers: documents out of WARC, JSONL, Parquet and folders (section 2.1, what comes before its first step).

    quarantine = Quarantine()
    for document in read_documents(Source("web", Path("pages.warc.gz"), kind="html"), quarantine): ...
    for split in splits(source, 16 << 20): ...      # parts of about 16 MB, each to be read by itself: read_split

A bad record never ends the reading: it goes to the quarantine with its reason, file and line or offset, and
`read = yielded + quarantined` holds for every file. So does what lies in a folder and is not read: files of unknown
type, pipes, links to nothing. A path that does not exist, an empty source, an unknown suffix of a single file and a
disk that fails are said at once. Large files are split: JSONL at lines, `.zst` at frames, Parquet at row groups, WARC
at records; a `.jsonl.gz` is one part, because only its beginning can be found, and so is a JSON document. A document
knows its place: `file:line` or `file@offset`.
"""

from __future__ import annotations

import codecs
import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenkit.data import remote, streams, warc
from qwenkit.data.charset import utf_16
from qwenkit.data.json_files import is_document, values
from qwenkit.data.streams import CUT, MAX_RECORD, Damage, packing
from qwenkit.errors import UserError, nearest
from qwenkit.records import Quarantine, name_of, parse_line, row_groups

KINDS = ("html", "web", "text", "code", "instruction")
_TEXT_SUFFIXES = set(".txt .md .rst .py .html .htm .c .h .cpp .js .ts .go .rs .java .sh".split())
_ROW_SUFFIXES = {".jsonl", ".json", ".parquet", ".warc"}
_KNOWN_SUFFIXES = _TEXT_SUFFIXES | _ROW_SUFFIXES
UNKNOWN = "a file of unknown type"


@dataclass(frozen=True)
class Source:
    """One source of the corpus. `weight` up-samples (2.5: every document twice, half of them a third time).

    Kinds: `html` pages; `web` text that somebody took out of pages; `text` that was chosen by hand (books, your own);
    `code`; `instruction` data. Prose rules of quality judge the first two only.

    `text_keys` are the columns of rows that make a text together, a paragraph each: ("question", "answer"). A list of
    messages gives what they say. `skip` names steps that are not applied to it, beyond those its kind leaves out
    (`settings.STEPS`).
    """

    name: str
    path: Path | str
    kind: str = "text"
    weight: float = 1.0
    licence: str = "unknown"
    text_keys: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"unknown kind {self.kind!r}",
                where=f"source {self.name}",
                expected=f"one of {', '.join(KINDS)}",
                nearest=nearest(self.kind, KINDS),
            )
        if not 0 < self.weight < math.inf:
            raise UserError(f"weight {self.weight}", where=f"source {self.name}", expected="a finite number above 0")


@dataclass
class Document:
    """A document as read: `body` is text, or bytes whose encoding only `charset` (a header's claim) hints at."""

    id: str
    body: str | bytes
    url: str | None = None
    charset: str | None = None
    place: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """A part of a source that is read by itself: files, or of one file the bytes (or row groups) `start` to `stop`.
    `first` is the number of its first line or row; `skip`: it begins within a line that belongs to the part before.
    `unread`: (path below the source, why) of what lies there and is not read."""

    paths: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    first: int = 1
    skip: bool = False
    unread: tuple[tuple[str, str], ...] = ()


def read_documents(source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """Every document of a source, files in sorted order; bad records go to the quarantine."""
    kept = 0
    before = len(quarantine)
    for split in splits(source, 1 << 62):
        for document in read_split(split, source, quarantine):
            kept += 1
            yield document
    if kept == 0 and len(quarantine) == before:
        raise UserError("no document in this source", where=f"source {source.name}: {source.path}")


def splits(source: Source, size: int) -> list[Split]:
    """The parts of a source, of about `size` bytes each: a function of the files and of `size` alone."""
    found: list[Split] = []
    together: list[str] = []
    held = 0
    paths, unread = source_files(remote.fetched(source.path, source.name), source.name)
    for path in paths:
        suffix = _suffix(path)
        if suffix in _ROW_SUFFIXES:
            found += _parts(path, suffix, size)
            continue
        held += path.stat().st_size
        together.append(str(path))
        if held >= size:
            found.append(Split(tuple(together)))
            together, held = [], 0
    if together:
        found.append(Split(tuple(together)))
    return found + ([Split((), unread=tuple(unread))] if unread else [])


def _parts(path: Path, suffix: str, size: int) -> Iterator[Split]:
    total, name = path.stat().st_size, (str(path),)
    if suffix == ".parquet":
        yield from _row_groups(path, size)
    elif total <= size or (packing(path) == ".gz" and suffix != ".warc") or _is_document(path):
        yield Split(name)
    elif suffix == ".warc":
        edges = [*range(0, total, size), total]
        yield from (Split(name, start, stop) for start, stop in itertools.pairwise(edges))
    else:
        yield from lines_apart(path, size) if not packing(path) else _frames_apart(path, size)


def lines_apart(path: Path, size: int) -> Iterator[Split]:
    """Parts of plain lines: each ends with the line that reaches its size."""
    start, first, total = 0, 1, path.stat().st_size
    with path.open("rb") as file:
        while start < total:
            count, last = 0, b""
            file.seek(start)
            left = size
            while left > 0 and (data := file.read(min(streams.BLOCK, left))):
                count, left = count + data.count(b"\n"), left - len(data)
                last = data
            while not last.endswith(b"\n") and (last := file.readline(streams.BLOCK)):
                count += last.endswith(b"\n")
            yield Split((str(path),), start, file.tell(), first)
            start, first = file.tell(), first + count


def _frames_apart(path: Path, size: int) -> Iterator[Split]:
    """Parts of whole zstd frames. All is unpacked once to count lines: a file of one frame stays one part."""
    start = at = 0
    first = number = 1
    skip, last = False, b"\n"
    total = path.stat().st_size
    with path.open("rb") as file:
        while at < total:
            end, reason = at, ""
            for part in streams.member(file, streams.ZSTD, at):
                if isinstance(part, bytes):
                    number, last = number + part.count(b"\n"), part
                else:
                    end, reason = part
            if reason:
                break
            at = end
            if at - start >= size and at < total:
                yield Split((str(path),), start, at, first, skip)
                start, first, skip = at, number, not last.endswith(b"\n")
    yield Split((str(path),), start, None if start == 0 else total, first, skip)


def _row_groups(path: Path, size: int) -> Iterator[Split]:
    import pyarrow as pa

    try:
        yield from (Split((str(path),), start, stop, rows + 1) for start, stop, rows in row_groups(path, size))
    except (pa.ArrowException, OSError):  # reading will say what is wrong with it
        yield Split((str(path),))


def source_files(path: Path, name: str) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files of a source, that is itself or those below it, sorted by relative path; and of what else lies there its
    relative path, and why it is not read."""
    where = f"source {name}: {path}"
    if not path.exists():
        raise UserError("no such file or folder", where=where, nearest=nearest(path.name, _siblings(path)))
    if not path.is_dir():
        why = _unreadable(path)
        if why == UNKNOWN:
            known = sorted(_KNOWN_SUFFIXES)
            raise UserError(f"unknown file type {path.name!r}", where=f"source {name}", expected=", ".join(known),
                            nearest=nearest(_suffix(path), known))  # fmt: skip
        if why:
            raise UserError(why, where=where, expected="a file or a folder that can be read")
        return [_named_in_utf8(path, name)], []
    inside, unread = below(path)
    why = {file: reason for file in inside if (reason := _unreadable(file))} | unread
    found = [_named_in_utf8(file, name) for file in inside if file not in why]
    if not found:
        raise UserError("no readable file in this folder", where=where, expected=", ".join(sorted(_KNOWN_SUFFIXES)))
    other = [(os.fsencode(file.relative_to(path)).decode("utf-8", "replace"), reason) for file, reason in why.items()]
    return sorted(found, key=lambda file: file.relative_to(path).as_posix()), sorted(other)


def below(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """What lies below a folder and is no folder; and the folders that are not entered, with why."""
    found: list[Path] = []
    closed: dict[Path, str] = {}

    def refused(error: OSError) -> None:
        closed[Path(error.filename)] = "a folder that cannot be opened"

    for base, folders, files in os.walk(folder, onerror=refused):
        found += [Path(base, name) for name in files]
        for path in (Path(base, name) for name in folders):
            if path.is_symlink():
                closed[path] = "a link to a folder"
            elif path.name.startswith("."):
                closed[path] = "a hidden folder"
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found, closed


def _unreadable(path: Path) -> str:
    """Why a path is no file to read, or nothing."""
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "no plain file"
    if _suffix(path) not in _KNOWN_SUFFIXES:
        return UNKNOWN
    return "" if os.access(path, os.R_OK) else "a file that may not be read"


def _named_in_utf8(path: Path, name: str) -> Path:
    """The path: a document is called after it, and ids are texts."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"a file name that is not UTF-8: {str(path)!a}", where=f"source {name}", mend="rename it"
        ) from None
    return path


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []


def _suffix(path: Path) -> str:
    """The suffix that names the format, without a closing `.gz` or `.zst`."""
    return (path.with_suffix("") if packing(path) else path).suffix.lower()


def read_split(split: Split, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """The documents of one part of a source."""
    root = remote.fetched(source.path, source.name)
    quarantine.root = root
    for name, why in split.unread:
        quarantine.add(why, root / name, sample=name)
    for name in split.paths:
        try:
            yield from _read_file(Path(name), split, source, quarantine)
        except OSError as error:  # of reading: what is done with a document does not come by here
            raise UserError(
                f"the file cannot be read ({error.strerror or error})", where=f"source {source.name}: {name}",
                mend="look after the disk or the network it lies on; the same command then goes on",
            ) from error  # fmt: skip


def _read_file(path: Path, split: Split, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    suffix = _suffix(path)
    if suffix == ".warc":
        yield from _read_warc(path, split, quarantine)
    elif suffix == ".parquet":
        yield from _rows(parquet_rows(path, split, quarantine), path, source, quarantine)
    elif suffix in _ROW_SUFFIXES:
        yield from _rows(_json_rows(path, split, quarantine), path, source, quarantine)
    else:
        yield from _read_text(path, source, quarantine)


def _read_text(path: Path, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """A file is a document, named by its path below the source. Prose and code are in UTF-8, or in UTF-16 as Windows
    writes it; pages may be anything."""
    name = quarantine.named(path)
    data = bytearray()
    for part in streams.blocks(path):
        if isinstance(part, Damage):
            quarantine.add(part.reason, path, offset=part.offset)
            return
        data += part
        if len(data) > MAX_RECORD:
            quarantine.add(streams.TOO_LONG, path)
            return
    if source.kind == "html":
        yield Document(name, bytes(data), place=name)
        return
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if marked else utf_16(bytes(data[:1000])) or "utf-8-sig"
    try:
        yield Document(name, bytes(data).decode(encoding), place=name)
    except UnicodeDecodeError as error:
        reason = "invalid UTF-16" if encoding.startswith("utf-16") else "invalid UTF-8"
        quarantine.add(reason, path, offset=error.start, sample=bytes(data[:200]).decode(errors="replace"))


def _json_rows(path: Path, split: Split, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers: of lines, or in a document."""
    if _is_document(path):
        found = values(path, quarantine)
    else:
        found = streams.lines(path, quarantine, split.start, split.stop, split.first, split.skip)
    for number, line in found:
        for row in parse_line(line, path, number, quarantine):
            yield number, row


def _is_document(path: Path) -> bool:
    return _suffix(path) == ".json" and is_document(path)


def parquet_rows(path: Path, split: Split, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = split.first - 1
    try:
        file = pq.ParquetFile(str(path))
    except (pa.ArrowException, OSError) as error:
        quarantine.add(CUT, path, line=split.first, sample=str(error))
        return
    columns = [field.name for field in file.schema_arrow if field.name == "id" or not _of_no_use(field.type)]
    for group in range(split.start, file.metadata.num_row_groups if split.stop is None else split.stop):
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
            quarantine.add("damaged row group", path, line=number + 1, sample=str(error))
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


def _rows(
    rows: Iterator[tuple[int, dict[str, Any]]], path: Path, source: Source, quarantine: Quarantine
) -> Iterator[Document]:
    """Documents out of rows with a text column (`text`; for pages `html`, else `body`, else `text`), or with those that
    the source names."""
    usual = ("html", "body", "text") if source.kind == "html" else ("text",)
    for number, row in rows:
        keys = source.text_keys or (next((key for key in usual if key in row), usual[0]),)
        parts = [_said(row.get(key)) for key in keys]
        if None in parts:
            key = keys[parts.index(None)]
            what = "not a text in" if key in row else "no"
            quarantine.add(f"{what} key {key!r}", path, line=number, sample=str(row))
            continue
        place = f"{quarantine.named(path)}:{number}"
        name = place if row.get("id") in (None, "") else name_of(row["id"])
        if name is None:
            quarantine.add("not a text in key 'id'", path, line=number, sample=str(row))
            continue
        fields = {name: value for name, value in row.items() if name not in (*keys, "id", "url")}
        url = row.get("url")
        body = parts[0] if len(parts) == 1 else "\n\n".join(map(_text, filter(None, parts)))
        yield Document(name, body or "", url if isinstance(url, str) else None, None, place, fields)


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def _said(value: Any) -> str | bytes | None:
    """The text in a value: itself, or what the messages in a list say; None: neither."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        said = [each.get("content", each.get("value")) for each in value]
        return "\n\n".join(said) if all(isinstance(each, str) for each in said) else None
    return value if isinstance(value, str | bytes) else None


def _read_warc(path: Path, split: Split, quarantine: Quarantine) -> Iterator[Document]:
    """Pages of a WARC file: complete HTTP responses with status 200 and a text content type."""
    for offset, record in warc.records(path, split.start, split.stop):
        if isinstance(record, str):
            quarantine.add(record, path, offset=offset)
            continue
        if record.headers.get("warc-type") not in ("response", "resource", "conversion"):
            continue
        found = warc.page(record)
        if isinstance(found, str):
            quarantine.add(found, path, offset=offset, sample=record.headers.get("warc-target-uri", ""))
            continue
        body, url, charset = found
        place = f"{quarantine.named(path)}@{offset}"
        name = re.sub(r"^<?urn:uuid:|[<>]", "", record.headers.get("warc-record-id", "")) or place
        yield Document(name, body, url, charset, place)
