"""Test sets: questions in JSONL, read with what no training text may hold of them.

    rows = read_test_set(path)                 # each with an id; doubled ids and rows that say nothing are refused
    texts = question_texts(folder)                 # questions and answers, for the decontamination

What cannot be used is refused with its file and row, before anything is trained on it or asked. Every row has an id
that is a string: a number counts as its digits, and where a kind of row may go without one it is called by its place.
Test questions are known by their ids, so there each stands once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from qwenkit.chat.messages import text_of
from qwenkit.data.documents import row_id
from qwenkit.errors import UserError, within
from qwenkit.records import Row, json_kind, read_jsonl

ASKED = ("prompt", "question")


ANSWERED = ("answer", "reference", "chosen", "rejected", "problem", "solution", "canonical_solution", "text", "code",
            "instruction", "input", "output", "passage", "context")  # fmt: skip


def read_checked(
    path: Path, noun: str, check: Callable[[Row], None], needed: Iterable[str], *, stem: str = "", once: bool = False
) -> list[Row]:
    """Every row of a file, with its id and the keys it needs, each looked at by `check`. Rows without an id are called
    `stem-N` where a stem is given; `once`: no id may stand twice."""
    needed = [key for key in ("id", *needed) if key != "id" or not stem]
    rows: list[Row] = []
    first: dict[str, int] = {}
    for number, row in enumerate(read_jsonl(path)):
        if stem and "id" not in row:
            row = {"id": f"{stem}-{number}", **row}
        with within(f"{path}, row {number + 1}"):
            require(row, needed)
            row["id"] = row_id(row["id"])
            if once and row["id"] in first:
                raise UserError(
                    f"the id `{row['id']}` stands in row {first[row['id']]} too", expected="an id for each row"
                )
            check(row)
        first[row["id"]] = number + 1
        rows.append(row)
    if not rows:
        raise UserError(f"no {noun} in this file", where=str(path), expected="one JSON object a line" + _with(needed))
    return rows


def _with(needed: list[str]) -> str:
    return f", with `{needed[0]}`" if len(needed) == 1 else ""


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


def texts_of(row: Row) -> Iterator[str]:
    """What no training text may hold of a test row of any kind: the question and its answers, right and wrong."""
    if "messages" in row:
        require_messages(row)
        for number, message in enumerate(row["messages"]):
            if not isinstance(message, dict):
                raise UserError("not a message", where=f"message {number}", expected='{"role": ..., "content": ...}')
            yield text_of(message, f"message {number}")
    for key in (key for key in ASKED if key in row):
        require_text(row, key)
        yield row[key]
    yield from (row[key] for key in ANSWERED if isinstance(row.get(key), str))
    choices = row.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError("`choices` holds something other than strings", expected="a list of strings")
    yield from choices


def require_messages(row: Row) -> None:
    """Refuse a row whose `messages` are not a list."""
    if not isinstance(row["messages"], list):
        raise UserError(f"`messages` is {json_kind(row['messages'])}", expected="a list of role and content")


def check_test(row: Row) -> None:
    """A test row of any kind says something."""
    if not any([words.strip() for words in texts_of(row)]):
        known = ("messages", *ASKED, *ANSWERED, "choices")
        raise UserError("a row that says nothing of a test", expected="one of " + ", ".join(known))


def read_test_set(path: Path) -> list[Row]:
    """The rows of a test set; an empty set, a row that says nothing and a doubled id are refused."""
    return read_checked(path, "questions", check_test, (), stem=path.stem, once=True)


def question_texts(testsets: Path) -> list[str]:
    """What no training document may hold of any set: questions and their answers, right and wrong."""
    return [words for _, words in named_texts(testsets)]


def named_texts(testsets: Path) -> list[tuple[str, str]]:
    """The same, each after the name of the question that it is of: `chat/17`."""
    rows: list[tuple[str, str]] = []
    files = sorted(testsets.glob("[!.]*.jsonl")) if testsets.is_dir() else [testsets]
    if not files:
        raise UserError("no test set in this folder", where=str(testsets), expected="*.jsonl")
    for path in files:
        for row in read_test_set(path):
            rows += ((f"{path.stem}/{row['id']}", words) for words in texts_of(row) if words)
    return rows
