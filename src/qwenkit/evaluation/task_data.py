"""The files of a task: found under a folder of data, read as rows, and compared with what the task was written for.

    source = DataSource(path="mmlu/test.tar.xz", members="*_test.csv", form="csv", columns=("question", ...))
    for row in read_rows(source, Path("data")): ...     # row["_file"], row["_number"], and the file's own fields
    changes = hash_changes(source, root)                # a copy of one's own differs: told, not refused

A path may have wildcards. A copy that is not compressed, or an archive that is unpacked, stands in for the packed one.
A missing file is `MissingData`, with where to get it: such a task is not run, and never scored as 0.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from qwenkit.compression import PACKINGS, opened, unpacked_name
from qwenkit.errors import UserError
from qwenkit.files import decode, read_bytes
from qwenkit.records import Row, parse_json, parse_line, read_jsonl

FORMS = ("jsonl", "json", "csv", "text")
MEMBER_BYTES = 1 << 28
"""The largest file in an archive in bytes, unpacked."""
_SUFFIXES = (".jsonl", ".json", ".csv", ".txt", ".lst", ".tar")


class MissingData(UserError):
    """A file of a task that is not there: the task is not run."""


@dataclass(frozen=True)
class DataSource:
    """Where rows come from, relative to the folder of data."""

    path: str
    form: str = "jsonl"
    members: str = ""
    """Which files of an archive, as a pattern of names."""
    columns: tuple[str, ...] = ()
    """The columns of a CSV file without a header."""
    at: str = ""
    """The key of the list of rows in a JSON object."""
    labels: str = ""
    """A file with one label a line, which becomes the field `label`."""
    skip: tuple[str, ...] = ()
    """Patterns of names of files that are not read."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """The digests of the files that the task was written for, by path."""
    get: str = ""
    """Where the data is to be had."""


def read_rows(source: DataSource, root: Path) -> Iterator[Row]:
    """Yield the rows of all files of a source, each with `_file` (a name without suffix) and `_number` (from 0 in its
    file). Raises `MissingData` where there is no such file, and a `UserError` for truncated or re-encoded ones."""
    for path in find(source, root):
        if source.form == "jsonl" and not _is_archive(path) and not path.is_dir():
            yield from _numbered(read_jsonl(path), path.name, _labels(source, root))
            continue
        for name, data in _contents(source, path):
            yield from _numbered(_rows(source, data, f"{path}" if name == path.name else f"{path}: {name}"), name,
                                 _labels(source, root))  # fmt: skip


def find(source: DataSource, root: Path) -> list[Path]:
    """Return the files of a source in the order of their names; raises `MissingData` for none."""
    for pattern in _alternatives(source.path):
        paths = [path for path in sorted(root.glob(pattern)) if not any(fnmatch(path.name, no) for no in source.skip)]
        if paths:
            return paths
    raise MissingData("the data of this task is not there", where=str(root / source.path), hint=source.get or None)


def _alternatives(pattern: str) -> Iterator[str]:
    yield pattern
    bare = str(unpacked_name(Path(pattern)))
    if bare != pattern:
        yield bare
    for packing in PACKINGS:
        if not bare.endswith("*"):
            yield bare + packing
    if bare.endswith(".tar"):
        yield bare.removesuffix(".tar")


def hash_changes(source: DataSource, root: Path) -> list[str]:
    """Return the files whose SHA-256, unpacked, is not the one that the task was written for."""
    changes: list[str] = []
    for name, digest in source.sha256.items():
        with contextlib.suppress(MissingData):
            path = find(DataSource(name), root)[0]
            if hashlib.sha256(_unpacked(path)).hexdigest() != digest:
                changes.append(name)
    return changes


def _labels(source: DataSource, root: Path) -> list[str] | None:
    if not source.labels:
        return None
    path = find(DataSource(source.labels, get=source.get), root)[0]
    return decode(_unpacked(path), str(path)).split()


def _numbered(rows: Iterator[Row], name: str, labels: list[str] | None) -> Iterator[Row]:
    count = 0
    for count, row in enumerate(rows, 1):
        extra: Row = {"_file": stem(name), "_number": count - 1}
        if labels is not None:
            if count > len(labels):
                break
            extra["label"] = labels[count - 1]
        yield {**row, **extra}
    if labels is not None and count != len(labels):
        raise UserError(f"{len(labels)} labels for {count} rows or more", where=name, expected="one label a row")


def stem(name: str) -> str:
    """Return a file's name without the suffixes of its form and compression."""
    name = Path(name).name
    while any(name.endswith(suffix) for suffix in (*_SUFFIXES, *PACKINGS)):
        name = name.rpartition(".")[0]
    return name


