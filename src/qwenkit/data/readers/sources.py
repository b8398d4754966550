"""What a source is, and how each file below it is read: by its contents where the name does not say it.

    files, unread = source_files(Path("crawl"), "web")     # [File(path, form, kind), ...], [(path, why not), ...]

Forms are how a file is read (a WARC, rows of JSON, CSV or Parquet, a text), kinds decide which steps apply to its
documents. A source of the kind `auto` gives each file its own kind: pages, text that was extracted from pages, code,
other text.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.artifacts import refuse_not_utf8
from qwenkit.compression import PACKINGS, blocks, packing, unpacked_name
from qwenkit.errors import UserError, nearest

KINDS = ("html", "web", "text", "code", "instruction")
AUTO = "auto"
WARC, PARQUET, JSON, CSV, TEXT = "warc", "parquet", "json", "csv", "text"
_ROWS = (WARC, PARQUET, JSON, CSV)
_FORMS = {
    **dict.fromkeys(".txt .text .md .markdown .rst".split(), (TEXT, "text")),
    **dict.fromkeys(".html .htm .xhtml .shtml".split(), (TEXT, "html")),
    **dict.fromkeys(
        ".py .c .h .cc .cpp .hpp .cs .js .ts .go .rs .java .kt .scala .swift .sh .rb .lua .pl .jl .sql .r".split(),
        (TEXT, "code"),
    ),
    ".jsonl": (JSON, "text"), ".ndjson": (JSON, "text"), ".json": (JSON, "text"), ".parquet": (PARQUET, "text"),
    ".csv": (CSV, "text"), ".tsv": (CSV, "text"),
    ".warc": (WARC, "html"), ".wet": (WARC, "web"), ".wat": (WARC, "web"),
}  # fmt: skip
PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^<>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*){0,9}<(?:!doctype\s+html|html|head|body)\b",
    re.I | re.S,
)
"""The beginning of the bytes of a page, whatever the file is called."""
_BESIDE = re.compile(
    r"(?:readme|source|licen[sc]e|notice|copying|changelog|citation|contributing)[\w-]{0,20}(?:\.(?:md|txt|rst|html))?"
    r"|dataset_?(?:infos?|dict)\.json|state\.json",
    re.I,
)  # of a folder of rows or archives
_KNOWN = f".txt, .md, .html, .jsonl, .json, .csv, .parquet, .warc, .wet, code; packed ({', '.join(PACKINGS)}) or not"
UNKNOWN = "a file of unknown type"
DESCRIPTION = "a description beside data"


@dataclass(frozen=True)
class Source:
    """One source of the corpus. `weight` up-samples it (2.5: every document twice, half of them a third time).

    Kinds: `html` pages; `web` text that was already extracted from pages; `text` that was chosen by hand (books, your
    own); `code`; `instruction` data; `auto`, each file what it holds. Prose rules of quality judge only the first two.

    `text_keys` are the columns that make up a text together, a paragraph each: ("question", "answer"); `a.b` is the
    field `b` of `a`. A list of messages gives their contents. `skip` names steps that are not applied to it, beyond
    those that its kind leaves out (`pipeline.config.STEPS`)."""

    name: str
    path: Path | str
    kind: str = AUTO
    weight: float = 1.0
    licence: str = "unknown"
    text_keys: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise a `UserError` for an unknown kind or step, or a weight that is not a finite number above 0."""
        if self.kind not in (*KINDS, AUTO):
            raise UserError(
                f"unknown kind {self.kind!r}",
                where=f"source {self.name}",
                expected=f"one of {', '.join(KINDS)}",
                nearest=nearest(self.kind, KINDS),
            )
        if not 0 < self.weight < math.inf:
            raise UserError(f"weight {self.weight}", where=f"source {self.name}", expected="a finite number above 0")


class File(NamedTuple):
    """A file that is read, with its format and the kind of its documents."""

    path: Path
    form: str
    kind: str


def source_files(path: Path, name: str, kind: str = AUTO) -> tuple[list[File], list[tuple[str, str]]]:
    """Return the files of a source, which is a file or a folder, sorted by relative path; and the other files of the
    folder, with the reason why they are not read."""
    where = f"source {name}: {path}"
    if not path.exists():
        raise UserError("no such file or folder", where=where, nearest=nearest(path.name, _siblings(path)))
    if not path.is_dir():
        return [_one(path, name, kind)], []
    inside, unread = files_below(path)
    why = {file: reason for file in inside if (reason := _unreadable(file))} | unread
    forms = {file: form for file in inside if file not in why and (form := _form(file, kind))}
    why |= {file: _unnamed(file) for file in inside if file not in why and file not in forms}
    if any(file.form in _ROWS and not _BESIDE.fullmatch(file.path.name) for file in forms.values()):
        beside = [file for file in forms if _BESIDE.fullmatch(unpacked_name(file).name)]
        why |= dict.fromkeys(beside, DESCRIPTION)
    files = [_named_in_utf8(file, name) for file in forms.values() if file.path not in why]
    if not files:
        reasons = _told(why)
        raise UserError("no readable file in this folder" + (f"; there are {reasons}" if reasons else ""), where=where,
                        expected=_KNOWN)  # fmt: skip
    other = [(os.fsencode(file.relative_to(path)).decode("utf-8", "replace"), reason) for file, reason in why.items()]
    return sorted(files, key=lambda file: file.path.relative_to(path).as_posix()), sorted(other)


