"""Messages of any spelling as `role` and `content`, with the weight that each answer is trained with.

    turns([{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}])

Roles are known by the names that the common forms give them, in any case. A ShareGPT `function_call` becomes an
assistant's turn with `tool_calls`, the old `function_call` of OpenAI too. Whether an answer is trained may be said by
`weight` (a number from 0 on), `train`, `trainable` or `loss` (a truth value), or axolotl's `train_detail`: it becomes
`weight`, which a turn only has where it is not 1. What a turn of somebody else says of training has no effect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from qwenkit.errors import UserError, nearest
from qwenkit.records import Row, json_kind

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "ai": "assistant", "bard": "assistant", "bing": "assistant", "tool": "tool", "function": "tool",
    "observation": "tool", "tool_response": "tool", "tool_result": "tool", "ipython": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
SPELLINGS = (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"), ("role", "text"),
             ("speaker", "text"), ("author", "content"))  # fmt: skip
PAIRS = (("human", "assistant"), ("user", "assistant"), ("question", "answer"), ("prompt", "response"))
SWITCHES = ("train", "trainable", "loss")
READ = {"role", "content", "from", "value", "text", "speaker", "author", "name", "tool_calls", "tool_call_id", "id",
        "function_call", "reasoning_content", "reasoning", "thinking", "weight", "train_detail", *SWITCHES}  # fmt: skip
READ |= {name for pair in PAIRS for name in pair}
_PLAIN, _OURS = {"role", "content"}, ("system", "user", "assistant", "tool")
THOUGHTS = ("reasoning", "thinking")


LIST = "a list of role and content"


def turns(value: object, key: str = "messages") -> list[Row]:
    """Return a list of messages, or its JSON text, as messages with `role` and `content`."""
    return listed(parsed(value, key, LIST), key)


def listed(value: object, key: str) -> list[Row]:
    """Return the same of what was read from JSON already."""
    if not isinstance(value, list):
        raise UserError(f"`{key}` is {json_kind(value)}", expected=LIST)
    return [turn(message, f"message {index}") for index, message in enumerate(_unpaired(value))]


def _unpaired(items: list[Any]) -> list[Any]:
    """Messages, also of a list whose objects hold a question with its answer."""
    first = items[0] if items and isinstance(items[0], Mapping) else {}
    pair = next((names for names in PAIRS if all(isinstance(first.get(name), str) for name in names)), None)
    if pair is None or not all(isinstance(each, Mapping) and {*pair} == each.keys() for each in items):
        return items
    return [{"role": role, "content": each[name]} for each in items for role, name in zip(("user", "assistant"), pair)]


def parsed(value: object, key: str, expected: str = "a list") -> Any:
    """Return a value that a table or a column of texts holds as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f"`{key}` is a string that is not JSON", expected=f"{expected}, or its JSON text") from None


def turn(message: object, where: str) -> Row:
    """One message; what is not read in it stays in it."""
    if (
        type(message) is dict
        and message.keys() == _PLAIN
        and message["role"] in _OURS
        and type(message["content"]) is str
    ):
        return message  # as most are: nothing to find out
    if not isinstance(message, Mapping):
        raise UserError("not a message", where=where, expected='{"role": ..., "content": ...}')
    # Parquet fills the keys that other messages have with null.
    given = {key: value for key, value in message.items() if value is not None}
    spelling = next((pair for pair in SPELLINGS if pair[0] in given and pair[1] in given), None)
    spelling = spelling or next((pair for pair in SPELLINGS if pair[0] in given), None)
    if spelling is None:
        raise UserError("not a message", where=where, expected='{"role": ..., "content": ...}')
    who, what = spelling
    role = _role(given[who], where)
    rest = {key: value for key, value in given.items() if key not in (who, what)}
    content = _content(given.get(what))
    if role == "call":
        return _weighted({"role": "assistant", "content": "", "tool_calls": _calls(content, where), **rest}, where)
    row: Row = {"role": role, "content": content, **rest}
    if role == "assistant" and isinstance(content, list):
        row = _taken_apart(row, where)
    if isinstance(row.get("function_call"), Mapping):
        row["tool_calls"] = [{"type": "function", "function": row.pop("function_call")}]
    if content is None:
        row = {**row, "content": ""} if row.get("tool_calls") else {k: v for k, v in row.items() if k != "content"}
    for name in THOUGHTS:
        if role == "assistant" and isinstance(row.get(name), str):
            row.setdefault("reasoning_content", row.pop(name))
    return _weighted(row, where)


