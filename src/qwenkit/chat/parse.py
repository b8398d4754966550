"""What a model wrote, as a message: content, thoughts, tool calls. The inverse of rendering an assistant turn.

Three formats of Qwen's are read: `<tool_call>` JSON (Hermes), `<think>` blocks (Qwen3) and, where tools were
offered, the ReAct lines of the first Qwen (`Action:`, `Action Input:`, `Final Answer:`). `parse_text` never raises:
whatever cannot be read stays in the content. A call of a tool that was not offered stays there too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

_CALL = re.compile(r"\n?<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_THINK = re.compile(r"\A\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)


def parse_text(text: str, tools: Sequence[Any] | None = None) -> dict[str, Any]:
    """A message dict with role, content and, where there are any, tool_calls and reasoning_content."""
    message: dict[str, Any] = {"role": "assistant"}
    offered = None if tools is None else {_name(tool) for tool in tools}
    thought = _THINK.match(text)
    if thought:
        message["reasoning_content"] = thought[1].strip("\n")
        text = text[thought.end() :]
    text, calls = _hermes(text, offered)
    if not calls and tools:
        text, calls = _react(text, offered)
    message["content"] = text
    if calls:
        message["tool_calls"] = calls
    return message


def _name(tool: Any) -> Any:
    """The name of a tool, given as a function or bare."""
    return _table(_table(tool).get("function", tool)).get("name")


def _table(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one where something else stands."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _hermes(text: str, offered: set[Any] | None) -> tuple[str, list[dict[str, Any]]]:
    """Cut out every `<tool_call>` block that is a JSON object with a known name."""
    calls: list[dict[str, Any]] = []

    def take(found: re.Match[str]) -> str:
        try:
            body = _table(json.loads(found[1]))
        except (ValueError, RecursionError):
            return found[0]
        name = body.get("name")
        if not isinstance(name, str) or (offered is not None and name not in offered):
            return found[0]
        calls.append(_call(name, body.get("arguments", {})))
        return ""

    return _CALL.sub(take, text), calls


def _react(text: str, offered: set[Any] | None) -> tuple[str, list[dict[str, Any]]]:
    """The authors' own reading of ReAct lines: the last action, or the last final answer."""
    action, given = text.rfind("\nAction:"), text.rfind("\nAction Input:")
    if 0 <= action < given:
        observed = text.find("\nObservation:", given)
        name = text[action + len("\nAction:") : given].strip()
        arguments = text[given + len("\nAction Input:") : observed if observed >= 0 else None].strip()
        if name and (offered is None or name in offered):
            said = text[text.find("Thought: ") + len("Thought: ") : action] if "Thought: " in text else text[:action]
            return said.strip(), [_call(name, _loads(arguments))]
    final = text.rfind("\nFinal Answer: ")
    return (text[final + len("\nFinal Answer: ") :] if final >= 0 else text), []


def _loads(arguments: str) -> Any:
    """Arguments as an object where they are one, else as the text that the model wrote."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
