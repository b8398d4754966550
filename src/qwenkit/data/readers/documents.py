"""Readers: documents out of WARC, JSONL, Parquet and folders (section 2.1, what comes before its first step).

    quarantine = Quarantine()
    for document in read_documents(Source("web", Path("pages.warc.gz"), kind="html"), quarantine): ...
    for split in source_splits(source, 16 << 20): ...   # of about 16 MB, each read by itself: read_source_split

A bad record never ends the reading: it goes to the quarantine with its reason, file and line or offset, and `read =
yielded + quarantined` holds for every file. So do files of a folder that are not read: files of unknown type, pipes,
links to nothing (`sources`). A path that does not exist, an empty source, an unknown suffix of a single file and a
failing disk are errors at once. Large files are split: JSONL at lines, `.zst` at frames, Parquet at row groups, WARC at
records; a `.jsonl.gz` is one split, because it cannot be entered in the middle, and so are a JSON document and CSV. A
document has its place: `file:line` or `file@offset`.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenkit import compression
from qwenkit.compression import ZSTD, Damage, packing
from qwenkit.data.readers import remote, text_lines, warc, warc_pages
from qwenkit.data.readers.encoding import utf_16
from qwenkit.data.readers.file_splits import FileSplit, split_frames, split_lines, split_row_groups
from qwenkit.data.readers.json_files import is_document
from qwenkit.data.readers.row_files import csv_rows, json_rows, likely_key, parquet_rows, said, value_of
from qwenkit.data.readers.sources import AUTO, CSV, JSON, KINDS, PARQUET, TEXT, WARC, File, Source, source_files
from qwenkit.data.readers.text_lines import MAX_RECORD
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, name_of

__all__ = ["AUTO", "KINDS", "Document", "Source", "SourceSplit", "read_documents", "read_source_split", "source_splits"]

_PAGES = ("response", "resource", "conversion")
_MOST_OTHERS = 5
_LEAST = 512  # bytes of a part of a packed archive
_NO_PAGES = ("warcinfo", "request", "metadata")  # about pages, but not pages


@dataclass
class Document:
    """A document as read: `body` is text, or bytes whose encoding only `charset` (a header's claim) hints at. `form` is
    how it is treated: `html`, `code` or `text`."""

    id: str
    body: str | bytes
    url: str | None = None
    charset: str | None = None
    place: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    form: str = TEXT


@dataclass(frozen=True)
class SourceSplit:
    """A split of a source that is read by itself: whole files, or the bytes (or row groups) `start` to `stop` of one
    file.

    `first` is the number of its first line or row. `skip` says that it begins within a line that belongs to the split
    before. `form` and `kind` are those of its files (`sources`). `unread` lists (path below the source, reason) for
    files that are not read."""

    paths: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    first: int = 1
    skip: bool = False
    unread: tuple[tuple[str, str], ...] = ()
    form: str = TEXT
    kind: str = TEXT


def read_documents(source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """Yield every document of a source, files in sorted order; bad records go to the quarantine."""
    kept = 0
    before = len(quarantine)
    for split in source_splits(source, 1 << 62):
        for document in read_source_split(split, source, quarantine):
            kept += 1
            yield document
    if kept == 0 and len(quarantine) == before:
        raise UserError("no document in this source", where=f"source {source.name}: {source.path}")


def source_splits(source: Source, size: int) -> list[SourceSplit]:
    """Return the splits of a source, of about `size` bytes each: a function of the files and of `size` alone.

    Raises a `UserError` for a source that is missing, empty or of unknown type.
    """
    splits: list[SourceSplit] = []
    together: list[str] = []
    together_bytes = 0
    files, unread = source_files(remote.fetched(source.path, source.name), source.name, source.kind)
    following = dict(itertools.pairwise(file for file in files if file.form == TEXT))
    for file in files:
        if file.form != TEXT:
            splits += (_source_split(part, file) for part in _file_splits(file, size))
            continue
        together_bytes += file.path.stat().st_size
        together.append(str(file.path))
        after = following.get(file)
        if together_bytes >= size or after is None or after.kind != file.kind:
            splits.append(SourceSplit(tuple(together), kind=file.kind))
            together, together_bytes = [], 0
    return splits + ([SourceSplit((), unread=tuple(unread), kind=_most_frequent(files))] if unread else [])


def _most_frequent(files: list[File]) -> str:
    return Counter(sorted(file.kind for file in files)).most_common(1)[0][0]


def _file_splits(file: File, size: int) -> Iterator[FileSplit]:
    path, packed = file.path, packing(file.path)
    if file.form == PARQUET:
        return split_row_groups(path, size)
    if path.stat().st_size <= size or file.form == CSV or (packed not in (None, ZSTD) and file.form != WARC):
        return iter([FileSplit(path)])
    if file.form == WARC:
        total = path.stat().st_size
        members = itertools.pairwise([*range(0, total, max(size, _LEAST)), total])
        return (FileSplit(path, start, stop) for start, stop in (members if packed else warc.edges(path, size)))
    if is_document(path) or (not packed and text_lines.is_wide(path)):
        return iter([FileSplit(path)])
    return split_frames(path, size) if packed else split_lines(path, size)


def _source_split(part: FileSplit, file: File) -> SourceSplit:
    first = part.lines + 1
    return SourceSplit((str(part.path),), part.start, part.stop, first, part.skip, form=file.form, kind=file.kind)


def read_source_split(split: SourceSplit, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the documents of one split of a source."""
    root = remote.fetched(source.path, source.name)
    quarantine.root = root
    for name, why in split.unread:
        quarantine.add(why, root / name, sample=name)
    for name in split.paths:
        try:
            yield from _read_file(Path(name), split, source, quarantine)
        except OSError as error:  # of reading: errors of the consumer do not reach this place
            raise UserError(
                f"the file cannot be read ({error.strerror or error})", where=f"source {source.name}: {name}",
                hint="look after the disk or the network it lies on; the same command then goes on",
            ) from error  # fmt: skip


def _read_file(path: Path, split: SourceSplit, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    part = (split.start, split.stop, split.first)
    if split.form == WARC:
        yield from _read_warc(path, split, quarantine)
    elif split.form == PARQUET:
        yield from _rows(parquet_rows(path, quarantine, *part), path, split, source, quarantine)
    elif split.form == JSON:
        yield from _rows(json_rows(path, quarantine, *part, split.skip), path, split, source, quarantine)
    elif split.form == CSV:
        yield from _rows(csv_rows(path, quarantine), path, split, source, quarantine)
    else:
        yield from _read_text(path, split, quarantine)


def _form_of(kind: str) -> str:
    """Return how texts of a kind are treated."""
    return kind if kind in ("html", "code") else TEXT


def _read_text(path: Path, split: SourceSplit, quarantine: Quarantine) -> Iterator[Document]:
    """Yield a file as one document, named by its path below the source. Prose and code are in UTF-8, or in UTF-16 as
    Windows writes it; pages may be in any encoding."""
    name = quarantine.named(path)
    data = bytearray()
    for part in compression.blocks(path):
        if isinstance(part, Damage):
            quarantine.add(part.reason, path, offset=part.offset)
            return
        data += part
        if len(data) > MAX_RECORD:
            quarantine.add(text_lines.TOO_LONG, path)
            return
    form = _form_of(split.kind)
    if form == "html":
        yield Document(name, bytes(data), place=name, form=form)
        return
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if marked else utf_16(bytes(data[:1000])) or "utf-8-sig"
    try:
        yield Document(name, bytes(data).decode(encoding), place=name, form=form)
    except UnicodeDecodeError as error:
        reason = "invalid UTF-16" if encoding.startswith("utf-16") else "invalid UTF-8"
        quarantine.add(reason, path, offset=error.start, sample=bytes(data[:200]).decode(errors="replace"))


def _rows(
    rows: Iterator[tuple[int, dict[str, Any]]], path: Path, split: SourceSplit, source: Source, quarantine: Quarantine
) -> Iterator[Document]:
    """Yield documents from rows with a text column (`text`; for pages `html`, else `body`, else `text`), or with those
    that the source names."""
    usual = ("html", "body", "text") if split.kind == "html" else ("text",)
    file = quarantine.named(path)
    others: set[str] = set()  # columns that reasons name
    for number, row in rows:
        keys = source.text_keys or (next((key for key in usual if key in row), usual[0]),)
        parts = [said(value_of(row, key)) for key in keys]
        if None in parts:
            likely = None if source.text_keys else likely_key(row)
            if likely and (likely in others or len(others) < _MOST_OTHERS):
                others.add(likely)
            reason = _no_text(row, keys[parts.index(None)], likely if likely in others else None)
            quarantine.add(reason, path, line=number, sample=str(row))
            continue
        place = f"{file}:{number}"
        name = place if row.get("id") in (None, "") else name_of(row["id"])
        if name is None:
            quarantine.add("not a text in key 'id'", path, line=number, sample=str(row))
            continue
        fields = {name: value for name, value in row.items() if name not in (*keys, "id", "url")}
        url = row.get("url")
        body = parts[0] if len(parts) == 1 else "\n\n".join(map(_text, filter(None, parts)))
        url = url if isinstance(url, str) else None
        yield Document(name, body or "", url, None, place, fields, _form_of(split.kind))


def _no_text(row: dict[str, Any], key: str, likely: str | None) -> str:
    """Return why a row has no text, and the key that would give it one."""
    if key in row:
        return f"not a text in key {key!r}"
    return f"no key {key!r}" + (f", but a text in {likely!r} (name it in `text_keys`)" if likely else "")


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def _read_warc(path: Path, split: SourceSplit, quarantine: Quarantine) -> Iterator[Document]:
    """Yield the pages of a WARC file: complete HTTP responses with status 200 and a text content type."""
    file = quarantine.named(path)
    for offset, record in warc.records(path, split.start, split.stop):
        if isinstance(record, str):
            quarantine.add(record, path, offset=offset)
            continue
        if (page := _page(record)) is None:
            continue
        if isinstance(page, str):
            quarantine.add(page, path, offset=offset, sample=record.headers.get("warc-target-uri", ""))
            continue
        place = f"{file}@{offset}"
        name = re.sub(r"^<?urn:uuid:|[<>]", "", record.headers.get("warc-record-id", "")) or place
        form = TEXT if page.is_text else "html"
        yield Document(name, page.body, page.url, page.charset, place, form=form)


def _page(record: warc.Record) -> warc_pages.Page | str | None:
    """Return the page in a record, or the reason why there is none; None for records that are not responses."""
    kind = record.headers.get("warc-type", "").lower()
    if kind in _PAGES:
        return warc_pages.page(record)
    if kind == "metadata" and record.headers.get("content-type", "").lower().startswith("application/json"):
        return "metadata of a page (WAT), and no page"
    if kind in _NO_PAGES:
        return None
    return "a revisit, whose page is elsewhere" if kind == "revisit" else "a WARC record of no known type"
