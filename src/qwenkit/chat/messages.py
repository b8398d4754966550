"""A conversation as a list of message dicts, and the check that a model could have had it.

    {"role": "user", "content": "你好"}
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    {"role": "tool", "content": "3"}

A system turn only comes first; user and assistant take turns; tool results follow an assistant turn with tool calls.
Anything else is refused with the number of the message: a turn in the wrong place trains a model on what it never
sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, nearest

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")


def check(messages: Sequence[Message], add_generation_prompt: bool, continue_final_message: bool) -> None:
    """Refuse a conversation whose shape is wrong, naming the message."""
    if not messages:
        raise UserError("the conversation has no messages", expected="at least a user message")
    for index, message in enumerate(messages):
        _check_message(index, message)
        _check_place(index, message["role"], messages[index - 1] if index else None)
    _check_end(messages, add_generation_prompt, continue_final_message)


def _check_message(index: int, message: Message) -> None:
    """A mapping with a known role; its content must be readable."""
    where = f"message {index}"
    if not isinstance(message, Mapping) or "role" not in message:
        raise UserError("not a message", where=where, expected='{"role": ..., "content": ...}')
    role = message["role"]
    if role not in ROLES:
        raise UserError(
            f"unknown role {role!r}",
            where=where,
            expected=", ".join(ROLES),
            nearest=nearest(str(role), ROLES),
        )
    if message.get("tool_calls") and role != "assistant":
        raise UserError(f"tool calls in a {role} turn", where=where, expected="tool calls in assistant turns only")
    calls(message, where)
    text(message, where)


def _check_place(index: int, role: str, before: Message | None) -> None:
    allowed = _allowed_after(before)
    if role not in allowed:
        place = "at the start" if before is None else f"after {before['role']}"
        raise UserError(f"{role} {place}", where=f"message {index}", expected=" or ".join(allowed))


def _allowed_after(before: Message | None) -> tuple[str, ...]:
    """Roles that may follow a message."""
    if before is None:
        return ("system", "user")
    if before["role"] == "assistant":
        return ("tool",) if before.get("tool_calls") else ("user",)
    return {"system": ("user",), "user": ("assistant",), "tool": ("tool", "assistant")}[before["role"]]


def _check_end(messages: Sequence[Message], add_generation_prompt: bool, continue_final_message: bool) -> None:
    """The last turn must be one that the asked-for ending can follow."""
    last, where = messages[-1]["role"], f"message {len(messages) - 1}"
    if add_generation_prompt and continue_final_message:
        raise UserError("a new answer and a continued one at once", expected="one of the two")
    if add_generation_prompt and last not in ("user", "tool"):
        raise UserError(f"nothing to answer: the last turn is {last}", where=where, expected="user or tool")
    if continue_final_message and last != "assistant":
        raise UserError(f"nothing to continue: the last turn is {last}", where=where, expected="assistant")


def text(message: Message, where: str = "message") -> str:
    """The content of a message: a string, or text parts joined; None counts as empty beside tool calls."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, list):
        return "".join(_part(part, where) for part in content)
    raise UserError(f"content is {_kind(content)}", where=where, expected="a string, or a list of text parts")


def _part(part: Any, where: str) -> str:
    """The text of one part of a message's content."""
    expected = '{"type": "text", "text": ...}'
    if not isinstance(part, Mapping):
        raise UserError(f"a content part is {_kind(part)}", where=where, expected=expected)
    if part.get("type") != "text":
        raise UserError(f"a content part of type {part.get('type')!r}", where=where,
                        expected="text parts only, for a text model")  # fmt: skip
    if not isinstance(part.get("text"), str):
        raise UserError(f"the text of a content part is {_kind(part.get('text'))}", where=where, expected=expected)
    return part["text"]


def _kind(content: object) -> str:
    """What a JSON reader would call a value."""
    names = {
        type(None): "missing",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
    }
    return names.get(type(content), "an object")


def calls(message: Message, where: str = "message") -> list[tuple[str, str]]:
    """(name, arguments as JSON text) of each tool call of a message."""
    made = message.get("tool_calls")
    if made is not None and not isinstance(made, (list, tuple)):
        raise UserError(f"tool_calls is {_kind(made)}", where=where, expected="a list of tool calls")
    return [_call(call, where) for call in made or ()]


def _call(call: Any, where: str) -> tuple[str, str]:
    """A call is `{"name": ..., "arguments": ...}`, by itself or under `function`."""
    expected = '{"function": {"name": ..., "arguments": {...}}}'
    if not isinstance(call, Mapping):
        raise UserError(f"a tool call is {_kind(call)}", where=where, expected=expected)
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError("a tool call without a name", where=where, expected=expected)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        return function["name"], arguments
    try:
        return function["name"], to_json(arguments)
    except (TypeError, ValueError):
        raise UserError("the arguments of a tool call are no JSON", where=where, expected=expected) from None


def to_json(value: object) -> str:
    """JSON as chat templates write it: Chinese stays Chinese."""
    return json.dumps(value, ensure_ascii=False)
