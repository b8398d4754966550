"""Our own ChatML: a conversation as pieces of text, by chat style (report appendix A.1).

Templates that come with other folders are run by `template.py`.

A piece is a stretch of text that belongs to one part of one turn:

    start "<|im_start|>" | header "user\\n" | content "..." | end "<|im_end|>" | newline "\\n"

`qwen1` and `chatml` have the same pieces and differ in how they are encoded (see `render`). `qwen3` adds thinking:
an answer after the last question is preceded by its `<think>` block, earlier ones lose theirs and are not trained then.
Tool calls are Hermes-style JSON between `<tool_call>` marks, the same in all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..tokenizer import IM_END, IM_START
from .messages import Message, Tool, calls, text_of, to_json, trained

STYLES = ("qwen1", "chatml", "qwen3")

TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class Piece(NamedTuple):
    """A stretch of text. In markup, names of special tokens are special tokens; in content they are text. `weight` is
    the loss weight of its whole turn."""

    text: str
    role: str
    part: str
    markup: bool = True
    weight: float = 1.0


def pieces(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    style: str,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> list[Piece]:
    """Return all pieces of a conversation in order."""
    out: list[Piece] = []
    rest = list(enumerate(messages))
    if tools:
        system = text_of(messages[0]) if messages[0]["role"] == "system" else None
        out += _turn("system", _system_with_tools(system, tools))
        rest = rest if system is None else rest[1:]
    question, lost = _question(messages), untrained(messages, style)
    for index, message in rest:
        after = messages[index + 1]["role"] if index + 1 < len(messages) else None
        before = messages[index - 1]["role"] if index else None
        if message["role"] == "tool":
            out += _tool_turn(message, first=before != "tool", last=after != "tool")
        elif message["role"] == "assistant":
            turn = _turn("assistant", _answer(message, style == "qwen3", index > question, after is None))
            weight = 0.0 if index in lost else trained(message)
            out += [piece._replace(weight=weight) for piece in turn]
        else:
            out += _turn(message["role"], [Piece(text_of(message), message["role"], "content", False)])
    if continue_final_message:
        out = out[:-2]
    if add_generation_prompt:
        out += [Piece(IM_START, "assistant", "start"), Piece("assistant\n", "assistant", "header")]
    return out


def untrained(messages: Sequence[Message], style: str) -> tuple[int, ...]:
    """Return the messages whose answers appear without their thoughts, and so differ from what the model wrote."""
    if style != "qwen3":
        return ()
    before = enumerate(messages[: _question(messages) + 1])
    return tuple(i for i, m in before if m["role"] == "assistant" and _split_thought(m, text_of(m))[0].strip())


def _question(messages: Sequence[Message]) -> int:
    """Return the index of the last question, or -1."""
    return max((i for i, m in enumerate(messages) if _asks(m)), default=-1)


def _asks(message: Message) -> bool:
    """Return whether a turn is a question of the user: tool results may be user turns as well."""
    content = text_of(message) if message["role"] == "user" else None
    return content is not None and not (content.startswith("<tool_response>") and content.endswith("</tool_response>"))


def _turn(role: str, body: Iterable[Piece]) -> list[Piece]:
    return [Piece(IM_START, role, "start"), Piece(f"{role}\n", role, "header"), *body, *_end(role)]


def _end(role: str) -> list[Piece]:
    return [Piece(IM_END, role, "end"), Piece("\n", role, "newline")]


def _system_with_tools(system: str | None, tools: Sequence[Tool]) -> list[Piece]:
    """Return the system turn that offers tools, after the user's own system text."""
    own = [] if system is None else [Piece(system, "system", "content", False), Piece("\n\n", "system", "content")]
    signatures = "".join("\n" + to_json(tool) for tool in tools)
    return [
        *own,
        Piece(TOOLS_HEAD, "system", "content"),
        Piece(signatures, "tools", "content", False),
        Piece(TOOLS_TAIL, "system", "content"),
    ]


def _tool_turn(message: Message, first: bool, last: bool) -> Iterator[Piece]:
    """Yield the pieces of tool results: neighbours share one user turn."""
    if first:
        yield Piece(IM_START, "tool", "start")
        yield Piece("user", "tool", "header")
    yield Piece("\n<tool_response>\n", "tool", "header")
    yield Piece(text_of(message), "tool", "content", False)
    yield Piece("\n</tool_response>", "tool", "header")
    if last:
        yield from _end("tool")


def _answer(message: Message, thinks: bool, current: bool, last: bool) -> Iterator[Piece]:
    """Yield the pieces of an assistant's turn: thoughts (qwen3), text, tool calls. All of it is content."""
    content = text_of(message)
    if thinks:
        thought, content = _split_thought(message, content)
        if current and (last or thought):
            yield Piece("<think>\n", "assistant", "content")
            yield Piece(thought.strip("\n"), "assistant", "content", False)
            yield Piece("\n</think>\n\n", "assistant", "content")
            content = content.lstrip("\n")
    yield Piece(content, "assistant", "content", False)
    for number, (name, arguments) in enumerate(calls(message)):
        gap = "\n" if content or number else ""
        yield Piece(f"{gap}<tool_call>\n", "assistant", "content")
        body = f'{{"name": {to_json(name)}, "arguments": {arguments}}}'
        yield Piece(body, "assistant", "content", False)
        yield Piece("\n</tool_call>", "assistant", "content")


def thought_in(message: Message) -> str:
    """Return the thoughts inside a message's content, or ""."""
    return _split_thought({"role": "assistant"}, text_of(message))[0].strip()


def _split_thought(message: Message, content: str) -> tuple[str, str]:
    """Return thoughts and text: the thoughts from their own field, or from a `<think>` block at the head of the
    content."""
    if isinstance(message.get("reasoning_content"), str):
        return message["reasoning_content"], content
    if "</think>" not in content:
        return "", content
    thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thought, content.split("</think>")[-1].lstrip("\n")
