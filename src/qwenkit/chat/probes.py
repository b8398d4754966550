"""Forty conversations that distinguish chat styles: system turns, edges of whitespace, several turns, thoughts,
tools."""

from __future__ import annotations

from typing import Any, NamedTuple

from qwenkit.chat.messages import Message


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

_LOOKED_UP: list[Message] = [
    *_CALLED,
    {"role": "assistant", "content": "晴天。"},
    {"role": "user", "content": "And tomorrow?"},
]
_NESTED = {"name": "weather", "arguments": {"city": "a\nb", "days": [1, 2.5, None, True], "at": {"time": "早上 😀"}}}


def _thinking(*thoughts: str, content: str = "") -> list[Message]:
    """Return a question that is answered by calls with thoughts, each with its result, and at last by a text."""
    asked = _talk("Weather in Paris, then in Rome?")
    for thought in thoughts[:-1]:
        call: Message = {"role": "assistant", "content": content, "reasoning_content": thought, "tool_calls": [_CALL]}
        asked += [call, {"role": "tool", "content": "sunny"}]
    return [*asked, {"role": "assistant", "content": "Both sunny.", "reasoning_content": thoughts[-1]}]


def _calls_after(content: str, *made: object) -> list[Message]:
    """Return a question, an answer that calls tools after some text, and a result."""
    called: Message = {"role": "assistant", "content": content, "tool_calls": list(made or (_CALL,))}
    return [*_talk("Weather?"), called, {"role": "tool", "content": "\nsunny\n"}]


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
    Probe(_talk("a", "\n\nb\n", "c", "\nd"), False),
    Probe(_talk("a", "b", system="\nBe brief.\n"), False),
    Probe(_talk("a", system=""), True, [_TOOL]),
    Probe(_LOOKED_UP, True, [_TOOL]),
    Probe([*_LOOKED_UP, *_talk("", "雨。")[1:]], False, [_TOOL]),
    Probe([*_CALLED_TWICE, {"role": "assistant", "content": "Sun, then rain."}], False, [_TOOL]),
    Probe(_calls_after("Looking.\n"), True, [_TOOL]),
    Probe(_calls_after("\n\nLooking.", _NESTED), True, [_TOOL]),
    Probe(_calls_after("<think>\nhm\n</think>\n\n"), True, [_TOOL]),
    Probe(_calls_after("<think>\nhm\n</think>\n\nLooking.", _CALL, _NESTED), True, [_TOOL]),
    Probe(_thinking("which?", "done"), False, [_TOOL]),
    Probe(_thinking("which?", "and?\n", "\ndone", content="\n"), False, [_TOOL]),
    Probe([*_thinking("which?", "done"), *_talk("Thanks.")], True, [_TOOL]),
    Probe(_talk("a", "b", "<tool_response>c</tool_response>", "d"), False),
    Probe(_talk("a", "<think>\ncut off", "c", "</think>d"), False),
    Probe(_calls_after(""), False),
)
