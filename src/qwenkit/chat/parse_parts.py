"""What an answer consists of while it is parsed, and the message that the parts add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenkit.chat.parse import ParsedMessage, read_arguments


@dataclass(frozen=True)
class Text:
    """More of the content."""

    text: str


@dataclass(frozen=True)
class ThoughtText:
    """More of the thoughts."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call begins; the indices of an answer's calls grow."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of a call's arguments, as the model writes them."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A call is complete, and will be none only if the rest of its block cannot be read."""

    index: int


@dataclass(frozen=True)
class CallsRevoked:
    """These calls are none: what was written follows as text or as other calls."""

    indices: tuple[int, ...]


Part = Text | ThoughtText | CallBegin | CallArguments | CallEnd | CallsRevoked


def collect(parts: Iterable[Part]) -> ParsedMessage:
    """Return the message that parts add up to, in the form of `parse_text`."""
    content, thoughts = "", ""
    calls: dict[int, list[str]] = {}
    for part in parts:
        if isinstance(part, Text):
            content += part.text
        elif isinstance(part, ThoughtText):
            thoughts += part.text
        elif isinstance(part, CallBegin):
            calls[part.index] = [part.name, ""]
        elif isinstance(part, CallArguments):
            calls[part.index][1] += part.text
        elif isinstance(part, CallsRevoked):
            for index in part.indices:
                del calls[index]
    message: ParsedMessage = {"role": "assistant", "content": content}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": read_arguments(arguments)}}
            for name, arguments in calls.values()
        ]
    return message
