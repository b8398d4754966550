"""Compressed files, recognised by their first bytes whatever their names: gzip, zstd, bzip2 and xz.

    with opened(path) as file: ...         # a binary file to read, decompressed where it is compressed
    for part in blocks(path): ...          # bytes, or a Damage with its offset: corrupted data is skipped

A gzip file is a sequence of members, a zstd file one of frames, bzip2 and xz files are sequences of streams; after a
corrupted one `blocks` continues at the next that can be located. No more than a block is in memory, so that a
decompression bomb cannot fill it.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from qwenkit.files import open_file

BLOCK = 1 << 20
CUT, DAMAGED = "truncated file", "damaged file"
"""Reasons as they are written in quarantine files and counts; `in_words` gives their names in messages."""
WIDEST = 1 << 31  # bytes that zstd may look back (`--long=31`, the most there is); it holds as much as it has unpacked
_XZ_MEMORY = 1 << 30
_HEAD = 512  # bytes that show how a file is compressed
_SKIPPED = b"\x2a\x4d\x18"  # after a byte 0x5N: a frame of zstd that holds no data, as parallel packers write
_FEEDS = {".gz": 1 << 16, ".zst": 1 << 11}  # bytes given to a decoder that may make a block of them; zstd: 64 MB
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_FAULTS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)


def in_words(reason: str) -> str:
    """Return the message of a reason: the name in quarantine files is older than the present word."""
    return "corrupted file" if reason == DAMAGED else reason


class Packing(NamedTuple):
    """A compression format: the suffix that names it, and the bytes that every member begins with."""

    suffix: str
    magic: bytes


GZIP, ZSTD = Packing(".gz", b"\x1f\x8b\x08"), Packing(".zst", b"\x28\xb5\x2f\xfd")
BZIP2, XZ = Packing(".bz2", b"BZh"), Packing(".xz", b"\xfd7zXZ\0")
PACKINGS = {packing.suffix: packing for packing in (GZIP, ZSTD, BZIP2, XZ)}


class Damage(NamedTuple):
    """Bytes from `offset` (in the file on disk) on that cannot be decoded, up to the next block."""

    offset: int
    reason: str
    detail: str = ""


def packing(path: Path) -> Packing | None:
    """Return the compression of a file by its first bytes, or by its name where those are corrupted; None for a plain
    file."""
    with open_file(path) as file:
        return _packing(file.read(_HEAD), path)


def _packing(head: bytes, path: Path) -> Packing | None:
    for known in PACKINGS.values():
        if head.startswith(known.magic) and (known is not BZIP2 or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")):
            return known
    if head[1:4] == _SKIPPED and head[0] >> 4 == 5:
        return ZSTD
    named = PACKINGS.get(path.suffix.lower())
    return named if named and not _is_plain(head) else None


def _is_plain(head: bytes) -> bool:
    """Return whether the first bytes are text, whatever the name says, or Parquet's, which is compressed inside."""
    is_marked = head.startswith((b"PAR1", b"\xff\xfe", b"\xfe\xff"))
    return is_marked or (bool(head) and not _CONTROL.search(head))


def unpacked_name(path: Path) -> Path:
    """Return a path without the suffix of a compression: `a.jsonl` for `a.jsonl.gz`."""
    return path.with_suffix("") if path.suffix.lower() in PACKINGS else path


def opened(path: Path) -> BinaryIO:
    """Return a file's decompressed bytes as a stream. A corrupted file gives what comes before, then an `OSError`; a
    truncated one an `EOFError`."""
    if packing(path) is None:
        return open_file(path)
    return io.BufferedReader(_Unpacked(path), BLOCK)


