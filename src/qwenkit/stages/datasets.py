"""Chats, prompts and comparisons as stages read them: `data.chats`, and what a stage asks of them besides.

    read_chats(path, bad)                      # `messages` that end with an answer
    read_prompts(path, "rl", bad=bad)          # that wait for one; with `rubric=True` each needs a rubric
    read_pairs(path, "pmp_pairs.jsonl", bad)   # `messages`, `chosen` and `rejected`

`bad` is the quarantine for rows that do not fit, which `refuse_bad` weighs; without one the first is a `UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwenkit.artifacts import stamps
from qwenkit.config import runtime
from qwenkit.data.chats import reading
from qwenkit.data.chats.reading import Check, Part, Source
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, canonical
from qwenkit.stages.validation import check_flipped, check_prompt_keys

CHATS = "chats: files or folders of JSON, CSV or Parquet in any common form, or a world"
PAIRS = "comparisons with chosen and rejected: files or folders of JSON, CSV or Parquet, or a world"
PROMPTS = "prompts: files or folders of JSON, CSV or Parquet, or a world"
_FORMS = {
    "chats": "one JSON object a line, with `messages`",
    "pairs": "one JSON object a line, with `messages` (or `prompt`), `chosen` and `rejected`",
    "prompts": "one JSON object a line, with `messages` (or `prompt`)",
}
FIRST_ROWS = 2000
"""So many rows of a source are looked at before anything is trained, and for what people should know of it."""


def read_chats(path: Source, bad: Quarantine | None = None) -> list[Row]:
    """Chats, each with an id."""
    found = list(rows(path, "chats", bad))
    return found if found or bad else _none(path, "no chats in this file", _FORMS["chats"])


def read_pairs(path: Source, name: str, bad: Quarantine | None = None) -> list[Row]:
    """Comparisons, each with an id, `messages`, and `chosen` and `rejected` as a text or a message."""
    found = list(rows(path, "pairs", bad, check_flipped, (name,)))
    return found if found or bad else _none(path, "no comparisons in this file", _FORMS["pairs"])


def read_prompts(
    path: Source, use: str, rubric: bool = False, bad: Quarantine | None = None, most: float = 1.0
) -> list[Row]:
    """Prompts meant for this `use` (rl, reward) or for any; `rubric`: a row without one does not fit. At `most` such a
    share of all may go to the quarantine."""
    found = list(rows(path, "prompts", bad, check_asked(use, rubric)))
    if bad is not None:
        refuse_bad(path, len(found) + len(bad), bad.counts, bad.rows, most)
    meant = [row for row in found if row.get("use") in (use, None)]
    return meant or _none(path, f"no prompt in this file is meant for `{use}`", f'"use": "{use}", or none')


def rows(
    source: Source, kind: str, bad: Quarantine | None = None, check: Check | None = None, own: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a source one after the other, without the places that they came from."""
    for row in reading.read(source, kind, bad, check, own):
        yield {key: row[key] for key in row if key != "place"}


def _none(source: Source, what: str, expected: str) -> Any:
    raise UserError(what, where=called(source), expected=expected)


def read_part(part: Part, bad: Quarantine) -> Iterator[Row]:
    """The rows of one of `parts`; those that do not fit go to the quarantine."""
    return reading.read_part(part, bad, check_flipped if part.kind == "pairs" else None)


def check_asked(use: str, rubric: bool) -> Check:
    """What a prompt for this use must have besides its messages."""

    def check(row: Row) -> None:
        from qwenkit.evaluation.rubric import check_rubric

        check_prompt_keys(row)
        if row.get("use") not in (use, None):
            return
        if rubric and row.get("rubric") is None:
            raise UserError("missing key `rubric`", expected="messages, rubric")
        if row.get("rubric") is not None:
            check_rubric(row["rubric"])

    return check


def called(source: Source) -> str:
    """A source in a message."""
    return str(source) if isinstance(source, Path) else ", ".join(map(str, source))


def max_bad() -> Any:
    """The key of every stage that reads rows of people's: what is learnt does not depend on it, only whether it is."""
    return runtime(0.01, doc="largest share of rows that cannot be used; above it the node ends (ours)", ge=0, le=1)


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


_READ_AS = {"chats": "chats", "comparisons": "pairs", "prompts": "prompts"}


def refuse_first_rows(stage: str, accepts: Sequence[str], source: Sequence[Path], most: float) -> None:
    """Look at the first rows of what a stage of this kind would read from outside: what tells there that it cannot be
    used is a `UserError` now, and not after the weeks before it. A small source is weighed as a whole."""
    kind = next((_READ_AS[noun] for noun in accepts if noun in _READ_AS), None)
    if kind is not None:
        _look(stage, kind, tuple(source), most, tuple(stamp for path in source for stamp in stamps(path)))
    elif "documents" in accepts and stage != "extend":  # which reads plain text too
        for path in source:
            _first_document(path, *stamps(path))


@lru_cache(maxsize=64)
def _first_document(path: Path, *_: int) -> None:
    """Read one, once while the file stays as it is."""
    from qwenkit.stages.documents import documents

    next(documents(path))


@lru_cache(maxsize=64)
def _look(stage: str, kind: str, source: tuple[Path, ...], most: float, _: tuple[int, ...]) -> None:
    """The same of chats, prompts or pairs, once while their files stay as they are."""
    from qwenkit.data.chats import describe

    asked = {"reward": check_asked("reward", True), "ppo": check_asked("rl", False)}.get(stage)
    check = check_flipped if kind == "pairs" else asked if kind == "prompts" else None
    found = describe(list(source), kind, FIRST_ROWS, check)
    if not found.read:
        _none(source, f"no {kind} here", _FORMS[kind])
    if not found.kept:
        next(reading.read(list(source), kind, None, check))  # says of the first row what is wrong with it
    if found.complete:
        refuse_bad(source, found.read, found.quarantine.counts, found.quarantine.rows, most)


def notes(source: Source, kind: str) -> tuple[str, ...]:
    """What people should know of a source that is read: files that are not, and keys that change nothing."""
    from qwenkit.data.chats import describe

    return tuple(describe(source, kind, FIRST_ROWS).notes())


def _example(row: Row) -> str:
    """Where a row that does not fit stands, what more is known of it, and what was expected there."""
    place = f"{row['file']}, row {row['line']}" if "line" in row else str(row["file"])
    expected = f"; expected: {row['expected']}" if row.get("expected") else ""
    return ", ".join(filter(None, (place, row.get("detail")))) + expected


def prompt_of(row: Row) -> str:
    """A name that rows with equal prompts share: whoever divides rows must not put one prompt on both sides."""
    return canonical([row["messages"], row.get("tools")]).decode()
