"""The format of a file of rows, whatever packs it, and the rows that no other reader of the package has.

    format_of(path)                    # "json", "csv", "parquet", "arrow": by its suffix, else by its first bytes

Unlike crawls, where reading continues after a corruption, a corrupted file of chats is refused: its content is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenkit import compression
from qwenkit.errors import UserError
from qwenkit.files import refuse_pointer_at
from qwenkit.records import Row

FORMATS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
           ".arrow": "arrow"}  # fmt: skip
SUFFIXES = tuple(FORMATS)
_PACKED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")


def packing(path: Path) -> str:
    """Return how a file is compressed, by its first bytes: `gz`, `zst`, `bz2`, `xz` or ""; raises a `UserError` for a
    git-lfs pointer."""
    refuse_pointer_at(path)
    packed = compression.packing(path)
    return packed.suffix.removeprefix(".") if packed else ""


def stem_of(path: Path) -> str:
    """Return a file's name without the suffixes of its format and compression."""
    name = path.name
    for known in (_PACKED, SUFFIXES):
        suffix = Path(name).suffix.lower()
        name = name[: -len(suffix)] if suffix in known else name
    return name


def format_of(path: Path, ask: bool = True) -> str:
    """Return the format of a file by its suffix, and with `ask` by its contents where the suffix is unknown.

    An unknown format is a `UserError` with `ask`, otherwise ""."""
    suffix = Path(path.name[: -len(path.suffix)]).suffix if path.suffix.lower() in _PACKED else path.suffix
    known = FORMATS.get(suffix.lower()) or (_by_content(path) if ask else "")
    if not known and ask:
        raise UserError(
            f"a file of unknown type: {path.name}", where=str(path),
            expected=f"rows in a file that ends in {', '.join(SUFFIXES)} (and .gz, .zst, .bz2, .xz)",
        )  # fmt: skip
    return known


def _by_content(path: Path) -> str:
    refuse_pointer_at(path)
    block = next(compression.blocks(path), b"")
    head = block.lstrip(b"\xef\xbb\xbf \t\r\n") if isinstance(block, bytes) else b""
    return next((name for start, name in ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"{", "json"), (b"[", "json"))
                 if head.startswith(start)), "")  # fmt: skip


def damaged(path: Path, reason: str) -> UserError:
    """Return the error of a file that cannot be read to its end."""
    what = f"{compression.in_words(reason)}: it cannot be read to its end"
    return UserError(what, where=str(path), hint="fetch or write it again")


def arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of an Arrow file, as `save_to_disk` of Hugging Face's datasets writes them."""
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _batches(source):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, compression.DAMAGED) from error


def _batches(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    yield from (file.get_batch(index) for index in range(file.num_record_batches))