class _Unpacked(io.RawIOBase):
    """The blocks of a file as a file, which ends with the first damage."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._blocks, self._held = blocks(path), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            part = next(self._blocks, None)
            if part is None:
                return 0
            if isinstance(part, Damage):
                raise (EOFError if part.reason == CUT else OSError)(part.detail or part.reason)
            self._held = memoryview(part)
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        return size


def blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes | Damage]:
    """Yield a file's bytes from `start` to `stop`, decompressed. Members and frames that begin before `stop` are read
    to their end."""
    with open_file(path) as file:
        if (kind := _packing(file.read(_HEAD), path)) is not None:
            yield from _unpacked(file, kind, start, stop)
            return
        file.seek(start)
        left = (stop if stop is not None else 1 << 62) - start
        while left > 0 and (data := file.read(min(BLOCK, left))):
            left -= len(data)
            yield data


def _unpacked(file: BinaryIO, kind: Packing, start: int, stop: int | None) -> Iterator[bytes | Damage]:
    at: int | None = after_filling(file, kind, start)
    size = file.seek(0, 2)
    if not size:
        yield Damage(0, CUT, "an empty file")
    while at is not None and at < min(size, size if stop is None else stop):
        end, reason, detail = at, "", ""
        for part in member(file, kind, at):
            if isinstance(part, bytes):
                yield part
            else:
                end, reason, detail = part
        end = end if reason else after_filling(file, kind, end)
        lost = not reason and end < size and not begins(file, kind, end)
        if reason or (lost and (stop is None or end < stop)):
            yield Damage(end if lost else at, reason or DAMAGED, detail)
        at = find_member(file, kind, end if lost else at + 1) if reason or lost else end


class Ended(NamedTuple):
    """How a member ended: where the next one begins, and what was wrong, or nothing."""

    at: int
    reason: str = ""
    detail: str = ""


def member(file: BinaryIO, kind: Packing, at: int) -> Iterator[bytes | Ended]:
    """Yield one member or frame in blocks, and last how it ended."""
    file.seek(at)
    unpack, data, feed = _decoder(kind), b"", _FEEDS.get(kind.suffix, 1 << 16)
    while True:
        if not data and getattr(unpack, "needs_input", True):
            data = file.read(feed)
            if not data:
                yield Ended(file.tell(), CUT)
                return
        try:
            part = unpack.decompress(data) if kind is ZSTD else unpack.decompress(data, BLOCK)
        except _FAULTS as error:
            yield Ended(at, DAMAGED, str(error))
            return
        if part:
            yield part
        if unpack.eof:
            yield Ended(file.tell() - len(unpack.unused_data))
            return
        data = unpack.unconsumed_tail if kind is GZIP else b""  # zstd takes all, bzip2 and xz keep what is left


def _decoder(kind: Packing) -> Any:
    if kind is GZIP:
        return zlib.decompressobj(wbits=31)
    if kind is ZSTD:
        return zstandard.ZstdDecompressor(max_window_size=WIDEST).decompressobj()
    return bz2.BZ2Decompressor() if kind is BZIP2 else lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)


def begins(file: BinaryIO, kind: Packing, at: int) -> bool:
    """Return whether a member begins at a position of a file."""
    file.seek(at)
    return file.read(len(kind.magic)) == kind.magic


def after_filling(file: BinaryIO, kind: Packing, at: int) -> int:
    """Return the position after padding that may stand between members: zeros, and frames that zstd skips."""
    size = 16  # nearly always there is nothing
    while True:
        file.seek(at)
        data = file.read(size)
        if kind is ZSTD and len(data) >= 8 and data[0] >> 4 == 5 and data[1:4] == _SKIPPED:
            at += 8 + int.from_bytes(data[4:8], "little")
        elif data.startswith(b"\0"):
            at, size = at + len(data) - len(data.lstrip(b"\0")), BLOCK
        else:
            return at


def find_member(file: BinaryIO, kind: Packing, at: int, opening: bytes = b"") -> int | None:
    """Return where the next member begins at or after `at`: its magic number, and a first block that decompresses (and
    begins with `opening`); None where there is none."""
    file.seek(at)
    base, buffer, magic = at, b"", kind.magic
    while data := file.read(BLOCK):
        buffer += data
        index = buffer.find(magic)
        while index >= 0:
            place = base + index
            first = next(member(file, kind, place))
            if isinstance(first, bytes) and first.startswith(opening):
                return place
            index = buffer.find(magic, index + 1)
        keep = len(magic) - 1
        base, buffer = base + len(buffer) - keep, buffer[-keep:]
        file.seek(base + len(buffer))
    return None
