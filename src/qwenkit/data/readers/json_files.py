"""A `.json` file as what it is: an object a line, or a document, that is a list of rows or a row over many lines.

    if is_document(path):
        for number, value in values(path, quarantine): ...      # bytes of one value, which `records.parse_line` reads

A document is read a value at a time, so that a long list need not fit memory. Where it breaks its reading ends: what
follows cannot be told from what is inside.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from qwenkit.compression import BLOCK, Damage
from qwenkit.data.readers.text_lines import MAX_RECORD, TOO_LONG, blocks
from qwenkit.records import Quarantine

BROKEN = "broken JSON, not read beyond"
_JSON = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,\]]*")


def is_document(path: Path) -> bool:
    """Return whether a file is one JSON document and not JSON lines: it begins with a list, or with an object that its
    first line leaves open."""
    head = next(blocks(path), b"")
    text = b"" if isinstance(head, Damage) else head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, more, _ = text.partition(b"\n")
    is_open = bool(more) and text.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b",", b":"))
    return text.startswith(b"[") or is_open


def values(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, bytes]]:
    """Yield (Number, bytes) of every value of a document: of a list its items."""
    damage: list[Damage] = []
    pieces = _decoded(path, damage)
    buffer = next(pieces, "").removeprefix("\ufeff").lstrip().removeprefix("[")
    at, number, more = 0, 0, True
    while True:
        at = _BETWEEN.match(buffer, at).end()  # pyright: ignore[reportOptionalMemberAccess]
        end = _end_of_value(buffer, at, more)
        if end is not None:
            number += 1
            yield number, buffer[at:end].encode("utf-8", "surrogateescape")
            at = end
        elif not more:
            break
        elif len(buffer) - at > MAX_RECORD:
            quarantine.add(TOO_LONG, path, line=number + 1, sample=_readable(buffer[at : at + 200]))
            return
        else:  # twice as much, so that all attempts together are linear
            grown = list(itertools.islice(pieces, 1 + (len(buffer) - at) // BLOCK))
            more = bool(grown)
            buffer, at = buffer[at:] + "".join(grown), 0
    for part in damage:
        quarantine.add(part.reason, path, line=number + 1, offset=part.offset)
    if at < len(buffer) and not damage:
        quarantine.add(BROKEN, path, line=number + 1, sample=_readable(buffer[at : at + 200]))


def _decoded(path: Path, damage: list[Damage]) -> Iterator[str]:
    """A file's text up to the first damage. Bytes that are no UTF-8 stay what they are, for the value they stand in."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for part in blocks(path):
        if isinstance(part, Damage):
            damage.append(part)
            return
        yield decoder.decode(part)
    yield decoder.decode(b"", final=True)


def _end_of_value(text: str, at: int, more: bool) -> int | None:
    """Where the value that begins here ends; None where it does not, or may go on in what is not read yet."""
    try:
        end = _JSON.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return None
    return end if end < len(text) or not more else None


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
