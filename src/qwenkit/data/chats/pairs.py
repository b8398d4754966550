"""Comparisons: a conversation, the better answer and the worse one, in the forms that data sets have.

| form | keys |
| --- | --- |
| chosen and rejected | beside `messages`, `conversations`, `prompt`, `question` ...: a text, a message or messages |
| whole chats | `chosen` and `rejected` are conversations that differ in what they end with |
| transcripts | the same as texts of `Human:` and `Assistant:` turns, as HH-RLHF has them |
| response and rejected | `rejected_response` beside a chat with its answer; `response_chosen`, `response_rejected` |
| two outputs and a label | `output_1`, `output_2` and `preference` or `label`, 1 or 2 |
| oasst tree | the best and the worst of the ranked replies to the first question |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenkit.chat.messages import check
from qwenkit.data.chats.forms import (
    COMMON,
    SIDES,
    Converted,
    Dialogue,
    answer,
    chat,
    dialogue,
    missing,
    ours,
    ranked,
    with_system,
)
from qwenkit.data.chats.turns import turn, turns
from qwenkit.errors import UserError
from qwenkit.records import Row

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_OTHER_NAMES = ("response_chosen", "response_rejected"), ("chosen_response", "rejected_response")


def as_pair(row: Row) -> Converted:
    """Return a comparison with `messages`, and `chosen` and `rejected` as a string or a message."""
    form, context, sides, read = _parts(row)
    before, chosen, rejected = _joined(context, sides, row)
    check(before, True, False)
    kept = ours(row, before, tuple(key for key in read if key not in SIDES))
    return Converted(form, {**kept, "chosen": chosen, "rejected": rejected}, frozenset(read) | COMMON)


def _parts(row: Row) -> tuple[str, Dialogue | None, list[Any], list[str]]:
    """Return the form of a comparison, the chat before the answers, the two sides, and the keys that were read."""
    tree = row.get("prompt")
    if isinstance(tree, Mapping) and "replies" in tree:
        return _tree(tree)
    if row.get("output_1") is not None and row.get("output_2") is not None:
        return _labelled(row)
    for names in _OTHER_NAMES:
        if all(row.get(name) is not None for name in names):
            result = dialogue(row)
            return "response and rejected", result, [row[name] for name in names], [*_read(result), *names]
    if row.get("rejected_response") is not None:
        whole = chat(row)
        if whole is not None:
            *messages, last = whole.messages
            return ("response and rejected", Dialogue(whole.form, messages, whole.read),
                    [last, row["rejected_response"]], [*whole.read, "rejected_response"])  # fmt: skip
    return _sides(row)


def _sides(row: Row) -> tuple[str, Dialogue | None, list[Any], list[str]]:
    sides: list[Any] = [row.get(side) for side in SIDES]
    if all(isinstance(side, str) and _SPEAKER.match(side) for side in sides):
        return "transcripts", None, [_transcript(side) for side in sides], [*SIDES]
    sides = [_from_text(side, name) for side, name in zip(sides, SIDES)]
    lists = all(isinstance(side, list) for side in sides)
    result = dialogue(row)
    if lists and result is not None and result.messages and result.messages[-1]["role"] == "assistant":
        result = None  # UltraFeedback keeps the chosen chat in `messages` too
    lacking = [side for side, value in zip(SIDES, sides) if value is None]
    if result is None and not lists:
        lacking = ["messages", *lacking]
    if lacking:
        raise missing(row, lacking[0], "messages (or prompt), chosen, rejected")
    form = "chosen and rejected" if result is not None else "whole chats"
    return form, result, sides, [*_read(result), *SIDES]


def _from_text(side: Any, name: str) -> Any:
    """Return a side of a table, which may be messages as JSON text."""
    if isinstance(side, str) and side.lstrip().startswith('[{"'):
        try:
            return turns(side, name)
        except UserError:
            return side
    return side


def _read(context: Dialogue | None) -> tuple[str, ...]:
    return context.read if context is not None else ()


def _tree(node: Mapping[str, Any]) -> tuple[str, Dialogue | None, list[Any], list[str]]:
    replies = [each for each in ranked(node) if isinstance(each.get("rank"), int)]
    if len(replies) < 2:
        raise UserError("a question without two ranked replies", expected="replies with a rank")
    path = [turn({"role": "user", "text": node.get("text")}, "message 0")]
    best, worst = ({"role": "assistant", "content": each.get("text")} for each in (replies[0], replies[-1]))
    return "oasst tree", Dialogue("oasst tree", path, ("prompt",)), [best, worst], ["prompt"]


def _labelled(row: Row) -> tuple[str, Dialogue | None, list[Any], list[str]]:
    key = next((key for key in ("preference", "label") if row.get(key) is not None), None)
    if key is None or row[key] not in (1, 2):
        result = "nothing" if key is None else f"`{key}` = {row[key]}"
        raise UserError(f"two outputs, of which {result} says which is better", expected="`preference` 1 or 2")
    outputs = [row["output_1"], row["output_2"]]
    sides = outputs if row[key] == 1 else outputs[::-1]
    result = dialogue(row)
    return "two outputs and a label", result, sides, [*_read(result), "output_1", "output_2", key]


def _transcript(side: str) -> list[Row]:
    """Return a text of `Human:` and `Assistant:` turns as messages."""
    pieces = _SPEAKER.split(side)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": words.strip()} for who, words in zip(pieces[::2], pieces[1::2])]


def _joined(dialogue_before: Dialogue | None, sides: list[Any], row: Row) -> tuple[list[Row], Any, Any]:
    """Return the chat before both answers, and the answers; raises a `UserError` where they answer different chats."""
    context = with_system(dialogue_before.messages, row) if dialogue_before is not None else []
    (before, chosen), (other, rejected) = (_answer(side, name, context) for side, name in zip(sides, SIDES))
    if not _same(before, other):
        raise UserError("`chosen` and `rejected` answer different chats", expected="one chat, two answers")
    return (before if dialogue_before is not None else with_system(before, row)), chosen, rejected


def _answer(side: Any, name: str, context: list[Row]) -> tuple[list[Row], str | Row]:
    """Return (the chat, the answer to it) of one side. A complete chat includes the prompt; otherwise its turns follow
    the context."""
    messages = answer(side, name)
    *before, last = messages
    if last.get("role") != "assistant":
        raise UserError(f"`{name}` does not end with an answer", expected="an assistant's message at the end")
    whole = not context or any(_same(before[at : at + len(context)], context) for at in range(len(before)))
    reply = last if last.get("tool_calls") or not isinstance(last.get("content"), str) else last["content"]
    return (before if whole else [*context, *before]), reply


def _plain(message: Row) -> tuple[Any, Any]:
    return message.get("role"), message.get("content")


def _same(some: list[Row], others: list[Row]) -> bool:
    return [_plain(m) for m in some] == [_plain(m) for m in others]
