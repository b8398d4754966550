"""A conversation as a list of message dicts, and the check that a model could have had it.

    {"role": "user", "content": "你好"}
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    {"role": "tool", "content": "3"}

A system turn only comes first; user and assistant take turns; tool results follow an assistant turn with tool calls.
Anything else is refused with the number of the message: a turn in the wrong place trains a model on input that it never
gets.

`content` is a string, or a list of parts, or null beside tool calls: parts of text, and in a style that knows them
pictures and sounds in a user's turn (`media.py`). The arguments of a call are an object or its JSON text; thoughts are
`reasoning_content` (or `reasoning`, `thinking`). OpenAI's other names are read as what they are (`developer`: system,
`function`: tool, `function_call`: a tool call). An assistant's turn may have a loss weight: `weight`, a number (0: not
trained), or `train`, true or false; in other turns the two are checked and have no effect.
Other keys are passed on to a folder's own template and shown by no style; one that is nearly a known name is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qwenkit.chat.media import KINDS, MediaPart, read_part
from qwenkit.errors import UserError, nearest
from qwenkit.records import Row


class ToolsNotShown(UserError):
    """Tools, or calls of them, for a template that would leave them out."""


Message = Mapping[str, Any]
Tool = Mapping[str, Any]
"""A function that a model may call: `{"type": "function", "function": {"name": ..., "parameters": ...}}`, or bare."""
TemplateKwargs = Mapping[str, object]
"""What a folder's chat template may read besides the conversation, by name."""
ROLES = ("system", "user", "assistant", "tool")
RENAMED = {"developer": "system", "function": "tool"}
"""OpenAI's other names of roles."""
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names under which thoughts are given; templates read the first."""
_KEYS = ("role", "content", "tool_calls", "function_call", "weight", "train", *THOUGHTS)
_OTHER_KEYS = frozenset(("tool_call_id", "name", "id", "refusal", "audio", "annotations"))


def check(
    messages: Sequence[Message],
    add_generation_prompt: bool,
    continue_final_message: bool,
    media: Collection[str] = (),
) -> list[Message]:
    """Return the conversation in the form that `normal` gives; raises a `UserError` that names a malformed message.

    `media` are the kinds of media that a user's turn may have."""
    if not messages:
        raise UserError("the conversation has no messages", expected="at least a user message")
    checked: list[Message] = []
    for index, message in enumerate(messages):
        checked.append(_checked(index, message, media))
        _check_place(index, checked[-1]["role"], checked[-2] if index else None)
    _check_end(checked, add_generation_prompt, continue_final_message)
    return checked


def check_following(messages: Sequence[Message], media: Collection[str] = ()) -> list[Message]:
    """Return turns of the user or of tools that follow an answer, in the form that `normal` gives; raises a `UserError`
    for other turns."""
    if not messages:
        raise UserError("no messages to go on with", expected="a user's turn, or results of tools")
    checked: list[Message] = []
    for index, message in enumerate(messages):
        checked.append(_checked(index, message, media))
        role = checked[-1]["role"]
        if role not in ("user", "tool"):
            raise UserError(f"a turn of {role} after ids that end with an answer", where=f"message {index}",
                            expected="user or tool")  # fmt: skip
        if index:
            _check_place(index, role, checked[-2])
    return checked


def _checked(index: int, message: Message, media: Collection[str]) -> Row:
    """Return a message in the form that `normal` gives; raises a `UserError` where it is malformed by itself."""
    _check_message(index, message, media)
    return normal(message, media)


def normal(message: Message, media: Collection[str] = ()) -> Row:
    """Return a checked message without null keys, with present-day names and roles, and its content as a string, or as
    parts where it has `media`."""
    plain = {key: value for key, value in message.items() if value is not None}
    plain["role"] = RENAMED.get(plain["role"], plain["role"])
    if call := plain.pop("function_call", None):
        plain["tool_calls"] = [{"type": "function", "function": call}]
    if "content" in plain or not plain.get("tool_calls"):
        parts = _parts(message, "message", media)
        plain["content"] = (
            _joined(parts) if any(isinstance(part, MediaPart) for part in parts) else "".join(map(str, parts))
        )
    thought = next((plain[key] for key in THOUGHTS if key in plain), None)
    return plain if thought is None else {**plain, "reasoning_content": thought}


