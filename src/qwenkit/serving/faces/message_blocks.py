"""Anthropic's messages as those of chat completions: text, pictures, thoughts, tool use and tool results.

    messages, places, ignored = read_messages(system, messages)

The results of tools at the head of a user's turn become turns of tools; what else the turn has follows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qwenkit.serving.fields import ANY, BOOLEAN, OBJECT, TEXT, TEXT_OR_LIST, Kind, Table, refused, wrong
from qwenkit.serving.json_body import kind_of

_MORE = ("cache_control", "citations", "toolset_name", "caller", "transformations")
_BLOCKS: dict[str, dict[str, tuple[Kind, bool]]] = {
    "text": {"text": (TEXT, True)},
    "image": {"source": (OBJECT, True)},
    "thinking": {"thinking": (TEXT, True), "signature": (TEXT, False)},
    "tool_use": {"id": (TEXT, True), "name": (TEXT, True), "input": (OBJECT, True)},
    "tool_result": {"tool_use_id": (TEXT, True), "content": (TEXT_OR_LIST, False), "is_error": (BOOLEAN, False)},
}
BLOCKS = {
    name: Table({"type": TEXT, **{key: kind for key, (kind, _) in fields.items()}},
                [key for key, (_, needed) in fields.items() if needed], _MORE)
    for name, fields in _BLOCKS.items()
}  # fmt: skip
"""The content blocks that are read, by their type."""
SOURCE = Table({"type": TEXT, "media_type": TEXT, "data": ANY, "url": TEXT}, required=("type",))
_IN = {"user": ("text", "image", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}
"""The blocks that a turn may have."""


def read_messages(system: Any, given: list[Any]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return messages, their places in the body, and fields without effect; raises `Refused` for malformed ones."""
    reader = _Reader()
    if system is not None:
        reader.add({"role": "system", "content": reader.content(system, "system", "system")}, "system")
    for number, message in enumerate(given):
        place = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise wrong(place, message, '{"role": ..., "content": ...}')
        role = message.get("role")
        if not isinstance(role, str) or role not in _IN:
            raise wrong(f"{place}.role", role, "user, assistant")
        unknown = next((key for key in message if key not in ("role", "content")), None)
        if unknown is not None:
            raise refused(f"{place}.{unknown[:100]}", "unknown field", "role, content", "unknown_field")
        for turn in reader.turns(role, message.get("content"), place):
            reader.add(turn, place)
    return reader.messages, reader.places, sorted(reader.ignored)


class _Reader:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []
        self.ignored: set[str] = set()
        self.called: set[str] = set()

    def add(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def turns(self, role: str, content: Any, place: str) -> Iterator[dict[str, Any]]:
        """Yield the turns of one message."""
        if isinstance(content, str):
            yield {"role": role, "content": content}
            return
        blocks = self._blocks(content, role, f"{place}.content")
        if role == "assistant":
            yield self._answer(blocks)
            return
        rest = []
        for block, at in blocks:
            if block["type"] == "tool_result":
                yield self._result(block, at)
            else:
                rest.append((block, at))
        if rest or not blocks:
            yield {"role": role, "content": [self._part(block, at) for block, at in rest]}

    def content(self, content: Any, role: str, place: str) -> Any:
        """Return a text, or text parts."""
        if isinstance(content, str):
            return content
        return [self._part(block, at) for block, at in self._blocks(content, role, place)]

    def _blocks(self, content: Any, role: str, place: str) -> list[tuple[Mapping[str, Any], str]]:
        """Return checked blocks with their places."""
        if not isinstance(content, list):
            raise refused(place, f"is {kind_of(content)}", "a string, or a list of content blocks")
        blocks: list[tuple[Mapping[str, Any], str]] = []
        for number, block in enumerate(content):
            at = f"{place}[{number}]"
            kind = block.get("type") if isinstance(block, Mapping) else None
            if not isinstance(kind, str) or kind not in _IN[role]:
                raise wrong(f"{at}.type" if isinstance(block, Mapping) else at, kind, ", ".join(_IN[role]))
            values = BLOCKS[kind].read(block, at)
            self.ignored.update(f"messages[].content[].{name}" for name in values.ignored)
            blocks.append((values, at))
        return blocks

    def _answer(self, blocks: list[tuple[Mapping[str, Any], str]]) -> dict[str, Any]:
        texts = [block["text"] for block, _ in blocks if block["type"] == "text"]
        thoughts = [block["thinking"] for block, _ in blocks if block["type"] == "thinking"]
        calls = [block for block, _ in blocks if block["type"] == "tool_use"]
        self.called.update(call["id"] for call in calls)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
        if calls:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["input"]}}
                for c in calls
            ]
        return message

    def _result(self, block: Mapping[str, Any], at: str) -> dict[str, Any]:
        id = block["tool_use_id"]
        if id not in self.called:
            raise refused(f"{at}.tool_use_id", f"no tool_use before has the id {id[:100]!r}", "the id of a tool_use")
        if block.get("is_error"):
            self.ignored.add("messages[].content[].is_error")
        content = self.content(block.get("content", ""), "user", f"{at}.content")
        return {"role": "tool", "tool_call_id": id, "content": content}

    def _part(self, block: Mapping[str, Any], at: str) -> dict[str, Any]:
        if block["type"] == "text":
            return {"type": "text", "text": block["text"]}
        if block["type"] != "image":
            raise wrong(f"{at}.type", block["type"], "text, image")
        source = SOURCE.read(block["source"], f"{at}.source")
        if source["type"] == "url" and "url" in source:
            return {"type": "image_url", "image_url": {"url": source["url"]}}
        if source["type"] == "base64" and isinstance(source.get("data"), str) and "media_type" in source:
            return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}
        raise wrong(f"{at}.source", block["source"], '{"type": "base64", "media_type": ..., "data": ...}, or a url')
