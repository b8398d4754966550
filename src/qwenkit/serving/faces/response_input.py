"""The input of a response as messages in the form of chat completions: text, pictures, thoughts, calls, outputs.

    messages, places, ignored = read_input(instructions, input)

Ids and states of items are taken and say nothing; the call that an output answers is looked for by its `call_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenkit.serving.fields import ANY, LIST, TEXT, TEXT_OR_LIST, Kind, Table, Values, one_of, refused, wrong

_SAME: dict[str, Kind] = {"type": TEXT, "id": TEXT, "status": TEXT}
"""Fields that every item of an earlier response has, and that say nothing about the conversation."""
_MORE = ("phase", "caller", "namespace", "async", "encrypted_content")
ITEMS = {
    "message": Table(
        {**_SAME, "role": one_of("user", "assistant", "system", "developer"), "content": TEXT_OR_LIST},
        ("role", "content"), _MORE,
    ),
    "function_call": Table(
        {**_SAME, "call_id": TEXT, "name": TEXT, "arguments": TEXT}, ("call_id", "name", "arguments"), _MORE
    ),
    "function_call_output": Table(
        {**_SAME, "call_id": TEXT, "output": TEXT_OR_LIST}, ("call_id", "output"), (*_MORE, "name")
    ),
    "reasoning": Table({**_SAME, "content": LIST, "summary": LIST}, (), _MORE),
}  # fmt: skip
"""The items of an input, by their type."""
_TEXT = Table(
    {"type": TEXT, "text": TEXT, "annotations": ANY, "logprobs": ANY}, ("text",), ("prompt_cache_breakpoint",)
)
PARTS = {
    **dict.fromkeys(("input_text", "output_text", "text"), _TEXT),
    "refusal": Table({"type": TEXT, "refusal": TEXT}, ("refusal",)),
    "input_image": Table(
        {"type": TEXT, "image_url": TEXT}, ("image_url",), ("detail", "prompt_cache_breakpoint"),
        {"file_id": "send the image as a data: URL"},
    ),
}  # fmt: skip
"""The parts of content, by their type."""
THOUGHT = Table({"type": TEXT, "text": TEXT}, ("text",))


def read_input(instructions: str | None, given: Any) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return instructions and input as messages, their places in the body, and fields without effect.

    Raises `Refused` for items that are malformed, or not known here."""
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    places = ["instructions"][: len(messages)]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}], [*places, "input"], []
    reader = _Reader()
    for number, item in enumerate(given):
        messages.append(reader.message(item, f"input[{number}]"))
        places.append(f"input[{number}]")
    return messages, places, sorted(reader.ignored)


class _Reader:
    def __init__(self) -> None:
        self.called: set[str] = set()
        self.ignored: set[str] = set()

    def message(self, item: Any, place: str) -> dict[str, Any]:
        """Return an item of the input as a message."""
        if not isinstance(item, Mapping):
            raise wrong(place, item, "an item: a message, a function call, its output, or reasoning")
        kind = item.get("type", "message")
        if not isinstance(kind, str) or kind not in ITEMS:
            raise wrong(f"{place}.type", kind, ", ".join(ITEMS))
        values = ITEMS[kind].read(item, place)
        self.ignored.update(f"input[].{name}" for name in values.ignored)
        if kind == "message":
            return {"role": values["role"], "content": self._content(values["content"], f"{place}.content")}
        if kind == "function_call":
            self.called.add(values["call_id"])
            function = {"name": values["name"], "arguments": values["arguments"]}
            call = {"id": values["call_id"], "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        if kind == "reasoning":
            return {"role": "assistant", "content": "", "reasoning_content": self._thought(values)}
        return self._output(values)

    def _output(self, values: Values) -> dict[str, Any]:
        id = values["call_id"]
        if id not in self.called:
            what = f"no function call before has the call_id {id[:100]!r}"
            raise refused(values.place("call_id"), what, "the call_id of a function_call item")
        return {"role": "tool", "tool_call_id": id, "content": self._content(values["output"], values.place("output"))}

    def _content(self, content: str | list[Any], place: str) -> Any:
        """Return content in the form of chat completions."""
        if isinstance(content, str):
            return content
        return [self._part(part, f"{place}[{number}]") for number, part in enumerate(content)]

    def _part(self, part: Any, place: str) -> dict[str, Any]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in PARTS:
            raise wrong(f"{place}.type" if isinstance(part, Mapping) else place, kind, ", ".join(PARTS))
        values = PARTS[kind].read(part, place)
        self.ignored.update(f"input[].content[].{name}" for name in values.ignored)
        if kind == "input_image":
            return {"type": "image_url", "image_url": {"url": values["image_url"]}}
        return {"type": "text", "text": values["refusal" if kind == "refusal" else "text"]}

    def _thought(self, values: Values) -> str:
        """Return the thoughts of a reasoning item: its content, or else its summary."""
        key = "content" if values.get("content") else "summary"
        parts = [THOUGHT.read(part, f"{values.place(key)}[{i}]") for i, part in enumerate(values.get(key, []))]
        return "\n\n".join(part["text"] for part in parts)