def _role(name: Any, where: str) -> str:
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        known = [known for known in ROLES if known != "call"]
        raise UserError(f"unknown role {name!r}", where=where, expected="system, user, assistant, tool (or human, gpt)",
                        nearest=nearest(str(name), known))  # fmt: skip
    return role


def _content(content: Any) -> Any:
    """A text, or parts; a part's text may stand under `value`, and Parquet's nulls in parts are nothing."""
    if not isinstance(content, list):
        return content
    return [_part(part) for part in content]


def _taken_apart(row: Row, where: str) -> Row:
    """An answer whose thoughts and tool calls stand among the parts of its content."""
    kinds = {"reasoning": "thoughts", "thinking": "thoughts", "tool_call": "calls", "function_call": "calls"}
    groups: dict[str, list[Any]] = {"thoughts": [], "calls": [], "rest": []}
    for part in row["content"]:
        kind = kinds.get(str(part.get("type")), "rest") if isinstance(part, Mapping) else "rest"
        groups[kind].append(part)
    texts = [part.get("text", part.get("value", part.get("thinking"))) for part in groups["thoughts"]]
    row = {**row, "content": groups["rest"]}
    if texts and all(isinstance(each, str) for each in texts):
        row["reasoning_content"] = "\n".join(texts)
    if groups["calls"]:
        row["tool_calls"] = [call for part in groups["calls"] for call in _calls(part.get("value"), where)]
    return row


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return {"type": "text", "text": part} if isinstance(part, str) else part
    given = {key: value for key, value in part.items() if value is not None}
    if given.get("type") == "text" and "text" not in given and isinstance(given.get("value"), str):
        given["text"] = given.pop("value")
    return given


def _calls(content: Any, where: str) -> list[Any]:
    """The tool calls of a `function_call` turn: an object with name and arguments, or a list of them, as JSON text."""
    try:
        value = json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        value = None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise UserError("a function call that is not JSON of name and arguments", where=where,
                        expected='{"name": ..., "arguments": {...}}')  # fmt: skip
    return [{"type": "function", "function": call} for call in calls]


def weight_of(row: Mapping[str, object], where: str | None = None) -> float | None:
    """Return the weight that a turn or a row asks for; None where it says nothing."""
    weights = [(name, _weight(name, row[name], where)) for name in ("weight", *SWITCHES) if row.get(name) is not None]
    if row.get("train_detail") is not None:
        weights.append(("train_detail", _detail(row["train_detail"], where)))
    if len({weight for _, weight in weights}) > 1:
        names = " and ".join(f"`{name}`" for name, _ in weights)
        raise UserError(f"{names}disagree about training", where=where, expected="one of them")
    return weights[0][1] if weights else None


def _weight(name: str, value: Any, where: str | None) -> float:
    if isinstance(value, bool):
        return float(value)
    if name != "weight" and value in (0, 1):
        return float(value)
    number = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
    if name != "weight" or not number:
        shown = json_kind(value) if not isinstance(value, (int, float)) else f"{value:g}"
        expected = "a number from 0 on" if name == "weight" else "true or false"
        raise UserError(f"`{name}` is {shown}", where=where, expected=expected)
    return float(value)


def _detail(value: Any, where: str | None) -> float:
    """axolotl's stretches of a turn, where all are trained or none is."""
    flags = [part.get("train") for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []
    if not flags or len(set(flags)) != 1 or not isinstance(flags[0], bool):
        raise UserError("`train_detail` trains parts of a turn only", where=where,
                        expected="whole turns: `train` true or false")  # fmt: skip
    return float(flags[0])


def _weighted(row: Row, where: str) -> Row:
    weight = weight_of(row, where)
    if weight is None:
        return row
    row = {key: value for key, value in row.items() if key not in ("weight", "train_detail", *SWITCHES)}
    return row if weight == 1 or row["role"] != "assistant" else {**row, "weight": weight}
