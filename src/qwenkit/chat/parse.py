"""Parse what a model wrote into a message: content, thoughts, tool calls. The inverse of rendering an assistant
turn.

Three formats of Qwen's are read: `<tool_call>` JSON (Hermes), `<think>` blocks (Qwen3) and, where tools were offered,
the ReAct lines of the first Qwen (`Action:`, `Action Input:`, `Final Answer:`). `parse_text` never raises: whatever
cannot be read stays in the content. So does a call of a tool that was not offered, and one without arguments that can
be read: a call is executed, so nothing is added to it that the model did not write.

A call ends where its JSON ends, so an argument may hold `</tool_call>`; the closing tag may be missing at the end of a
text. Text inside a thought is not a call, also where the thought was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, cast

from qwenkit.chat.messages import Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_BLANK = " \t\r\n"


class ParsedMessage(TypedDict, total=False):
    """An answer as a message; it has `tool_calls` and `reasoning_content` (the thoughts) where the answer has them."""

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[dict[str, Any]]


def parse_text(
    text: str, tools: Sequence[Tool] | None = None, *, opened: bool | None = None, react: bool | None = None
) -> ParsedMessage:
    """Return a message with role, content and, where there are any, tool_calls and reasoning_content.

    `opened` says whether the prompt ends inside a thought; None: not known, a `</think>` alone then ends one. `react`
    says whether ReAct's lines are calls; None: where tools were offered."""
    message: ParsedMessage = {"role": "assistant"}
    offered = offered_names(tools)
    thought, text = _thought(text, offered, opened)
    if thought is not None:
        message["reasoning_content"] = thought
    text, calls = _hermes(text, offered)
    if not calls and (tools if react is None else react):
        text, calls = read_react(text, offered)
    message["content"] = text
    if calls:
        message["tool_calls"] = calls
    return message


def offered_names(tools: Sequence[Tool] | None) -> set[Any] | None:
    """Return the names of tools; None where any tool may be called."""
    return None if tools is None else {_name(tool) for tool in tools}


def _thought(text: str, offered: set[Any] | None, opened: bool | None) -> tuple[str | None, str]:
    """Return the thought at the head of a text, and the rest. It may begin in the prompt, or have no end."""
    tagged = text.lstrip().startswith("<think>")
    body = text.lstrip().removeprefix("<think>") if tagged else text
    begun, end = tagged or opened is True, body.find("</think>")
    if begun and end < 0:
        return body.strip("\n"), ""
    if not begun and opened is False:
        return None, text
    if end < 0 or (not begun and any(start < end < stop for start, stop, _ in _blocks(text, offered))):
        return None, text
    return body[:end].strip("\n"), body[end + len("</think>") :].lstrip()


def _name(tool: Any) -> Any:
    """Return the name of a tool, given as a function or bare."""
    return _table(_table(tool).get("function", tool)).get("name")


def _table(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one for another value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _hermes(text: str, offered: set[Any] | None) -> tuple[str, list[dict[str, Any]]]:
    """Cut out every `<tool_call>` block that holds calls which can be read."""
    kept: list[str] = []
    calls: list[dict[str, Any]] = []
    done = 0
    for start, stop, in_block in _blocks(text, offered):
        kept.append(text[done:start].removesuffix("\n"))
        calls += in_block
        done = stop
    return "".join([*kept, text[done:]]), calls


def _blocks(text: str, offered: set[Any] | None) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    """Yield where blocks of calls begin and end, and their calls. A block that cannot be parsed completely is left
    out."""
    start = text.find(OPEN)
    while start >= 0:
        stop, calls = _block(text, start + len(OPEN), offered)
        if calls:
            yield start, stop, calls
        start = text.find(OPEN, stop if calls else start + len(OPEN))


def _block(text: str, at: int, offered: set[Any] | None) -> tuple[int, list[dict[str, Any]]]:
    """Return the calls from here on, and where their block ends: at its closing tag, another block, or the end of the
    text."""
    calls: list[dict[str, Any]] = []
    while True:
        at = past_blank(text, at)
        if text.startswith(CLOSE, at):
            return at + len(CLOSE), calls
        if calls and (at == len(text) or text.startswith(OPEN, at)):
            return at, calls
        try:
            value, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return at, []
        call = read_call(value, offered)
        if call is None:
            return at, []
        calls.append(call)


def past_blank(text: str, at: int) -> int:
    """Return where white space ends that begins here."""
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_no_number)
"""Reads the JSON of calls."""


def read_call(value: Any, offered: set[Any] | None) -> dict[str, Any] | None:
    """Return a call with a known name and arguments that are an object, or its JSON text; models also write
    `parameters`, the word of tool descriptions."""
    body = _table(_table(value).get("function", value))
    name, arguments = body.get("name"), body.get("arguments", body.get("parameters"))
    if isinstance(arguments, str):
        arguments = read_arguments(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict) or (offered is not None and name not in offered):
        return None
    return _call(name, arguments)


def read_react(text: str, offered: set[Any] | None) -> tuple[str, list[dict[str, Any]]]:
    """Return the last action, or the last final answer, of ReAct lines, as the official code reads them."""
    action, given = text.rfind("\nAction:"), text.rfind("\nAction Input:")
    if 0 <= action < given:
        observed = text.find("\nObservation:", given)
        name = text[action + len("\nAction:") : given].strip()
        arguments = text[given + len("\nAction Input:") : observed if observed >= 0 else None].strip()
        if name and (offered is None or name in offered):
            content = text[text.find("Thought: ") + len("Thought: ") : action] if "Thought: " in text else text[:action]
            return content.strip(), [_call(name, read_arguments(arguments))]
    final = text.rfind("\nFinal Answer: ")
    if final < 0 and text.endswith("\nFinal Answer:"):
        return "", []
    return (text[final + len("\nFinal Answer: ") :] if final >= 0 else text), []


def read_arguments(arguments: str) -> Any:
    """Return arguments as an object where they are one, else as the text that the model wrote."""
    try:
        return DECODER.decode(arguments)
    except (ValueError, RecursionError):
        return arguments
