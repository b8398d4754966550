"""Rows that people write, as stages read them: chats, comparisons, prompts with a rubric, test questions. What could
not be used is refused here, with its file and row, before anything is trained on it or asked.

Every row has an id that is a text: a number counts as its digits, and where a kind of row may go without one it is
called by its place. Test questions are known by their ids, so there each stands once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError, nearest, within
from qwenkit.records import Row, json_kind, name_of, read_jsonl

USES = ("rl", "reward", "test")
ASKED = ("prompt", "question")
ANSWERED = ("answer", "reference", "chosen", "rejected", "problem", "solution", "canonical_solution", "text", "code",
            "instruction", "input", "output", "passage", "context")  # fmt: skip


def read_checked(
    path: Path, noun: str, check: Callable[[Row], None], needed: Iterable[str], *, stem: str = "", once: bool = False
) -> list[Row]:
    """Every row of a file, with its id and the keys it needs, each looked at by `check`. Rows without an id are called
    `stem-N` where a stem is given; `once`: no id may stand twice."""
    needed = [key for key in ("id", *needed) if key != "id" or not stem]
    found: list[Row] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_jsonl(path)):
        if stem and "id" not in row:
            row = {"id": f"{stem}-{number}", **row}
        with within(f"{path}, row {number + 1}"):
            require(row, needed)
            row["id"] = identity(row["id"])
            if once and row["id"] in seen:
                raise UserError(
                    f"the id `{row['id']}` stands in row {seen[row['id']]} too", expected="an id for each row"
                )
            check(row)
        seen[row["id"]] = number + 1
        found.append(row)
    if not found:
        raise UserError(f"no {noun} in this file", where=str(path), expected="one JSON object a line" + _with(needed))
    return found


def _with(needed: list[str]) -> str:
    return f", with `{needed[0]}`" if len(needed) == 1 else ""


def identity(value: Any, where: str | None = None) -> str:
    """The id of a row as a text; what is neither text nor number is refused."""
    name = name_of(value)
    if name is None:
        found = "empty" if value == "" else json_kind(value)
        raise UserError(f"`id` is {found}", where=where, expected="a string or a number")
    return name


def require(row: Row, needed: Iterable[str]) -> None:
    """Refuse a row that lacks a key."""
    needed = list(needed)
    missing = [key for key in needed if key not in row]
    if missing:
        raise UserError(f"missing key `{missing[0]}`", expected=", ".join(needed))


def require_text(row: Row, *keys: str, filled: bool = False) -> None:
    """Refuse a row whose key holds something else than a text, or with `filled` an empty one."""
    for key in keys:
        if not isinstance(row[key], str):
            raise UserError(f"`{key}` is {json_kind(row[key])}", expected="a string")
        if filled and not row[key].strip():
            raise UserError(f"`{key}` is empty", expected="a string")


def check_flipped(row: Row) -> None:
    """Whether the sides of a comparison were exchanged on purpose is a truth."""
    if not isinstance(row.get("flipped", False), bool):
        raise UserError(f"`flipped` is {json_kind(row['flipped'])}", expected="true or false")


def check_prompt(row: Row) -> None:
    """A question and its rubric."""
    from qwenkit.evaluation.rubric import check_rubric

    _check_question(row)
    check_rubric(row["rubric"])
    check_prompt_keys(row)


def check_prompt_keys(row: Row) -> None:
    """What a prompt is meant for, and answers of others where there are any."""
    use = row.get("use")
    if use is not None and use not in USES:
        raise UserError(f"unknown use {use!r}", expected=", ".join(USES), nearest=nearest(str(use), USES))
    others = row.get("candidates", [])
    if not isinstance(others, list) or not all(_is_candidate(other) for other in others):
        raise UserError("`candidates` holds no answers", expected='[{"text": ..., "policy": ...}, ...]')


def _is_candidate(other: Any) -> bool:
    return isinstance(other, dict) and all(isinstance(other.get(key), str) for key in ("text", "policy"))


def check_chat_test(row: Row) -> None:
    """A prompt of an exam: its score is told by task."""
    require_text(row, "task")
    check_prompt(row)


def check_base_test(row: Row) -> None:
    """A text to continue, with its answer or with choices."""
    from qwenkit.evaluation.tasks import check_choices

    require_text(row, "task")
    require_text(row, "prompt", filled=True)
    if row.get("choices"):
        check_choices(row)
    else:
        require(row, ("answer",))
        require_text(row, "answer", filled=True)


def _check_question(row: Row) -> None:
    from qwenkit.chat.messages import check

    _messages(row)
    check(row["messages"], True, False)


def _messages(row: Row) -> None:
    if not isinstance(row["messages"], list):
        raise UserError(f"`messages` is {json_kind(row['messages'])}", expected="a list of role and content")


def texts_of(row: Row) -> Iterator[str]:
    """What no training text may hold of a test row of any kind: the question and its answers, right and wrong."""
    from qwenkit.chat.messages import text

    if "messages" in row:
        _messages(row)
        for number, message in enumerate(row["messages"]):
            if not isinstance(message, dict):
                raise UserError("not a message", where=f"message {number}", expected='{"role": ..., "content": ...}')
            yield text(message, f"message {number}")
    for key in (key for key in ASKED if key in row):
        require_text(row, key)
        yield row[key]
    yield from (row[key] for key in ANSWERED if isinstance(row.get(key), str))
    choices = row.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError("`choices` holds something other than strings", expected="a list of strings")
    yield from choices


def check_test(row: Row) -> None:
    """A test row of any kind says something."""
    if not any([found.strip() for found in texts_of(row)]):
        known = ("messages", *ASKED, *ANSWERED, "choices")
        raise UserError("a row that says nothing of a test", expected="one of " + ", ".join(known))
