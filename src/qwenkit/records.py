"""Rows on disk: canonical JSON, JSONL and Parquet in and out, and the quarantine of records that cannot be read.

Nothing is dropped silently: a reader that meets a bad record hands it to a `Quarantine` with the reason, the file and
the line or offset, and goes on; `read = kept + quarantined` holds for every reader.
"""

# pyarrow has no types:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from qwenkit.compression import CUT, DAMAGED, in_words, opened
from qwenkit.errors import UserError
from qwenkit.files import CONFIG_BYTES, MEGABYTE, Place, corrupted, decode, is_pointer, read_bytes, refuse_special

Row = dict[str, Any]
LEVELS, DIGITS, CONTAINERS = 200, 300, 4_000_000
"""What a JSON text may hold at most: brackets inside each other, digits of a number (more overflow a float), lists and
objects in all. Whoever walks a value may recurse, and nobody wrote more by hand."""
LINE_BYTES = 256 * MEGABYTE
"""The longest line of JSONL that is read; a file without ends of lines would take all memory."""
TEMPORARY = ".tmp"
"""What a file is called, behind its name, while `replacing` writes it: a kill may leave one."""


def canonical(value: object) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8. Digests and keys are taken over it."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def dumps(value: object) -> str:
    """One JSONL line, keys in their given order. Lone surrogates are kept as escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodable(text) else json.dumps(value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Quarantine:
    """Records that could not be read, each with its reason and place. `keep` bounds the samples, never the counts.
    Files are called by their path below `root`; others by their name."""

    keep: int = 1000
    root: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[Row] = field(default_factory=list)

    def add(
        self, reason: str, file: Path | str, *, line: int | None = None, offset: int | None = None, sample: str = "",
        detail: str = "", expected: str = "",
    ) -> None:  # fmt: skip
        """Count one bad record and keep its place and the first 200 characters; `detail` says of this one more than
        the reason that it shares with others, as where in the record."""
        self.counts[reason] += 1
        if len(self.rows) < self.keep:
            place = {key: value for key, value in (("line", line), ("offset", offset)) if value is not None}
            more = {key: value[:200] for key, value in (("detail", detail), ("expected", expected)) if value}
            row = {"reason": reason, "file": self.named(Path(file)), **place, **more, "sample": sample[:200]}
            self.rows.append(row)

    def named(self, file: Path) -> str:
        """What a file is called for people."""
        return file.relative_to(self.root).as_posix() if self.root and self.root in file.parents else file.name

    def __len__(self) -> int:
        return self.counts.total()

    def words(self) -> str:
        """What was put aside, in a line: how many, why, and where the first one is."""
        if not self:
            return ""
        first = self.rows[0] if self.rows else {}
        place = "".join(f", {key} {first[key]}" for key in ("line", "offset") if key in first)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return f"{len(self):,} quarantined, which cannot be read: {reasons}; first {first.get('file', '')}{place}"


def _lines(path: Path, start: int, stop: int | None) -> Iterator[bytes]:
    refuse_special(path, "a JSONL file")
    with opened(path) as file:
        if start:
            file.seek(start)
        while line := file.readline(LINE_BYTES + 1):
            yield line
            start += len(line)
            if len(line) > LINE_BYTES and not line.endswith(b"\n"):
                start += _pass_line(file)
            if stop is not None and start >= stop:
                return


def _pass_line(file: BinaryIO) -> int:
    """Read on to the end of the line, and return how many bytes that were."""
    passed = 0
    while piece := file.readline(MEGABYTE):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


def read_jsonl(path: Path | str, quarantine: Quarantine | None = None) -> Iterator[Row]:
    """Rows of a JSONL file, packed or not. A bad line goes to the quarantine; without one, the first is a `UserError`.

    A packed file that ends too early gives its whole lines and one quarantined record, `truncated file`.
    """
    return (row for _, row in numbered_jsonl(Path(path), quarantine))


def numbered_jsonl(
    path: Path, quarantine: Quarantine | None = None, start: int = 0, stop: int | None = None, before: int = 0
) -> Iterator[tuple[int, Row]]:
    """The same with the number of each row's line, of a whole file or of its bytes `start` to `stop`, which `before`
    lines precede."""
    number = before
    try:
        for number, line in enumerate(_lines(path, start, stop), before + 1):
            if line.strip():
                yield from ((number, row) for row in parse_line(line, path, number, quarantine))
    except (EOFError, OSError) as error:
        reason = CUT if isinstance(error, EOFError) else DAMAGED
        if quarantine is None:
            place = f"it cannot be read beyond line {number}" if number else "nothing in it can be read"
            hint = "fetch or write it again"
            raise UserError(f"{in_words(reason)}: {place}", where=str(path), hint=hint) from error
        quarantine.add(reason, path, line=number + 1, sample=str(error))


def parse_line(line: bytes, path: Path, number: int, quarantine: Quarantine | None) -> Iterator[Row]:
    """The object in one line of JSONL; anything else goes to the quarantine, or is a `UserError` without one."""
    row: Any = None
    try:
        row = _value(line.decode("utf-8-sig")) if len(line) <= LINE_BYTES else _too_long()
        reason = None if isinstance(row, dict) else f"{json_kind(row)} where an object was expected"
    except UnicodeDecodeError:
        reason = "invalid UTF-8"
    except (ValueError, RecursionError) as error:
        reason = _broken(error, line, number)
    if reason is None:
        yield row
    elif quarantine is None:
        if number == 1 and is_pointer(path):
            reason = "a git-lfs pointer, not the file itself"
        raise UserError(reason, where=f"{path}, line {number}", expected="one JSON object a line")
    else:
        reason, _, detail = reason.partition(" (")
        sample = line[:200].decode(errors="replace")
        quarantine.add(reason, path, line=number, sample=sample, detail=detail.removesuffix(")"))


class _Refused(ValueError):
    """What JSON allows and no reader of ours does, in words."""


def _too_long() -> None:
    raise _Refused(f"a line of more than {LINE_BYTES // MEGABYTE} MB")


def _number(digits: str) -> int:
    if len(digits) > DIGITS:
        raise _Refused("broken JSON (a number with too many digits)")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """An object whose keys stand once. Of two values nobody knows which one was meant; twice the same does no harm."""
    row = dict(pairs)
    if len(row) < len(pairs):
        for key, value in pairs:
            if row[key] != value:
                raise _Refused(f"a key that is given twice (`{key}`)")
    return row


_DECODER = json.JSONDecoder(parse_int=_number, object_pairs_hook=_object)


def _value(text: str) -> Any:
    """The value of a JSON text within the limits; a `ValueError` or a `RecursionError` otherwise."""
    brackets = text.count("[") + text.count("{")
    if brackets > CONTAINERS:
        raise _Refused("broken JSON (too many lists and objects)")
    value = _DECODER.decode(text)
    if brackets > LEVELS and is_deep(value):
        raise RecursionError
    if "\\u" in text and not _encodable(json.dumps(value, ensure_ascii=False)):
        raise _Refused("a lone surrogate, which is half of a character")
    return value


def is_deep(value: object) -> bool:
    """Whether lists and tables lie in each other more than `LEVELS` times; found without recursion."""
    level: list[Any] = [value]
    for _ in range(LEVELS):
        level = [
            item
            for inner in level
            for item in (cast("Row", inner).values() if isinstance(inner, dict) else cast("list[Any]", inner))
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def _broken(error: Exception, line: bytes, number: int) -> str:
    """Why a line is not JSON; the library's own words where they are for people."""
    if number == 1 and line.lstrip().startswith(b"["):
        return "a JSON list over several lines, where one object a line was expected"
    if isinstance(error, _Refused):
        return str(error)
    return f"broken JSON ({getattr(error, 'msg', 'nested too deeply')})"


