"""Readers: documents out of WARC, JSONL, Parquet and folders (section 2.1, what comes before its first step).

    quarantine = Quarantine()
    for document in read_documents(Source("web", Path("pages.warc.gz"), kind="html"), quarantine): ...

A bad record never ends the reading: it goes to the quarantine with its reason, file and line or offset, and
`read = yielded + quarantined` holds for every file. A path that does not exist, an empty source or an unknown suffix is
the user's mistake. WARC members are opened with fastwarc; a record shorter than its declared length is a cut one.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from qwenkit.errors import UserError, nearest
from qwenkit.records import Quarantine, name_of, read_jsonl

CUT = "truncated file"
KINDS = ("html", "web", "text", "code", "instruction")
_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py", ".html", ".htm"}
_ROW_SUFFIXES = {".jsonl", ".json", ".parquet", ".warc"}
_PAGE_TYPES = ("text/", "application/xhtml", "application/xml")


@dataclass(frozen=True)
class Source:
    """One source of the corpus. `weight` up-samples (2.5: every document twice, half of them a third time).

    Kinds: `html` pages; `web` text that somebody took out of pages; `text` that was chosen by hand (books, your own);
    `code`; `instruction` data. Prose rules of quality judge the first two only.

    `skip` names steps that are not applied to it, beyond those its kind leaves out (`corpus.STEPS`).
    """

    name: str
    path: Path | str
    kind: str = "text"
    weight: float = 1.0
    licence: str = "unknown"
    text_key: str | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"unknown kind {self.kind!r}",
                where=f"source {self.name}",
                expected=f"one of {', '.join(KINDS)}",
                nearest=nearest(self.kind, KINDS),
            )
        if not self.weight > 0:
            raise UserError(f"weight {self.weight}", where=f"source {self.name}", expected="a number above 0")


@dataclass
class Document:
    """A document as read: `body` is text, or bytes whose encoding only `charset` (a header's claim) hints at."""

    id: str
    body: str | bytes
    url: str | None = None
    charset: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def read_documents(source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """Every document of a source, files in sorted order; bad records go to the quarantine."""
    kept = 0
    before = len(quarantine)
    for path in source_files(Path(source.path), source.name):
        for document in _read_file(path, source, quarantine):
            kept += 1
            yield document
    if kept == 0 and len(quarantine) == before:
        raise UserError("no document in this source", where=f"source {source.name}: {source.path}")


def source_files(path: Path, name: str) -> list[Path]:
    """The files of a source: the path itself, or every file below it with a known suffix, sorted by relative path."""
    if not path.exists():
        raise UserError(
            "no such file or folder", where=f"source {name}: {path}", nearest=nearest(path.name, _siblings(path))
        )
    if path.is_file():
        return [path]
    known = _TEXT_SUFFIXES | _ROW_SUFFIXES
    found = [file for file in path.rglob("*") if file.is_file() and _suffix(file) in known]
    if not found:
        raise UserError(
            "no readable file in this folder", where=f"source {name}: {path}", expected=", ".join(sorted(known))
        )
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []


def _suffix(path: Path) -> str:
    """The suffix that names the format, without a closing `.gz`."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _read_file(path: Path, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    suffix = _suffix(path)
    if suffix == ".warc":
        yield from _read_warc(path, quarantine)
    elif suffix == ".parquet":
        yield from _rows(_parquet_rows(path, quarantine), path, source, quarantine)
    elif suffix in (".jsonl", ".json"):
        yield from _rows(_json_rows(path, quarantine), path, source, quarantine)
    elif suffix in _TEXT_SUFFIXES:
        yield from _read_text(path, source, quarantine)
    else:
        raise UserError(
            f"unknown file type {path.name!r}",
            where=f"source {source.name}",
            expected=", ".join(sorted(_TEXT_SUFFIXES | _ROW_SUFFIXES)),
            nearest=nearest(suffix, _TEXT_SUFFIXES | _ROW_SUFFIXES),
        )


def _read_text(path: Path, source: Source, quarantine: Quarantine) -> Iterator[Document]:
    """A file is a document, named by its path below the source. Prose and code must be UTF-8, pages may be anything."""
    root = Path(source.path)
    name = path.name if root == path else path.relative_to(root).as_posix()
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error):
        quarantine.add(CUT, path)
        return
    if source.kind == "html":
        yield Document(name, data)
        return
    try:
        yield Document(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        quarantine.add("invalid UTF-8", path, offset=error.start, sample=data[:200].decode(errors="replace"))


def _json_rows(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers (empty lines are not counted)."""
    rows, number = read_jsonl(path, quarantine), 0
    while True:
        before = len(quarantine)
        row = next(rows, None)
        if row is None:
            return
        number += 1 + len(quarantine) - before
        yield number, row


def _parquet_rows(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(str(path)).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        quarantine.add(CUT, path, line=number + 1, sample=str(error))


def _rows(
    rows: Iterator[tuple[int, dict[str, Any]]], path: Path, source: Source, quarantine: Quarantine
) -> Iterator[Document]:
    """Documents out of rows with a text column (`text`; for pages `html`, else `body`, else `text`)."""
    keys = (source.text_key,) if source.text_key else ("html", "body", "text") if source.kind == "html" else ("text",)
    for number, row in rows:
        key = next((key for key in keys if key in row), None)
        body = row.get(key) if key else None
        if not isinstance(body, str | bytes):
            what = "no" if key is None else "not a text in"
            quarantine.add(f"{what} key {keys[0]!r}", path, line=number, sample=str(row))
            continue
        name = f"{path.name}:{number}" if row.get("id") in (None, "") else name_of(row["id"])
        if name is None:
            quarantine.add("not a text in key 'id'", path, line=number, sample=str(row))
            continue
        fields = {name: value for name, value in row.items() if name not in (key, "id", "url")}
        yield Document(name, body, row.get("url"), fields=fields)


def _read_warc(path: Path, quarantine: Quarantine) -> Iterator[Document]:
    """Pages of a WARC file: complete HTTP responses with status 200 and a text content type."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
    offset, whole = 0, True
    with path.open("rb") as stream:
        try:
            for record in ArchiveIterator(stream, parse_http=False, quirks_mode=True):
                offset = record.stream_pos
                if record.record_type not in wanted:
                    continue
                document = _page(record)
                if isinstance(document, Document):
                    yield document
                else:
                    whole = document != CUT
                    quarantine.add(document, path, offset=offset, sample=record.headers.get("WARC-Target-URI") or "")
        except OSError as error:  # the member is damaged: what follows cannot be found again
            quarantine.add("damaged WARC member", path, offset=offset, sample=str(error))
            return
        if whole and _ends_early(stream, offset):  # a record cut within its header is not even seen
            quarantine.add(CUT, path, offset=offset)


def _ends_early(stream: BinaryIO, offset: int) -> bool:
    """Whether a file breaks off inside a gzip member at or after the last record that was read."""
    stream.seek(offset)
    data = stream.read()
    while data.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(wbits=31)
        member.decompress(data)
        if not member.eof:
            return True
        data = member.unused_data
    return False


def _page(record: Any) -> Document | str:
    """The page in a WARC record, or the reason why there is none."""
    declared = record.content_length
    block = record.reader.read()
    if len(block) < declared:
        return CUT
    kind, body = record.headers.get("Content-Type", ""), block
    if block.startswith(b"HTTP/"):
        head, body = (*re.split(rb"\r?\n\r?\n", block, maxsplit=1), b"")[:2]
        status, http = _http_head(head)
        if status != "200":
            return "HTTP status is not 200"
        kind, body = http.get("content-type", "text/html"), _undo_encodings(body, http)
    if not kind.startswith(_PAGE_TYPES):
        return "not a text page"
    charset = re.search(r"charset=[\"']?([\w.:-]+)", kind, re.I)
    identity = record.headers.get("WARC-Record-ID") or str(record.stream_pos)
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>") or None
    return Document(identity.removeprefix("<urn:uuid:").strip("<>"), body, url, charset.group(1) if charset else None)


def _http_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Status and headers, names in lower case."""
    first, *lines = head.decode("latin-1").splitlines()
    pairs = (line.partition(":") for line in lines)
    return ([*first.split(), ""])[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _undo_encodings(body: bytes, headers: dict[str, str]) -> bytes:
    """Transfer and content encodings undone, where the bytes bear the headers out: crawlers often undo them first."""
    if headers.get("transfer-encoding", "").lower() == "chunked" and re.match(rb"[0-9a-fA-F]+[^\n]{0,80}\r\n", body):
        body = _join_chunks(body)
    if body.startswith(b"\x1f\x8b"):
        unzip = zlib.decompressobj(wbits=31)
        try:
            return unzip.decompress(body)
        except zlib.error:
            return body
    return body


def _join_chunks(body: bytes) -> bytes:
    parts, at = [], 0
    while match := re.compile(rb"([0-9a-fA-F]+)[^\n]{0,80}\r\n").match(body, at):
        size = int(match.group(1), 16)
        parts.append(body[match.end() : match.end() + size])
        at = match.end() + size + 2
        if size == 0:
            break
    return b"".join(parts)
