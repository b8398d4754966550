"""Conversations that distinguish chat styles: system turns, edges of whitespace, several turns, thoughts, tools."""

from __future__ import annotations

from typing import Any, NamedTuple

from .messages import Message


class Probe(NamedTuple):
    """A conversation to render."""

    messages: list[Message]
    add_generation_prompt: bool = False
    tools: list[Any] | None = None


def _talk(*turns: str, system: str | None = None) -> list[Message]:
    """Return alternating turns of user and assistant."""
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city 城市天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
_CALLED: list[Message] = [
    {"role": "user", "content": "北京天气怎么样？"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": '{"sky": "晴"}'},
]
_CALLED_TWICE: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather, twice?"},
    {"role": "assistant", "content": "Looking.", "tool_calls": [_CALL, _CALL]},
    {"role": "tool", "content": "sunny"},
    {"role": "tool", "content": "rain"},
]

PROBES: tuple[Probe, ...] = (
    Probe(_talk("Hello!"), True),
    Probe(_talk("你好"), True),
    Probe(_talk("Hello!", system="You are a helpful assistant."), True),
    Probe(_talk("你是谁？", system="你是一名助手。"), True),
    Probe(_talk("Hi", "Hello! How can I help?")),
    Probe(_talk("一加一？", "等于二。", "为什么？"), True),
    Probe(_talk("a", "b", "c", "d", system="s")),
    Probe(_talk("\nstarts with a newline"), True),
    Probe(_talk("\n\n  two newlines, two spaces", "\n\nanswer")),
    Probe(_talk("  spaces around  ", "  answer  ")),
    Probe(_talk("ends with newlines\n\n"), True),
    Probe(_talk("", "empty question")),
    Probe(_talk("def f(x):\n    return x\n", "```python\nprint(1)\n```")),
    Probe(_talk("12345 + 67890 = ?", "80235", system="")),
    Probe(_talk("😀 emoji 👨‍👩‍👧", "ok 👍")),
    Probe(_talk("line\r\nline\ttab", "你好，world！")),
    Probe(_talk("Weather in Paris?"), True, [_TOOL]),
    Probe(_talk("Weather in Paris?", system="Be brief."), True, [_TOOL, _TOOL]),
    Probe(_talk("a", "<think>\nhm\n</think>\n\nb", "c"), True),
    Probe(_talk("a", "<think>\nhm\n</think>\n\nb", "c", "<think>\nho\n</think>\n\nd")),
    Probe([*_talk("a"), {"role": "assistant", "content": "b", "reasoning_content": "hm"}, *_talk("c")], True),
    Probe([*_talk("a"), {"role": "assistant", "content": "b", "reasoning_content": "hm"}]),
    Probe(_CALLED, True, [_TOOL]),
    Probe(_CALLED_TWICE, True, [_TOOL]),
)