def name_of(value: object) -> str | None:
    """The id of a row as a text; a number counts as its digits, and None stands for what is not an id."""
    if isinstance(value, str):
        return value or None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0
    return str(value) if is_number else None


def json_kind(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    names: dict[type[Any], str] = {
        type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), "a number")


def write_jsonl(path: Path | str, rows: Iterable[Row]) -> int:
    """Write rows to `path` (gzip by suffix, without a time stamp) and return their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as raw:
        file = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else raw
        for row in rows:
            file.write(dumps(row).encode() + b"\n")
            count += 1
        if file is not raw:
            file.close()
    return count


def write_json(path: Path | str, value: object) -> None:
    """Write one indented JSON file; a kill leaves the old file or the new one."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    write_bytes(path, (text if _encodable(text) else json.dumps(value, indent=1)).encode() + b"\n")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file in one go; a kill or a full disk leaves the old file or none."""
    with replacing(path) as file:
        file.write(data)


_OF_THE_SYSTEM = ("/dev", "/dev/fd", "/proc/self/fd")
"""Where names are the system's and stay, such as /dev/stdout."""


@contextlib.contextmanager
def replacing(path: Path | str) -> Generator[BinaryIO, None, None]:
    """The one way to write over a file: through a temporary name beside it, flushed to the disk and renamed. A kill, a
    full disk or an error leaves what stood there, never a part; an `OSError` names the file. A link is replaced and
    never followed. What is not a plain file (a pipe, a terminal) is written to as it is."""
    path = Path(path)
    if str(path.parent) in _OF_THE_SYSTEM or (path.exists() and not path.is_file() and not path.is_dir()):
        with path.open("wb") as file:
            yield file
        return
    beside = path.with_name(path.name + TEMPORARY)
    try:
        beside.unlink(missing_ok=True)  # of a kill, or a link that somebody laid there
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.is_file() and not path.is_symlink():
            shutil.copymode(path, beside)
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def as_path(value: object, expected: str) -> Path:
    """A path that a caller gave as a text or a path; anything else is named, with what was expected there."""
    if not isinstance(value, (str, os.PathLike)):
        raise UserError(f"{value!r} is not a path", expected=expected)
    return Path(cast("str | os.PathLike[str]", value))