def _one(path: Path, name: str, kind: str) -> File:
    """Return the file that a source names."""
    if why := _unreadable(path):
        raise UserError(why, where=f"source {name}: {path}", expected="a file or a folder that can be read")
    file = _form(path, kind) if path.stat().st_size else _by_name(path)
    if file is None:
        raise UserError(f"unknown file type {path.name!r}", where=f"source {name}", expected=_KNOWN,
                        nearest=nearest(suffix_of(path), _FORMS))  # fmt: skip
    return _named_in_utf8(file, name)


def _told(why: dict[Path, str]) -> str:
    """Return the reasons with their counts."""
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(Counter(why.values()).items()))


def files_below(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the files below a folder, and the folders that are not entered, with the reasons."""
    files_found: list[Path] = []
    closed: dict[Path, str] = {}

    def refused(error: OSError) -> None:
        closed[Path(error.filename)] = "a folder that cannot be opened"

    for base, folders, files in os.walk(folder, onerror=refused):
        files_found += [Path(base, name) for name in files]
        for path in (Path(base, name) for name in folders):
            if path.is_symlink():
                closed[path] = "a link to a folder"
            elif path.name.startswith("."):
                closed[path] = "a hidden folder"
        folders[:] = [name for name in folders if not name.startswith(".")]
    return files_found, closed


def _unreadable(path: Path) -> str:
    """Return why a path is not a file to read, or ""."""
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "no plain file"
    return "" if os.access(path, os.R_OK) else "a file that may not be read"


def _unnamed(path: Path) -> str:
    """Return why a file that can be opened has no form."""
    if path.name.startswith("."):
        return "a hidden file"
    return UNKNOWN if path.stat().st_size or _by_name(path) is None else "an empty file"


def _named_in_utf8(file: File, name: str) -> File:
    """Return the file; raises a `UserError` for a path that is not UTF-8: ids are made of paths."""
    refuse_not_utf8(file.path, f"source {name}")
    return file


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []


def suffix_of(path: Path) -> str:
    """Return the suffix that names the format, without that of a compression."""
    return unpacked_name(path).suffix.lower()


def _by_name(path: Path) -> File | None:
    named = _FORMS.get(suffix_of(path))
    return File(path, *named) if named else None


def _form(path: Path, kind: str) -> File | None:
    """Return a file with its form and kind, by its name or its first bytes; None for a hidden, empty or unknown one."""
    if path.name.startswith(".") or not path.stat().st_size:
        return None
    named = _by_name(path)
    if named and kind != AUTO:
        return named._replace(kind=kind)
    if named and named.form == TEXT and named.kind != "text":
        return named
    try:
        head = _head(path)
    except OSError:  # reading will say what is wrong with it
        return named
    form = named or _by_content(path, head)
    if form is None or kind != AUTO:
        return form and form._replace(kind=kind)
    return form._replace(kind=_kind(form, head))


def _head(path: Path) -> bytes:
    first = next(blocks(path), b"")
    return first if isinstance(first, bytes) else b""


def _by_content(path: Path, head: bytes) -> File | None:
    """Return the form of a file whose name does not say it."""
    if head.startswith(b"WARC/"):
        return File(path, WARC, "html")
    if head.startswith(b"PAR1") and packing(path) is None:
        return File(path, PARQUET, "text")
    if PAGE.match(head):
        return File(path, TEXT, "html")
    return File(path, JSON, "text") if _first_row(head) is not None else None


def _first_row(head: bytes) -> dict[str, Any] | None:
    """Return the first object of JSON lines."""
    try:
        row = json.loads(head.lstrip().partition(b"\n")[0].decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _kind(file: File, head: bytes) -> str:
    """Return the kind that the first bytes of a file show."""
    if file.form == TEXT and PAGE.match(head):
        return "html"
    if file.form == WARC:
        is_web = b"WARC-Type: conversion" in head and b"WARC-Type: response" not in head
        return "web" if is_web else file.kind
    if file.form in (JSON, PARQUET):
        columns = _columns(file.path) if file.form == PARQUET else [*(_first_row(head) or {})]
        return "html" if "html" in columns and "text" not in columns else file.kind
    return file.kind


def _columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(str(path)).names)
    except (pa.ArrowException, OSError):  # reading will say what is wrong with it
        return []
