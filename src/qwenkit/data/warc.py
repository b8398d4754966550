"""Web archives: the records of a WARC file or of a part of it, and the pages in them.

    for offset, record in records(path): ...        # a Record, or the reason why there is none

In a `.warc.gz` every record is a gzip member of its own, so a part of a file is the members that begin in it, and a
damaged member costs itself only. Headers may end their lines with LF alone, as some crawls have it. A record shorter
than it declares is a cut one: reading goes on at the next that begins, even inside the length it declared.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qwenkit.data.streams import (
    CUT,
    DAMAGED,
    GZIP,
    MAX_RECORD,
    TOO_LONG,
    ZSTD,
    after_filling,
    begins,
    find_member,
    member,
    packing,
)  # fmt: skip

OPENING = b"WARC/"
PACKED = "a page packed in a way that is not read"
WRONG_LENGTH = "a WARC record of another length than it declares"
_NEXT = re.compile(rb"(?<=\n\n)WARC/|(?<=\r\n\r\n)WARC/")
_TORN = re.compile(_NEXT.pattern + rb"|WARC/[0-9.]{1,5}\r?\nWARC-")  # also in the middle of a line, after a cut


class Record(NamedTuple):
    """Headers (names in lower case) and the block of a record."""

    headers: dict[str, str]
    block: bytes


def records(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Record | str]]:
    """(Offset, record or what is wrong) of every record that begins in a part of a file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        stop = size if stop is None else min(stop, size)
        if packing(path):
            yield from _packed(file, GZIP if packing(path) == ".gz" else ZSTD, start, stop)
        else:
            yield from _plain(file, start, stop)


def _packed(file: BinaryIO, magic: bytes, start: int, stop: int) -> Iterator[tuple[int, Record | str]]:
    at: int | None = start if start == 0 else find_member(file, magic, start, OPENING)
    while at is not None and at < stop:
        data, end, reason = bytearray(), at, ""
        for part in member(file, magic, at):
            if isinstance(part, bytes):
                data += part
                if len(data) > MAX_RECORD:
                    end, reason = at + 1, TOO_LONG
                    break
            else:
                end, reason = part
        if reason:
            yield at, (reason if reason != DAMAGED else "damaged WARC member")
        else:
            yield from ((at, record) for _, record in _plain(io.BytesIO(bytes(data)), 0, len(data)))
        end = end if reason else after_filling(file, magic, end)
        if not reason and end < stop and not begins(file, magic, end):
            yield end, "damaged WARC member"
        whole = not reason and begins(file, magic, end)
        at = end if whole else find_member(file, magic, max(end, at + 1), OPENING)


def _plain(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, Record | str]]:
    at: int | None = start if start == 0 else _find(file, start)
    while at is not None and at < stop:
        file.seek(at)
        record = _record(file)
        if record is None:
            return
        end = _skip_blank(file)
        if end is not None and begins(file, OPENING, end):
            yield at, record
            at = end
            continue
        after = _find(file, at + len(OPENING), _TORN)
        swallowed = after is not None and (end is None or after < end)
        yield at, WRONG_LENGTH if swallowed else record
        at = after


def _record(file: BinaryIO) -> Record | str | None:
    """The record at the file's place; None at its end."""
    first = file.readline(1000)
    if not first.strip():
        return None
    if not first.startswith(OPENING):
        return "no WARC record"
    headers: dict[str, str] = {}
    while (line := file.readline(65_536)).strip():
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if not line:
        return CUT
    size = headers.get("content-length", "")
    if not re.fullmatch("[0-9]{1,15}", size):
        return "no length of the WARC record"
    if int(size) > MAX_RECORD:
        file.seek(int(size), 1)
        return TOO_LONG
    block = file.read(int(size))
    return Record(headers, block) if len(block) == int(size) else CUT


def _skip_blank(file: BinaryIO) -> int | None:
    """Where the next line that is not empty begins; None at the end."""
    while True:
        at = file.tell()
        line = file.readline(1000)
        if not line:
            return None
        if line.strip():
            return at


def _find(file: BinaryIO, at: int, opening: re.Pattern[bytes] = _NEXT) -> int | None:
    """The next record that begins at or after a place, by the empty line before it or another `opening`."""
    base = max(0, at - 4)
    file.seek(base)
    held = b""
    while data := file.read(1 << 20):
        held += data
        found = opening.search(held, max(0, at - base))
        if found:
            return base + found.start()
        base, held = base + max(0, len(held) - 32), held[-32:]
    return None


def page(record: Record) -> tuple[bytes, str | None, str | None] | str:
    """(Body, URL, charset claimed) of the page in a record, or why there is none."""
    kind, body = record.headers.get("content-type", ""), record.block
    if body.startswith(b"HTTP/"):
        head, body = (*re.split(rb"\r?\n\r?\n", body, maxsplit=1), b"")[:2]
        status, http = _http_head(head)
        if status != "200":
            return "HTTP status is not 200"
        unpacked = _undo_encodings(body, http)
        if isinstance(unpacked, str):
            return unpacked
        kind, body = http.get("content-type", "text/html"), unpacked
    if not kind.lower().startswith(("text/", "application/xhtml", "application/xml")):
        return "not a text page"
    charset = re.search(r"charset=[\"']?([\w.:-]+)", kind, re.I)
    url = record.headers.get("warc-target-uri", "").strip("<>") or None
    return body, url, charset.group(1) if charset else None


def _http_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Status and headers, names in lower case."""
    first, *lines = head.decode("latin-1").splitlines()
    pairs = (line.partition(":") for line in lines)
    return ([*first.split(), ""])[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _undo_encodings(body: bytes, headers: dict[str, str]) -> bytes | str:
    """Transfer and content encodings undone, where the bytes bear the headers out: crawlers often undo them first.
    A text says why that is not possible: a bomb, or an encoding that is not read."""
    if headers.get("transfer-encoding", "").lower() == "chunked" and re.match(rb"[0-9a-fA-F]+[^\n]{0,80}\r\n", body):
        body = _join_chunks(body)
    packing = headers.get("content-encoding", "").strip().lower()
    if body.startswith(GZIP[:2]) or packing == "deflate":
        unzip: Any = zlib.decompressobj(wbits=47)  # gzip's or zlib's
        try:
            unpacked = unzip.decompress(body, MAX_RECORD)
        except zlib.error:
            return body
        return TOO_LONG if unzip.unconsumed_tail else unpacked
    return PACKED if packing in ("br", "zstd", "compress") and _is_binary(body) else body


def _is_binary(body: bytes) -> bool:
    """Whether a page's bytes are neither markup nor text in UTF-8 (but for a last character that is cut)."""
    if body.lstrip().startswith(b"<"):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body[:500])
    except UnicodeDecodeError:
        return True
    return False


def _join_chunks(body: bytes) -> bytes:
    parts, at = [], 0
    while match := re.compile(rb"([0-9a-fA-F]+)[^\n]{0,80}\r\n").match(body, at):
        size = min(int(match.group(1), 16), len(body))
        parts.append(body[match.end() : match.end() + size])
        at = match.end() + size + 2
        if size == 0:
            break
    return b"".join(parts)
