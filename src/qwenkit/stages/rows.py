"""Chats, prompts and comparisons as stages read them: `data.chats`, and what a stage asks of them besides.

    read_chats(path, bad)                      # `messages` that end with an answer
    read_prompts(path, "rl", bad=bad)          # that wait for one; with `rubric=True` each needs a rubric
    read_pairs(path, "pmp_pairs.jsonl", bad)   # `messages`, `chosen` and `rejected`

`bad` is the quarantine for rows that do not fit, which `refuse_bad` weighs; without one the first is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from qwenkit.data import chats
from qwenkit.data.chats import Part, parts
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, Row, canonical
from qwenkit.stages.checks import check_flipped, check_prompt_keys

__all__ = ["parts", "prompt_of", "read_chats", "read_pairs", "read_part", "read_prompts"]


def read_chats(path: Path, bad: Quarantine | None = None) -> list[Row]:
    """Chats, each with an id."""
    return _some(path, "chats", bad, None, (), "no chats in this file", "one JSON object a line, with `messages`")


def read_prompts(path: Path, use: str, rubric: bool = False, bad: Quarantine | None = None) -> list[Row]:
    """Prompts meant for this `use` (rl, reward) or for any; `rubric`: a row without one does not fit."""
    empty = f"no prompt in this file is meant for `{use}`"
    rows = _some(path, "prompts", bad, check_asked(use, rubric), (), empty, f'"use": "{use}", or none')
    rows = [row for row in rows if row.get("use") in (use, None)]
    if not rows:
        raise UserError(empty, where=str(path), expected=f'"use": "{use}", or none')
    return rows


def read_pairs(path: Path, name: str, bad: Quarantine | None = None) -> list[Row]:
    """Comparisons, each with an id, `messages`, and `chosen` and `rejected` as a text or a message."""
    return _some(path, "pairs", bad, check_flipped, (name,), "no comparisons in this file", "one JSON object a line")


def read_part(part: Part, bad: Quarantine) -> Iterator[Row]:
    """The rows of one of `parts`; those that do not fit go to the quarantine."""
    return chats.read_part(part, bad, check_flipped if part.kind == "pairs" else None)


def check_asked(use: str, rubric: bool) -> Callable[[Row], None]:
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


def prompt_of(row: Row) -> str:
    """A name that rows with equal prompts share: whoever divides rows must not put one prompt on both sides."""
    return canonical([row["messages"], row.get("tools")]).decode()


def _some(
    path: Path, kind: str, bad: Quarantine | None, check: Callable[[Row], None] | None, own: tuple[str, ...],
    empty: str, expected: str,
) -> list[Row]:  # fmt: skip
    found = [{key: row[key] for key in row if key != "place"} for row in chats.read(path, kind, bad, check, own)]
    if not found and not bad:
        raise UserError(empty, where=str(path), expected=expected)
    return found