def trained(message: Message) -> float:
    """Return the loss weight of an assistant's turn, 1 where it has none; other turns have 1."""
    if message["role"] != "assistant":
        return 1.0
    return 0.0 if message.get("train") is False else float(message.get("weight", 1.0))


def _check_message(index: int, message: Message, media: Collection[str] = ()) -> None:
    """Raise a `UserError` unless a message is a mapping with a known role and readable content."""
    where = f"message {index}"
    if not isinstance(message, Mapping) or "role" not in message:
        raise UserError("not a message", where=where, expected='{"role": ..., "content": ...}')
    role = message["role"]
    if not isinstance(role, str) or RENAMED.get(role, role) not in ROLES:
        raise UserError(
            f"unknown role {role!r}",
            where=where,
            expected=", ".join(ROLES),
            nearest=nearest(str(role), ROLES),
        )
    _check_keys(message, where)
    if (message.get("tool_calls") or message.get("function_call")) and role != "assistant":
        raise UserError(f"tool calls in a {role} turn", where=where, expected="tool calls in assistant turns only")
    if message.get("tool_calls") and message.get("function_call"):
        raise UserError("both tool_calls and function_call", where=where, expected="one of the two")
    calls(message, where)
    _parts(message, where, media if RENAMED.get(role, role) == "user" else ())
    for key in THOUGHTS:
        if message.get(key) is not None and not isinstance(message[key], str):
            raise UserError(f"{key} is {_kind(message[key])}", where=where, expected="a string")
    _check_training(message, where)


def _check_keys(message: Message, where: str) -> None:
    """Raise a `UserError` for a key that nearly equals a known one: it would be lost silently."""
    for key in message:
        if not isinstance(key, str):
            raise UserError(f"a key is {_kind(key)}", where=where, expected="names of keys")
        if key not in _KEYS and key not in _OTHER_KEYS and (near := _near(key)):
            raise UserError(f"unknown key {key!r}", where=where, expected=", ".join(_KEYS), nearest=near)


def _near(key: str) -> str | None:
    """Return the known key that another one only misspells."""
    plain = key.strip().lower().replace("-", "_").replace(" ", "_")
    return next((known for known in _KEYS if plain in (known, known + "s", known.removesuffix("s"))), None)


def _check_training(message: Message, where: str) -> None:
    """Raise a `UserError` for an invalid `weight` or `train`, or both at once."""
    weight, train = message.get("weight"), message.get("train")
    if train is not None and not isinstance(train, bool):
        raise UserError(f"train is {_kind(train)}", where=where, expected="true or false")
    if weight is None:
        return
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UserError(f"weight is {_kind(weight)}", where=where, expected="a number, 0 for a turn not trained")
    if not (0 <= weight < 2**31 and math.isfinite(weight)):
        raise UserError(f"weight = {str(weight)[:20]}", where=where, expected="0 or more")
    if train is not None and train != (weight > 0):
        raise UserError(f"weight = {weight} and train = {str(train).lower()}", where=where, expected="one of the two")


def _check_place(index: int, role: str, before: Message | None) -> None:
    allowed = _allowed_after(before)
    if role not in allowed:
        place = "at the start" if before is None else f"after {before['role']}"
        raise UserError(f"{role} {place}", where=f"message {index}", expected=" or ".join(allowed))


def _allowed_after(before: Message | None) -> tuple[str, ...]:
    """Return the roles that may follow a message."""
    if before is None:
        return ("system", "user")
    if before["role"] == "assistant":
        return ("tool",) if before.get("tool_calls") else ("user",)
    return {"system": ("user",), "user": ("assistant",), "tool": ("tool", "assistant")}[before["role"]]


def _check_end(messages: Sequence[Message], add_generation_prompt: bool, continue_final_message: bool) -> None:
    """Raise a `UserError` where the last turn cannot be followed by the ending asked for."""
    last, where = messages[-1]["role"], f"message {len(messages) - 1}"
    if add_generation_prompt and continue_final_message:
        raise UserError("a new answer and a continued one at once", expected="one of the two")
    if add_generation_prompt and last not in ("user", "tool"):
        raise UserError(f"nothing to answer: the last turn is {last}", where=where, expected="user or tool")
    if continue_final_message and last != "assistant":
        raise UserError(f"nothing to continue: the last turn is {last}", where=where, expected="assistant")


