"""Chats and comparisons as they are learnt from: `data.chats`, and what training asks of them besides.

    read_chats(path, bad)                      # `messages` that end with an answer
    read_pairs(path, "pmp_pairs.jsonl", bad)   # `messages`, `chosen` and `rejected`

`bad` is the quarantine for rows that do not fit, whose share `refuse_bad` limits; without one the first is a
`UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from qwenkit.data.chats import describe, reading
from qwenkit.data.chats.reading import ChatSplit, Check, Source
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, canonical, json_kind, write_jsonl

_FORMS = {
    "chats": "one JSON object a line, with `messages`",
    "pairs": "one JSON object a line, with `messages` (or `prompt`), `chosen` and `rejected`",
    "prompts": "one JSON object a line, with `messages` (or `prompt`)",
}
QUARANTINE = "quarantine.jsonl"
"""The rows that cannot be used, beside what was made of the others."""
FIRST_ROWS = 2000
"""The number of rows of a source that are checked before anything is trained, and for notes about it."""


def read_chats(path: Source, bad: Quarantine | None = None) -> list[Row]:
    """Return the chats of a source, each with an id; raises a `UserError` where there are none."""
    usable = list(rows(path, "chats", bad))
    return usable if usable or bad else refuse_empty(path, "no chats in this file", _FORMS["chats"])


def read_pairs(path: Source, name: str, bad: Quarantine | None = None) -> list[Row]:
    """Return the comparisons of a source, each with an id, `messages`, and `chosen` and `rejected` as a string or a
    message.

    Raises a `UserError` where there are none."""
    usable = list(rows(path, "pairs", bad, check_flipped, (name,)))
    return usable if usable or bad else refuse_empty(path, "no comparisons in this file", _FORMS["pairs"])


def rows(
    source: Source, kind: str, bad: Quarantine | None = None, check: Check | None = None, own: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a source in order, without the places that they came from."""
    for row in reading.read(source, kind, bad, check, own):
        yield {key: row[key] for key in row if key != "place"}


def refuse_empty(source: Source, what: str, expected: str) -> NoReturn:
    """Raise the `UserError` of a source that holds none of the rows asked for."""
    raise UserError(what, where=called(source), expected=expected)


def read_checked_split(split: ChatSplit, bad: Quarantine) -> Iterator[Row]:
    """Yield the rows of a file split, of comparisons with `flipped` checked; rows that do not fit go to the
    quarantine."""
    return reading.read_chat_split(split, bad, check_flipped if split.kind == "pairs" else None)


def called(source: Source) -> str:
    """Return the name of a source for messages."""
    return str(source) if isinstance(source, Path) else ", ".join(map(str, source))


def refuse_bad(source: Source, read: int, counts: Mapping[str, int], rows: Sequence[Row], most: float) -> None:
    """Raise a `UserError` where a larger share of rows is quarantined than allowed, with the reasons and an example of
    each."""
    bad = sum(counts.values())
    if bad <= most * read:
        return
    reasons = Counter(counts).most_common(5)
    examples = {row["reason"]: _example(row) for row in reversed(rows)}
    lines = [f"  {count} {reason}" + (f" (first: {examples[reason]})" if reason in examples else "")
             for reason, count in reasons]  # fmt: skip
    more = [f"  and {len(counts) - 5} more reasons"] if len(counts) > 5 else []
    raise UserError(
        "\n".join([f"{bad} of {read} rows cannot be used ({100 * bad / read:.3g} %)", *lines, *more]),
        where=called(source),
        expected=f"at most {100 * most:.3g} % of them (`max_bad` = {most:g})",
        hint="`qwenkit inspect data` tells of every row; fix the data, or raise max_bad",
    )


def write_quarantine(rows: Sequence[Row], out: Path) -> None:
    """Write beside a model which rows were not usable, where there are any."""
    if rows:
        write_jsonl(out / QUARANTINE, rows)


def notes(source: Source, kind: str) -> tuple[str, ...]:
    """Return notes about a source that people should know: files that are not read, and keys that have no effect."""
    return tuple(describe(source, kind, FIRST_ROWS).notes())


def _example(row: Row) -> str:
    """Return the place of a row that does not fit, details, and what was expected there."""
    place = f"{row['file']}, row {row['line']}" if "line" in row else str(row["file"])
    expected = f"; expected: {row['expected']}" if row.get("expected") else ""
    return ", ".join(filter(None, (place, row.get("detail")))) + expected


def prompt_of(row: Row) -> str:
    """Return a string that rows with equal prompts share, so that no prompt lands in both splits."""
    return canonical([row["messages"], row.get("tools")]).decode()


def check_flipped(row: Row) -> None:
    """Raise a `UserError` for a comparison whose `flipped` is not a boolean."""
    if not isinstance(row.get("flipped", False), bool):
        raise UserError(f"`flipped` is {json_kind(row['flipped'])}", expected="true or false")


@lru_cache(maxsize=64)
def look_at_first_rows(
    kind: str, source: tuple[Path, ...], most: float, check: Check | None, _: tuple[int, ...]
) -> None:
    """Read the first rows of a source; the result is cached while its files do not change (`_` are their stamps).

    Raises a `UserError` at once where the source cannot be used, and not after weeks of training. A small source is
    checked as a whole."""
    summary = describe(list(source), kind, FIRST_ROWS, check)
    if not summary.read:
        refuse_empty(source, f"no {kind} here", _FORMS[kind])
    if not summary.kept:
        next(reading.read(list(source), kind, None, check))  # raises the error of the first row
    if summary.complete:
        refuse_bad(source, summary.read, summary.quarantine.counts, summary.quarantine.rows, most)