def read_object(path: Path | str) -> Row:
    """A JSON file that holds an object, or a `UserError`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{json_kind(value)} where an object was expected", where=str(path))
    return cast("Row", value)


def read_json(path: Path | str, limit: int = CONFIG_BYTES) -> Any:
    """One JSON file of at most `limit` bytes, or a `UserError` naming the line where it breaks."""
    return parse_json(decode(read_bytes(path, limit), str(path)), path)


def parse_json(text: str, where: Place) -> Any:
    """The value of a JSON text from anywhere, or a `UserError`; `where` it comes from stands in the message."""
    try:
        return _value(text)
    except json.JSONDecodeError as error:
        raise UserError(f"broken JSON: {error.msg}", where=f"{where}, line {error.lineno}") from error
    except _Refused as error:
        raise UserError(str(error), where=str(where)) from error
    except (ValueError, RecursionError) as error:
        raise UserError("broken JSON (nested too deeply)", where=str(where)) from error


def row_groups(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """Parts of a Parquet file of about `size` bytes: first row group, the one after the last, and the rows before."""
    import pyarrow.parquet as pq

    parquet: Any = pq  # which has no types
    metadata = parquet.ParquetFile(str(path)).metadata
    groups, start, before, rows, size_so_far = int(metadata.num_row_groups), 0, 0, 0, 0
    for group in range(groups):
        size_so_far += int(metadata.row_group(group).total_byte_size)
        rows += int(metadata.row_group(group).num_rows)
        if size_so_far >= size and group + 1 < groups:
            yield start, group + 1, before
            start, before, size_so_far = group + 1, rows, 0
    yield start, groups, before


def read_parquet(path: Path | str, groups: range | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, or of some of its row groups, a thousand at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        refuse_special(path, "a Parquet file")
        raise UserError("no such file", where=str(path), expected="a Parquet file")
    damage: tuple[type[Exception], ...] = (cast("Any", pa).ArrowException, OSError)
    try:
        batches = cast("Iterator[Any]", pq.ParquetFile(str(path)).iter_batches(1024, groups))
        for batch in batches:
            yield from batch.to_pylist()
    except damage as error:
        if is_pointer(path):
            raise UserError("a git-lfs pointer, not the file itself", where=str(path), hint="git lfs pull") from error
        raise corrupted(path, "Parquet") from error
