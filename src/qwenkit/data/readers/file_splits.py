"""Find where a large file can be cut, so that each split is read by itself: the one splitter of files.

    for split in split_lines(path, 16 << 20): ...        # of plain JSON lines: each split ends with a whole line
    for split in split_row_groups(path, 16 << 20): ...   # of Parquet
    for split in split_frames(path, 16 << 20): ...       # of zstd, which is cut at frames

Splits are a function of the file and of `size` (bytes) alone, so any number of workers makes the same output. What
cannot be cut (gzip, CSV, a JSON document) is one split of the whole file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwenkit import compression
from qwenkit.compression import ZSTD
from qwenkit.records import row_groups


@dataclass(frozen=True)
class FileSplit:
    """A split of a file that is read by itself: bytes `start` to `stop` (of Parquet: row groups); None means to the
    end.

    `lines` and `rows` count what precedes it: lines with empty ones, rows without. `skip` says that it begins within a
    line that belongs to the split before."""

    path: Path
    start: int = 0
    stop: int | None = None
    lines: int = 0
    rows: int = 0
    skip: bool = False


def split_lines(path: Path, size: int) -> Iterator[FileSplit]:
    """Yield the splits of a file of plain lines: each ends with the line that reaches `size` bytes."""
    start = number = rows = 0
    total = path.stat().st_size
    with path.open("rb") as file:
        while start < total:
            lines_before, rows_before, open_line, left = number, rows, False, size
            while data := file.read(min(compression.BLOCK, left)) if left > 0 else file.readline(compression.BLOCK):
                first, *more = data.split(b"\n")
                number, left = number + len(more), left - len(data)
                has_text = bool(first.strip())
                rows += has_text and not open_line
                rows += sum(map(bool, map(bytes.strip, more)))
                open_line = bool(more[-1].strip()) if more else open_line or has_text
                if left <= 0 and data.endswith(b"\n"):
                    break
            yield FileSplit(path, start, file.tell(), lines_before, rows_before)
            start = file.tell()


def split_row_groups(path: Path, size: int) -> Iterator[FileSplit]:
    """Yield the splits of a Parquet file: row groups of about `size` bytes. A corrupted file is one split, so that its
    reader can say what is wrong."""
    import pyarrow as pa

    try:
        yield from (FileSplit(path, start, stop, rows, rows) for start, stop, rows in row_groups(path, size))
    except (pa.ArrowException, OSError):
        yield FileSplit(path)


def split_frames(path: Path, size: int) -> Iterator[FileSplit]:
    """Yield the splits of JSON lines compressed by zstd, each of complete frames.

    The file is decompressed once to count lines. A file of one frame stays one split, and so does everything after a
    corrupted frame."""
    start = at = lines = before = 0
    skip, last = False, b"\n"
    total = path.stat().st_size
    with path.open("rb") as file:
        while at < total:
            end, reason = at, ""
            for part in compression.member(file, ZSTD, at):
                if isinstance(part, bytes):
                    lines, last = lines + part.count(b"\n"), part
                else:
                    end, reason, _ = part
            if reason:
                break
            at = end
            if at - start >= size and at < total:
                yield FileSplit(path, start, at, before, skip=skip)
                start, before, skip = at, lines, not last.endswith(b"\n")
    yield FileSplit(path, start, None if start == 0 else total, before, skip=skip)
