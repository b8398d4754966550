"""Chats and comparisons as they are learnt from: `data.chats`, and what training asks of them besides.

    read_chats(path, bad)                      # `messages` that end with an answer
    read_pairs(path, "pmp_pairs.jsonl", bad)   # `messages`, `chosen` and `rejected`

`bad` is the quarantine for rows that do not fit, which `refuse_bad` weighs; without one the first is a `UserError`.
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
"""So many rows of a source are looked at before anything is trained, and for what people should know of it."""


def read_chats(path: Source, bad: Quarantine | None = None) -> list[Row]:
    """Chats, each with an id."""
    usable = list(rows(path, "chats", bad))
    return usable if usable or bad else refuse_empty(path, "no chats in this file", _FORMS["chats"])


def read_pairs(path: Source, name: str, bad: Quarantine | None = None) -> list[Row]:
    """Comparisons, each with an id, `messages`, and `chosen` and `rejected` as a text or a message."""
    usable = list(rows(path, "pairs", bad, check_flipped, (name,)))
    return usable if usable or bad else refuse_empty(path, "no comparisons in this file", _FORMS["pairs"])


def rows(
    source: Source, kind: str, bad: Quarantine | None = None, check: Check | None = None, own: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a source one after the other, without the places that they came from."""
    for row in reading.read(source, kind, bad, check, own):
        yield {key: row[key] for key in row if key != "place"}


def refuse_empty(source: Source, what: str, expected: str) -> NoReturn:
    """Raise the `UserError` of a source that holds nothing of what was asked for."""
    raise UserError(what, where=called(source), expected=expected)


def read_split(split: ChatSplit, bad: Quarantine) -> Iterator[Row]:
    """The rows of one of `parts`; those that do not fit go to the quarantine."""
    return reading.read_split(split, bad, check_flipped if split.kind == "pairs" else None)


def called(source: Source) -> str:
    """A source in a message."""
    return str(source) if isinstance(source, Path) else ", ".join(map(str, source))


def refuse_bad(source: Source, read: int, counts: Mapping[str, int], rows: Sequence[Row], most: float) -> None:
    """End where more rows were put aside than is borne, with the reasons and an example of each."""
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
    """What people should know of a source that is read: files that are not, and keys that change nothing."""
    return tuple(describe(source, kind, FIRST_ROWS).notes())


def _example(row: Row) -> str:
    """Where a row that does not fit stands, what more is known of it, and what was expected there."""
    place = f"{row['file']}, row {row['line']}" if "line" in row else str(row["file"])
    expected = f"; expected: {row['expected']}" if row.get("expected") else ""
    return ", ".join(filter(None, (place, row.get("detail")))) + expected


def prompt_of(row: Row) -> str:
    """A name that rows with equal prompts share: whoever divides rows must not put one prompt on both sides."""
    return canonical([row["messages"], row.get("tools")]).decode()


def check_flipped(row: Row) -> None:
    """Whether the sides of a comparison were exchanged on purpose is a truth."""
    if not isinstance(row.get("flipped", False), bool):
        raise UserError(f"`flipped` is {json_kind(row['flipped'])}", expected="true or false")


@lru_cache(maxsize=64)
def look_at_first_rows(
    kind: str, source: tuple[Path, ...], most: float, check: Check | None, _: tuple[int, ...]
) -> None:
    """Look at the first rows of a source, once while its files stay as they are (`_` are their stamps).

    Raises `UserError` where what is there cannot be used: now, and not after the weeks before it. A small source is
    weighed as a whole."""
    summary = describe(list(source), kind, FIRST_ROWS, check)
    if not summary.read:
        refuse_empty(source, f"no {kind} here", _FORMS[kind])
    if not summary.kept:
        next(reading.read(list(source), kind, None, check))  # says of the first row what is wrong with it
    if summary.complete:
        refuse_bad(source, summary.read, summary.quarantine.counts, summary.quarantine.rows, most)
