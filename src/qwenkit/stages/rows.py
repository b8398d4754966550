"""Chats, prompts and comparisons as rows: read from JSONL or Parquet, in our form or Hugging Face's, and checked.

    read_chats(path)                           # `messages`
    read_prompts(path, "rl")                   # `messages` or `prompt`; with `rubric=True` each needs a rubric
    read_pairs(path, "pmp_pairs.jsonl")        # `messages`, or `prompt`, or none; `chosen` and `rejected`

A `prompt` is a text or a list of messages. A side is a text, a list of messages (the answer alone, or a whole chat that
ends with it) or one message. `tools` is a list, or a JSON text of one: Parquet fills the keys that one tool has and
another lacks with null, and does so with arguments of tool calls too, so these are best written as JSON texts there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qwenkit.errors import UserError, within
from qwenkit.records import Row, canonical, json_kind, read_rows
from qwenkit.stages.checks import check_flipped, check_prompt_keys, identity

SIDES = ("chosen", "rejected")


def read_chats(path: Path) -> list[Row]:
    """Chats, each with an id; a row without `messages`, or with turns in no order, is a `UserError`."""
    from qwenkit.chat.messages import check

    def chat(row: Row) -> Row:
        if row.get("messages") is None:
            raise UserError("missing key `messages`", expected="messages")
        if not isinstance(row["messages"], list):
            raise UserError(f"`messages` is {json_kind(row['messages'])}", expected="a list of role and content")
        check(row["messages"], False, False)
        return row

    return _checked(
        path, "chat.jsonl", "chat", chat, "no chats in this file", "one JSON object a line, with `messages`"
    )


def read_prompts(path: Path, use: str, rubric: bool = False) -> list[Row]:
    """Prompts meant for this `use` (rl, reward) or for any; `rubric`: a row without one is a `UserError`."""
    from qwenkit.chat.messages import check
    from qwenkit.evaluation.rubric import check_rubric

    def prompt(row: Row) -> Row | None:
        check_prompt_keys(row)
        if row.get("use") not in (use, None):
            return None
        messages = _context(row)
        if messages is None:
            raise UserError("missing key `messages`", expected="messages, rubric" if rubric else "messages, or prompt")
        check(messages, True, False)
        if rubric and row.get("rubric") is None:
            raise UserError("missing key `rubric`", expected="messages, rubric")
        if row.get("rubric") is not None:
            check_rubric(row["rubric"])
        return {**row, "messages": messages}

    empty = f"no prompt in this file is meant for `{use}`"
    return _checked(path, "prompts.jsonl", "prompt", prompt, empty, f'"use": "{use}", or none')


def read_pairs(path: Path, name: str) -> list[Row]:
    """Comparisons, each with an id, `messages`, and `chosen` and `rejected` as a text or a message."""
    from qwenkit.chat.messages import check

    def pair(row: Row) -> Row:
        context, missing = _context(row), [side for side in SIDES if row.get(side) is None]
        if context is None and not all(isinstance(row.get(side), list) for side in SIDES):
            missing = ["messages", *missing]
        if missing:
            raise UserError(f"missing key `{missing[0]}`", expected="messages (or prompt), chosen, rejected")
        (before, chosen), (other, rejected) = (_answer(row[side], side, context or []) for side in SIDES)
        if before != other:
            raise UserError("`chosen` and `rejected` answer different chats", expected="one chat, two answers")
        check(before, True, False)
        check_flipped(row)
        return {**row, "messages": before, "chosen": chosen, "rejected": rejected}

    return _checked(path, name, "pair", pair, "no comparisons in this file", "one JSON object a line")


def prompt_of(row: Row) -> str:
    """A name that rows with equal prompts share: whoever divides rows must not put one prompt on both sides."""
    return canonical([row["messages"], row.get("tools")]).decode()


def _checked(
    path: Path, name: str, kind: str, check: Callable[[Row], Row | None], empty: str, expected: str
) -> list[Row]:
    """Every row that `check` gives back, with an id and its tools as a list; a bad row is named by file and number."""
    found = []
    for place, number, row in _rows(path, name):
        with within(f"{place}, row {number}"):
            name = identity(row["id"]) if "id" in row else f"{kind}-{number - 1}"
            row = check({**row, "tools": _tools(row.get("tools"))})
        if row is not None:
            row = {**row, "id": name}
            found.append(row if row["tools"] else {key: row[key] for key in row if key != "tools"})
    if not found:
        raise UserError(empty, where=str(path), expected=expected)
    return found


def _rows(path: Path, name: str) -> Iterator[tuple[Path, int, Row]]:
    """Rows of a file, of a folder's file `name`, or of all Parquet files (Hugging Face's parts) in a folder without
    that; each with its file and number."""
    files = [path / name] if path.is_dir() else [path]
    if not files[0].exists() and path.is_dir():
        files = sorted(path.glob("*.parquet")) or files
    for file in files:
        yield from ((file, number, row) for number, row in enumerate(read_rows(file), 1))


def _tools(tools: Any) -> list[Any] | None:
    """The tools that a chat offers, from a list or its JSON text."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            raise UserError("`tools` is a text that is no JSON", expected="a list of tools") from None
    if tools is not None and not isinstance(tools, list):
        raise UserError(f"`tools` is {json_kind(tools)}", expected="a list of tools, or its JSON text")
    return tools


def _context(row: Row) -> list[Row] | None:
    """The chat before the answer: `messages`, or `prompt` as a text or as messages."""
    found = row["messages"] if row.get("messages") is not None else row.get("prompt")
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if found is not None and not isinstance(found, list):
        raise UserError(f"the prompt is {json_kind(found)}", expected="a text, or a list of messages")
    return found


def _answer(side: Any, name: str, context: list[Row]) -> tuple[list[Row], str | Row]:
    """(the chat, the answer to it) of one side. A whole chat holds the prompt; what else stands before the answer
    follows it."""
    if isinstance(side, str):
        return context, side
    messages = [side] if isinstance(side, dict) else side
    if not isinstance(messages, list) or not messages:
        raise UserError(f"`{name}` is {json_kind(side)}", expected="a text, or messages that end with the answer")
    *before, last = messages
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise UserError(f"`{name}` does not end with an answer", expected="an assistant's message at the end")
    whole = not context or any(before[at : at + len(context)] == context for at in range(len(before)))
    answer = last if last.get("tool_calls") or not isinstance(last.get("content"), str) else last["content"]
    return (before if whole else [*context, *before]), answer


def parts(path: Path, kind: str, size: int = 16 << 20) -> list[Any]:
    """TEMPORARY."""
    return [(path, kind)]


def read_part(part: Any, quarantine: Any) -> Iterator[Row]:
    """TEMPORARY."""
    path, kind = part
    name = "pmp_pairs.jsonl" if (path / "pmp_pairs.jsonl").exists() else "pairs.jsonl"
    yield from read_chats(path) if kind == "chats" else read_pairs(path, name)
