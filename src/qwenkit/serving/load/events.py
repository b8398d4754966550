"""Server-sent events from pieces of bytes, however they are cut, and what a chunk of OpenAI's streams says.

    reader = EventReader()
    for data in reader.push(piece):              # the data of each event that is complete
        chunk = read_chunk(data)

What a server sends may be anything: nothing here raises but `BrokenStream`.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

MOST_BYTES = 4_000_000
DONE = b"[DONE]"
"""The data of the event that ends a stream."""
_GROWING = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call")


class BrokenStream(Exception):
    """What came is not a stream of this API. `kind` is a few words, the message what it looked like."""

    def __init__(self, kind: str, detail: str = "") -> None:
        """Keep what is wrong."""
        super().__init__(detail)
        self.kind = kind


class EventReader:
    """Cuts bytes into events. A line ends with LF, CR LF or CR; an event ends with an empty line."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        """Start empty; an event of more than `most` bytes is refused."""
        self._most, self._rest, self._data = most, b"", list[bytes]()

    def push(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that are complete now; raises `BrokenStream` for one that is too long."""
        text = self._rest + piece
        held_back = text.endswith(b"\r")  # LF may follow
        if b"\r" in text:
            text = text[: len(text) - held_back].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + b"\r" if held_back else rest
        complete = []
        for line in lines:
            if not line:
                if self._data:
                    complete.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        if len(self._rest) + sum(map(len, self._data)) > self._most:
            raise BrokenStream("an event is too long", f"more than {self._most} bytes")
        return complete


class Chunk(NamedTuple):
    """What one chunk of a stream says."""

    grows: bool
    """Whether it brings some of the answer: text, thoughts, or a call of a tool."""
    finish_reason: str | None
    prompt_tokens: int | None
    answer_tokens: int | None


def read_chunk(data: bytes) -> Chunk:
    """Return what the data of an event says; raises `BrokenStream` for what is not JSON, and for an error."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenStream("not JSON in the stream", _shown(data)) from None
    if not isinstance(value, dict):
        raise BrokenStream("not an object in the stream", _shown(data))
    if value.get("error"):
        raise BrokenStream("an error in the stream", message_of(value))
    grows, reason = False, None
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            grows = grows or _grows(choice)
            reason = choice["finish_reason"] if isinstance(choice.get("finish_reason"), str) else reason
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return Chunk(grows, reason, None, None)
    return Chunk(grows, reason, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _grows(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return any(delta.get(name) for name in _GROWING)
    return bool(choice.get("text"))


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def message_of(value: object) -> str:
    """Return what the body of an error says, whichever server wrote it."""
    error = value.get("error", value) if isinstance(value, dict) else value
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) else json.dumps(value)


def body_message(body: bytes) -> str:
    """Return what a body tells of an error: the message in it, or its beginning."""
    try:
        return message_of(json.loads(body))
    except (ValueError, RecursionError):
        return _shown(body)


def _shown(data: bytes) -> str:
    return data[:200].decode(errors="replace")
