"""Bytes and lines out of files, whatever befell them: what is damaged is named once, and what follows is still read.

    for part in blocks(path): ...          # bytes, or a Damage with its offset
    for number, line in lines(path, quarantine): ...

A gzip file is a row of members, a zstd file of frames; after a damaged one reading goes on at the next that can be
found. No more than a block of a stream is in memory, so neither a bomb nor a line of a gigabyte fills it: a line longer
than `MAX_RECORD` is skipped to its end and put aside.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from qwenkit.records import Quarantine

BLOCK = 1 << 20
MAX_RECORD = 64 << 20  # bytes of one line, page or file
CUT, DAMAGED, TOO_LONG = "truncated file", "damaged file", "record longer than 64 MB"
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
SKIPPED = b"\x2a\x4d\x18"  # after a byte 0x5N: a frame of zstd that holds no data, as parallel packers write


class Damage(NamedTuple):
    """Bytes from `offset` (of the file on disk) on that cannot be decoded, up to the next block."""

    offset: int
    reason: str
    detail: str = ""


def packing(path: Path) -> str:
    """`.gz`, `.zst` or nothing."""
    suffix = path.suffix.lower()
    return suffix if suffix in (".gz", ".zst") else ""


def blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes | Damage]:
    """A file's bytes from `start` to `stop`, unpacked. Members and frames that begin before `stop` are read whole."""
    with path.open("rb") as file:
        if packing(path):
            magic = GZIP if packing(path) == ".gz" else ZSTD
            yield from _unpacked(file, magic, start, stop)
            return
        file.seek(start)
        left = (stop if stop is not None else 1 << 62) - start
        while left > 0 and (data := file.read(min(BLOCK, left))):
            left -= len(data)
            yield data


def _unpacked(file: BinaryIO, magic: bytes, start: int, stop: int | None) -> Iterator[bytes | Damage]:
    at: int | None = start and after_filling(file, magic, start)
    size = file.seek(0, 2)
    if not size:
        yield Damage(0, CUT, "an empty file")
    while at is not None and at < min(size, size if stop is None else stop):
        end, reason = at, ""
        for part in member(file, magic, at):
            if isinstance(part, bytes):
                yield part
            else:
                end, reason = part
        end = end if reason else after_filling(file, magic, end)
        lost = not reason and end < size and not begins(file, magic, end)
        if reason or (lost and (stop is None or end < stop)):
            yield Damage(end if lost else at, reason or DAMAGED)
        at = find_member(file, magic, end if lost else at + 1) if reason or lost else end


def member(file: BinaryIO, magic: bytes, at: int) -> Iterator[bytes | tuple[int, str]]:
    """One gzip member or zstd frame in blocks; last comes (where the next begins, what was wrong or "")."""
    file.seek(at)
    unpack: Any = zlib.decompressobj(wbits=31) if magic == GZIP else zstandard.ZstdDecompressor().decompressobj()
    data = b""
    while True:
        data = data or file.read(1 << 16 if magic == GZIP else 1 << 11)  # so little may become 64 MB in zstd
        if not data:
            yield file.tell(), CUT
            return
        try:
            part = unpack.decompress(data, BLOCK) if magic == GZIP else unpack.decompress(data)
        except (zlib.error, zstandard.ZstdError):
            yield at, DAMAGED
            return
        if part:
            yield part
        if unpack.eof:
            yield file.tell() - len(unpack.unused_data), ""
            return
        data = unpack.unconsumed_tail if magic == GZIP else b""


def begins(file: BinaryIO, magic: bytes, at: int) -> bool:
    """Whether these bytes stand at a place of a file."""
    file.seek(at)
    return file.read(len(magic)) == magic


def after_filling(file: BinaryIO, magic: bytes, at: int) -> int:
    """Where that ends which may stand between members and holds nothing: zeros, and frames that zstd skips."""
    while True:
        file.seek(at)
        data = file.read(BLOCK)
        if magic == ZSTD and len(data) >= 8 and data[0] >> 4 == 5 and data[1:4] == SKIPPED:
            at += 8 + int.from_bytes(data[4:8], "little")
        elif data.startswith(b"\0"):
            at += len(data) - len(data.lstrip(b"\0"))
        else:
            return at


def find_member(file: BinaryIO, magic: bytes, at: int, opening: bytes = b"") -> int | None:
    """Where the next member begins at or after `at`: its magic number, and a first block that unpacks (and opens with
    `opening`); None where there is none."""
    file.seek(at)
    base, held = at, b""
    while data := file.read(BLOCK):
        held += data
        found = held.find(magic)
        while found >= 0:
            place = base + found
            first = next(member(file, magic, place))
            if isinstance(first, bytes) and first.startswith(opening):
                return place
            found = held.find(magic, found + 1)
        keep = len(magic) - 1
        base, held = base + len(held) - keep, held[-keep:]
        file.seek(base + len(held))
    return None


def lines(
    path: Path, quarantine: Quarantine, start: int = 0, stop: int | None = None, first: int = 1, skip: bool = False
) -> Iterator[tuple[int, bytes]]:
    """(Number, line) for every line of a part of a file that is not empty; what is damaged goes to the quarantine.

    `skip` leaves out the end of a line that began before `start`; a packed part's last line is read to its end.
    """
    parts = _with_end_of_line(path, start, stop) if packing(path) and stop is not None else blocks(path, start, stop)
    yield from lines_of(parts, path, quarantine, first, skip)


def lines_of(
    parts: Iterable[bytes | Damage], path: Path, quarantine: Quarantine, first: int = 1, skip: bool = False
) -> Iterator[tuple[int, bytes]]:
    """The same of blocks that somebody read already; `path` is what they are called."""
    number, held, dropping = first, bytearray(), skip
    for part in parts:
        if isinstance(part, Damage):
            quarantine.add(
                part.reason, path, line=number, offset=part.offset, sample=bytes(held[:200]).decode("utf-8", "replace")
            )
            held = bytearray()  # what follows may be the end of a line: then it is no record, and put aside too
            continue
        at = 0
        while (end := part.find(b"\n", at)) >= 0:
            held += part[at:end]
            at = end + 1
            if dropping:
                dropping = False
            elif len(held) > MAX_RECORD:
                quarantine.add(TOO_LONG, path, line=number, sample=_sample(held))
            elif held.strip():
                yield number, bytes(held)
            number, held = number + 1, bytearray()
        held += part[at:] if not dropping else b""
        if len(held) > MAX_RECORD:
            quarantine.add(TOO_LONG, path, line=number, sample=_sample(held))
            held, dropping = bytearray(), True
    if held.strip() and not dropping:
        yield number, bytes(held)


def _sample(line: bytearray) -> str:
    return bytes(line[:200]).decode("utf-8", "replace")


def _with_end_of_line(path: Path, start: int, stop: int) -> Iterator[bytes | Damage]:
    """A packed part, and of what follows it the bytes up to the first end of a line."""
    last = b"\n"
    for part in blocks(path, start, stop):
        last = part if isinstance(part, bytes) else b"\n"
        yield part
    if last.endswith(b"\n"):
        return
    for part in blocks(path, stop):
        if not isinstance(part, bytes):
            return
        end = part.find(b"\n")
        yield part if end < 0 else part[: end + 1]
        if end >= 0:
            return
