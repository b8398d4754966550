"""Web archives: the records of a WARC file or of a split of it (`warc_pages` turns them into pages).

    for offset, record in records(path): ...        # a Record, or the reason why there is none
    for start, stop in edges(path, 16 << 20): ...   # parts of a plain file, from record to record

In a `.warc.gz` every record is a gzip member of its own, so a split of a file is the members that begin in it, and a
corrupted member loses only itself; a file compressed as one member is read through a window. Headers may end their
lines with LF alone, as in some crawls. No length is trusted: a record shorter than it declares is truncated, and
reading continues at the next record, even inside the declared length. A record quoted inside another of the right
length is not read as one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import BinaryIO, NamedTuple

from qwenkit.compression import (
    BLOCK,
    CUT,
    DAMAGED,
    Ended,
    Packing,
    after_filling,
    begins,
    find_member,
    member,
    packing,
)
from qwenkit.data.readers.text_lines import MAX_RECORD, TOO_LONG

OPENING = b"WARC/"
WRONG_LENGTH = "a WARC record of another length than it declares"
_NEXT = re.compile(rb"(?<=\n\n)WARC/|(?<=\r\n\r\n)WARC/")
_TORN = re.compile(_NEXT.pattern + rb"|WARC/[0-9.]{1,5}\r?\nWARC-")  # also in the middle of a line, after a cut
_HEADERS = 1000  # lines that a record's headers have at most


class Record(NamedTuple):
    """The headers (names in lower case) and the block of a record."""

    headers: dict[str, str]
    block: bytes


class _File(io.BufferedReader):
    """A file on disk, whose end is known."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))
        self.total = path.stat().st_size

    def forget(self, at: int) -> None:
        """Nothing is held."""


class _Window:
    """What a member unpacks to as a file to read, of which only what may be asked for again is held."""

    total = None  # unknown before it has ended

    def __init__(self, parts: Iterator[bytes | Ended]) -> None:
        self._parts, self._held, self._base, self._at = parts, bytearray(), 0, 0
        self._ended: Ended | None = None

    def _fill(self, stop: int) -> None:
        while self._ended is None and self._base + len(self._held) < stop:
            part = next(self._parts)
            if isinstance(part, Ended):
                self._ended = part
            else:
                self._held += part

    def seek(self, at: int) -> int:
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        self._fill(self._at + size)
        start = self._at - self._base
        data = bytes(self._held[start : start + size])
        self._at += len(data)
        return data

    def readline(self, limit: int) -> bytes:
        self._fill(self._at + limit)
        start = self._at - self._base
        end = self._held.find(b"\n", start, start + limit) + 1
        return self.read(end - start if end else limit)

    def forget(self, at: int) -> None:
        """Let go of what comes before a place."""
        del self._held[: max(0, at - self._base)]
        self._base = max(at, self._base)

    def end(self) -> Ended:
        """Return how the member ended; what is left of it is unpacked for that and thrown away."""
        while self._ended is None:
            self.forget(self._base + len(self._held))
            self._fill(self._base + 1)
        return self._ended


def records(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Record | str]]:
    """Yield (offset, record or error) for every record that begins in a split of a file.

    A split of a file that is not compressed must begin at a record."""
    if kind := packing(path):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            yield from _packed(file, kind, start, size if stop is None else min(stop, size))
        return
    with _File(path) as plain:
        yield from _plain(plain, start, plain.total if stop is None else stop)


def edges(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of splits of a plain file, of about `size` bytes each.

    They begin at records of a sequential read, so that no split begins with a record that another one quotes."""
    start = 0
    with _File(path) as file:
        for at, _ in _plain(file, 0, file.total, False):
            if at - start >= size:
                yield start, at
                start = at
        yield start, file.total


def _packed(file: BinaryIO, kind: Packing, start: int, stop: int) -> Iterator[tuple[int, Record | str]]:
    at: int | None = start if start == 0 else find_member(file, kind, start, OPENING)
    while at is not None and at < stop:
        window = _Window(member(file, kind, at))
        last: Record | str | None = None
        for _, record in _plain(window, 0, inf):
            if last is not None:
                yield at, last
            last = record
        end, reason, _ = window.end()
        if reason:  # the last record is the corrupted one
            yield at, reason if reason != DAMAGED else "damaged WARC member"
        elif last is not None:
            yield at, last
        end = end if reason else after_filling(file, kind, end)
        if not reason and end < stop and not begins(file, kind, end):
            yield end, "damaged WARC member"
        intact = not reason and begins(file, kind, end)
        at = end if intact else find_member(file, kind, max(end, at + 1), OPENING)


def _plain(file: _File | _Window, start: int, stop: float, whole: bool = True) -> Iterator[tuple[int, Record | str]]:
    """Yield the records of an uncompressed file, from one that begins at `start`; without their blocks if not
    `whole`."""
    at: int | None = start
    while at is not None and at < stop:
        file.forget(at)
        file.seek(at)
        record = _record(file, whole)
        if record is None:
            return
        end = _skip_blank(file)
        file.seek(at if end is None else end)
        if end is None and isinstance(record, Record):
            yield at, record
            return
        if end is not None and file.read(len(OPENING)) == OPENING:
            yield at, record
            at = end
            continue
        after = _find(file, at + len(OPENING), _TORN)
        swallowed = isinstance(record, Record) and after is not None and end is not None and after < end
        yield at, WRONG_LENGTH if swallowed else record
        at = after


def _record(file: _File | _Window, whole: bool) -> Record | str | None:
    """Return the record at the file's position, which moves behind it; None at the end."""
    first = file.readline(1000)
    if not first.strip():
        return None
    if not first.startswith(OPENING):
        return "no WARC record"
    headers: dict[str, str] = {}
    for _ in range(_HEADERS):
        line = file.readline(65_536)
        if not line.strip():
            break
        if not whole and b"length" not in line.lower():  # all that is asked for
            continue
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    else:
        return "no end of the headers of the WARC record"
    if not line:
        return CUT
    length = headers.get("content-length", "")
    if not re.fullmatch("[0-9]{1,18}", length):
        return "no length of the WARC record"
    return _block(file, headers, int(length), whole)


def _block(file: _File | _Window, headers: dict[str, str], size: int, whole: bool) -> Record | str:
    """Return the record with these headers, if its block has the declared size. The block of a too long one is
    skipped."""
    begin = file.tell()
    fits = file.total is not None and begin + size <= file.total
    if size > MAX_RECORD or not whole:
        if fits:
            file.seek(begin + size)
        return TOO_LONG if size > MAX_RECORD else Record(headers, b"") if fits else CUT
    block = file.read(size)
    return Record(headers, block) if len(block) == size else CUT


def _skip_blank(file: _File | _Window) -> int | None:
    """Return where the next line that is not empty begins; None at the end."""
    while True:
        at = file.tell()
        line = file.readline(1000)
        if not line:
            return None
        if line.strip():
            return at


def _find(file: _File | _Window, at: int, opening: re.Pattern[bytes]) -> int | None:
    """Return the next record that begins at or after a position, by the empty line before it or another `opening`."""
    base = max(0, at - 4)
    window = b""
    while True:
        file.seek(base + len(window))
        data = file.read(BLOCK)
        if not data:
            return None
        window += data
        match = opening.search(window, max(0, at - base))
        if match:
            return base + match.start()
        base, window = base + max(0, len(window) - 32), window[-32:]
        file.forget(base)
