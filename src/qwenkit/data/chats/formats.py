"""The format of a file of rows and its bytes, whatever packs them: JSON lines, a JSON document, CSV, Parquet, Arrow.

    format_of(path)                    # "json", "csv", "parquet", "arrow": by its suffix, else by its first bytes
    for block in blocks(path): ...     # unpacked; gzip, zstd, bzip2 and xz are known by their first bytes

Unlike crawls, where reading goes on behind damage, a damaged file of chats is refused: nobody knows what it held.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import itertools
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from qwenkit.data import json_files, streams
from qwenkit.errors import UserError
from qwenkit.files import LFS, open_file, refuse_pointer
from qwenkit.records import Quarantine, Row

FORMATS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
           ".arrow": "arrow"}  # fmt: skip
SUFFIXES = tuple(FORMATS)
_PACKED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_MEND = "fetch or write it again"


def packing(path: Path) -> str:
    """What packs a file, by its first bytes: `gzip`, `zstd`, `bzip2`, `xz` or nothing."""
    with open_file(path) as file:
        head = file.read(len(LFS))
    refuse_pointer(head, path)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def stem_of(path: Path) -> str:
    """A file's name without what tells its format and packing."""
    name = path.name
    for known in (_PACKED, SUFFIXES):
        suffix = Path(name).suffix.lower()
        name = name[: -len(suffix)] if suffix in known else name
    return name


def format_of(path: Path, ask: bool = True) -> str:
    """The format of a file; one that is not known is a `UserError`, or nothing unless asked."""
    suffix = Path(path.name[: -len(path.suffix)]).suffix if path.suffix.lower() in _PACKED else path.suffix
    known = FORMATS.get(suffix.lower()) or (_by_content(path) if ask else "")
    if not known and ask:
        raise UserError(
            f"a file of unknown type: {path.name}", where=str(path),
            expected=f"rows in a file that ends in {', '.join(SUFFIXES)} (and .gz, .zst, .bz2, .xz)",
        )  # fmt: skip
    return known


def _by_content(path: Path) -> str:
    head = next(blocks(path), b"").lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((name for start, name in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"{", "json"), (b"[", "json"))
                 if head.startswith(start)), "")  # fmt: skip


def blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """A file's bytes, unpacked; of one that is not packed those from `start` to `stop`. Damage is a `UserError`."""
    packed = packing(path)
    if not packed:
        yield from (block for block in streams.blocks(path, start, stop) if isinstance(block, bytes))
        return
    try:
        yield from _frames(path) if packed == "zstd" else _unpacked(path, packed)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise damaged(path, streams.CUT if isinstance(error, EOFError) else streams.DAMAGED) from error


def damaged(path: Path, reason: str) -> UserError:
    """What is said of a file that cannot be read to its end."""
    return UserError(f"{reason}: it cannot be read to its end", where=str(path), mend=_MEND)


def _unpacked(path: Path, packed: str) -> Iterator[bytes]:
    opener = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[packed]
    with cast("BinaryIO", opener(path, "rb")) as file:
        while block := file.read(streams.BLOCK):
            yield block


def _frames(path: Path) -> Iterator[bytes]:
    """A zstd file frame by frame: its library passes over an end that comes too early."""
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while (at := streams.after_filling(file, streams.ZSTD, at)) < size:
            for part in streams.member(file, streams.ZSTD, at):
                if isinstance(part, bytes):
                    yield part
                    continue
                at, reason = part
                if reason:
                    raise damaged(path, reason)


def is_document(path: Path) -> bool:
    """Whether JSON is a document rather than lines: a list, or an object that its first line leaves open."""
    return json_files.opens_document(next(blocks(path), b""))


def values(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, bytes]]:
    """(Number, bytes) of every row of a JSON document: the items of a list, or of the one list in an object."""
    return json_files.values(path, quarantine, blocks(path))


def lines(
    path: Path, quarantine: Quarantine, start: int = 0, stop: int | None = None, first: int = 1
) -> Iterator[tuple[int, bytes]]:
    """(Number, line) of every line that is not empty."""
    if not packing(path):
        yield from streams.lines(path, quarantine, start, stop, first)
        return
    yield from streams.lines_of(blocks(path), path, quarantine)


def table(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    """Rows of a CSV or TSV file by the names in its first line; cells are texts, and so they stay."""
    csv.field_size_limit(streams.MAX_RECORD)
    texts = _text_lines(path)
    first = next(texts, "")
    comma = "\t" if ".tsv" in path.name.lower() else max(",;\t", key=first.count)
    rows = csv.reader(itertools.chain([first], texts), delimiter=comma)
    names: list[str] = []
    number = 0
    try:
        names = [name.strip() for name in next(rows, [])]
        for number, cells in enumerate(rows, 1):
            if len(cells) == len(names):
                yield number, dict(zip(names, cells))
            elif cells:
                what = "a row with another number of cells than the first line"
                quarantine.add(what, path, line=number, sample=comma.join(cells))
    except csv.Error as error:
        raise UserError(f"broken CSV ({error})", where=f"{path}, row {number + 1}") from error


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a table, ends included: in UTF-8, or in UTF-16 with its mark as Excel writes it."""
    decoder: codecs.IncrementalDecoder | None = None
    held = ""
    try:
        for block in blocks(path):
            if decoder is None:
                wide = block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
            *whole, held = (held + decoder.decode(block)).split("\n")
            yield from (line + "\n" for line in whole)
    except UnicodeDecodeError:
        raise UserError("the table is not in UTF-8", where=str(path), mend="save it as CSV UTF-8") from None
    if held:
        yield held


def arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of an Arrow file, as `save_to_disk` of Hugging Face's datasets writes them."""
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _batches(source):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, streams.DAMAGED) from error


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    yield from (file.get_batch(index) for index in range(file.num_record_batches))
