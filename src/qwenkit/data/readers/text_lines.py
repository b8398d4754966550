"""Lines out of files, compressed or not, in any condition: each corruption is reported once, and what follows is still
read.

    for number, line in lines(path, quarantine): ...

No more than a block of a stream is in memory, so neither a decompression bomb nor a line of a gigabyte fills it: a line
longer than `MAX_RECORD` is skipped to its end and quarantined. A file in UTF-16 (by its mark, or by its NUL bytes) is
read as UTF-8.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from qwenkit import compression
from qwenkit.compression import Damage, packing
from qwenkit.data.readers.encoding import BOMS, utf_16
from qwenkit.records import Quarantine

MAX_RECORD = 64 << 20  # bytes of one line, page or file
TOO_LONG = "record longer than 64 MB"


def blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes | Damage]:
    """Yield the bytes of a file, decompressed and in UTF-8: UTF-16 is re-encoded, from its beginning."""
    parts = compression.blocks(path, start, stop)
    if start:
        yield from parts
        return
    decoder = None
    for number, part in enumerate(parts):
        if isinstance(part, Damage):
            yield part
            continue
        if number == 0 and (wide := wide_encoding(part)):
            decoder = codecs.getincrementaldecoder(wide)("surrogatepass")
        yield part if decoder is None else decoder.decode(part).encode("utf-8", "surrogatepass")


def wide_encoding(head: bytes) -> str | None:
    """Return the name of the UTF-16 that a file begins in, by its mark or by its NUL bytes; None for other
    encodings."""
    marked = next((name for mark, name in BOMS if head.startswith(mark)), None)
    return marked if marked and marked.startswith("utf-16") else utf_16(head[:1000])


def is_wide(path: Path) -> bool:
    """Return whether a file's text is in UTF-16."""
    head = next(compression.blocks(path), b"")
    return isinstance(head, bytes) and wide_encoding(head) is not None


def lines(
    path: Path, quarantine: Quarantine, start: int = 0, stop: int | None = None, first: int = 1, skip: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) for every line of a split that is not empty; corrupted data goes to the quarantine.

    `skip` leaves out the end of a line that began before `start`; the last line of a compressed split is read to its
    end."""
    number, line, dropping = first, bytearray(), skip
    parts = _with_end_of_line(path, start, stop) if packing(path) and stop is not None else blocks(path, start, stop)
    for part in parts:
        if isinstance(part, Damage):
            quarantine.add(
                part.reason, path, line=number, offset=part.offset, sample=bytes(line[:200]).decode("utf-8", "replace")
            )
            line = bytearray()  # what follows may be the end of a line: then it is not a record, and is quarantined too
            continue
        at = 0
        while (end := part.find(b"\n", at)) >= 0:
            line += part[at:end]
            at = end + 1
            if dropping:
                dropping = False
            elif len(line) > MAX_RECORD:
                quarantine.add(TOO_LONG, path, line=number, sample=_sample(line))
            elif line.strip():
                yield number, bytes(line)
            number, line = number + 1, bytearray()
        line += part[at:] if not dropping else b""
        if len(line) > MAX_RECORD:
            quarantine.add(TOO_LONG, path, line=number, sample=_sample(line))
            line, dropping = bytearray(), True
    if line.strip() and not dropping:
        yield number, bytes(line)


def _sample(line: bytearray) -> str:
    return bytes(line[:200]).decode("utf-8", "replace")


def _with_end_of_line(path: Path, start: int, stop: int) -> Iterator[bytes | Damage]:
    """Yield a compressed split, and the bytes after it up to the first line end."""
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