def text_of(message: Message, where: str = "message") -> str:
    """Return the content of a message: a string, or text parts joined; None counts as empty beside tool calls.

    Raises a `UserError` for other content."""
    return "".join(map(str, _parts(message, where, ())))


def _parts(message: Message, where: str, media: Collection[str]) -> list[str | MediaPart]:
    """Return the parts of a message's content; raises a `UserError` for media of other kinds than those given."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return [""]
    if isinstance(content, list):
        return [_part(part, where, number, media) for number, part in enumerate(content)]
    raise UserError(f"content is {_kind(content)}", where=where, expected="a string, or a list of text parts")


def _part(part: Any, where: str, number: int, media: Collection[str]) -> str | MediaPart:
    """Return the text of one part of a message's content, or its picture or sound."""
    expected = '{"type": "text", "text": ...}'
    if not isinstance(part, Mapping):
        raise UserError(f"a content part is {_kind(part)}", where=where, expected=expected)
    name = part.get("type")
    if isinstance(name, str) and KINDS.get(name) in media:
        return read_part(part, f"{where}, part {number}")
    if name != "text":
        known = f"{' and '.join(('text', *media))} parts" if media else "text parts only, for a text model"
        raise UserError(f"a content part of type {name!r}", where=f"{where}, part {number}", expected=known)
    if not isinstance(part.get("text"), str):
        raise UserError(f"the text of a content part is {_kind(part.get('text'))}", where=where, expected=expected)
    return part["text"]


def _joined(parts: Sequence[str | MediaPart]) -> list[dict[str, str]]:
    """Return parts in one form, neighbouring texts as one."""
    out: list[dict[str, str]] = []
    for part in parts:
        if isinstance(part, MediaPart):
            out.append(part.plain())
        elif out and out[-1]["type"] == "text":
            out[-1]["text"] += part
        else:
            out.append({"type": "text", "text": part})
    return out


def _kind(content: object) -> str:
    """Return the JSON type of a value in words."""
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
    """Return (name, arguments as JSON text) of each tool call of a message."""
    old = message.get("function_call")
    made = message.get("tool_calls") if old is None else [{"function": old}]
    if made is not None and not isinstance(made, (list, tuple)):
        raise UserError(f"tool_calls is {_kind(made)}", where=where, expected="a list of tool calls")
    return [_call(call, where) for call in made or ()]


def _call(call: Any, where: str) -> tuple[str, str]:
    """Return name and arguments of a call `{"name": ..., "arguments": ...}`, by itself or under `function`."""
    expected = '{"function": {"name": ..., "arguments": {...}}}'
    if not isinstance(call, Mapping):
        raise UserError(f"a tool call is {_kind(call)}", where=where, expected=expected)
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError("a tool call without a name", where=where, expected=expected)
    arguments = {} if function.get("arguments") is None else function["arguments"]
    if isinstance(arguments, str):
        return function["name"], arguments
    try:
        return function["name"], to_json(arguments)
    except (TypeError, ValueError):
        raise UserError("the arguments of a tool call are not JSON", where=where, expected=expected) from None


def to_json(value: object) -> str:
    """Return JSON as chat templates write it: Chinese characters are not escaped."""
    return json.dumps(value, ensure_ascii=False)


def for_template(message: Message) -> Row:
    """Return a normal message as a folder's own template sees it: as transformers passes it on, with the arguments of
    calls as objects, which templates iterate over or write as JSON. Loss weights are left out."""
    shown = {key: value for key, value in message.items() if key not in ("weight", "train")}
    if "reasoning_content" in shown:
        shown = {"thinking": shown["reasoning_content"], **shown}
    if shown.get("tool_calls"):
        shown["tool_calls"] = [_as_object(call) for call in shown["tool_calls"]]
    return shown


def _as_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as an object, if their text is the JSON of one."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        return dict(call)
    return {**call, "function": {**function, "arguments": read}} if "function" in call else {**call, "arguments": read}