def _is_archive(path: Path) -> bool:
    return unpacked_name(path).suffix == ".tar"


def _contents(source: DataSource, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of a file, of each file of an archive, or of each file of a folder that was unpacked."""
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if fnmatch(file.name, source.members or "*"):
                yield file.name, _unpacked(file)
    elif _is_archive(path):
        yield from _archived(source, path)
    else:
        yield path.name, _unpacked(path)


def _archived(source: DataSource, path: Path) -> Iterator[tuple[str, bytes]]:
    count = 0
    try:
        with opened(path) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
            for member in archive:
                if member.isfile() and fnmatch(Path(member.name).name, source.members or "*"):
                    if member.size > MEMBER_BYTES:
                        raise UserError("too large", where=f"{path}: {member.name}")
                    file = archive.extractfile(member)
                    count += 1
                    yield Path(member.name).name, file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError("a truncated or corrupted archive", where=str(path), hint="fetch it again") from error
    if not count:
        raise UserError(f"no file `{source.members}` in the archive", where=str(path))


def _unpacked(path: Path) -> bytes:
    if not any(path.name.endswith(suffix) for suffix in PACKINGS):
        return read_bytes(path, MEMBER_BYTES)
    try:
        with opened(path) as file:
            data = file.read(MEMBER_BYTES + 1)
    except (EOFError, OSError) as error:
        raise UserError("a truncated or corrupted file", where=str(path), hint="fetch it again") from error
    if len(data) > MEMBER_BYTES:
        raise UserError("too large", where=str(path))
    return data


def _rows(source: DataSource, data: bytes, where: str) -> Iterator[Row]:
    if source.form == "jsonl":
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                yield from parse_line(line, Path(where), number, None)
    elif source.form == "csv":
        yield from _csv(source, decode(data, where), where)
    elif source.form == "text":
        yield {"text": decode(data, where)}
    else:
        yield from _json(source, decode(data, where), where)


def _json(source: DataSource, text: str, where: str) -> Iterator[Row]:
    """Yield the rows of a JSON list, of the list `at` a key of an object, or of objects that follow one another."""
    if not source.at and text.lstrip().startswith("{"):
        yield from _objects(text, where)
        return
    value = parse_json(text, where)
    if source.at:
        value = cast("Row", value).get(source.at) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise UserError(
            "the list of rows is missing", where=where, expected=f"a list at `{source.at}`" if source.at else "a list"
        )
    for number, row in enumerate(cast("list[Any]", value)):
        if not isinstance(row, dict):
            raise UserError("a row that is not an object", where=f"{where}, row {number}")
        yield cast("Row", row)


def _objects(text: str, where: str) -> Iterator[Row]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError("broken JSON", where=f"{where}, line {text.count(chr(10), 0, at) + 1}") from error
        if not isinstance(value, dict):
            raise UserError("a row that is not an object", where=where)
        yield cast("Row", value)
        at += len(text[at:]) - len(text[at:].lstrip())


def _csv(source: DataSource, text: str, where: str) -> Iterator[Row]:
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"broken CSV: {error}", where=where) from error
    columns = source.columns or tuple(lines[0] if lines else ())
    for number, line in enumerate(lines[0 if source.columns else 1 :], 1 if source.columns else 2):
        if not line:
            continue
        if len(line) != len(columns):
            raise UserError(
                f"{len(line)} columns", where=f"{where}, row {number}", expected=f"{len(columns)}: {', '.join(columns)}"
            )
        yield dict(zip(columns, line, strict=True))
