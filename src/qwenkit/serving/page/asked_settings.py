"""What the page's settings ask of a model: from the values of its fields to the fields of a request.

    settings = read_settings({"models": ["chat"], "own": False, "temperature": 0.7, "seed": "7", ...}, "en")
    settings.body("chat", messages)          # for `/v1/chat/completions`

The values come from a browser, so none is trusted: what is not of its kind is refused in words here, and what is out of
its range by the server, as for any client.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from qwenkit.errors import UserError
from qwenkit.serving.page.texts import Language, text

MOST_MODELS = 3
"""Side by side."""
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
_INTEGERS = ("top_k", "max_tokens", "seed")


@dataclass(frozen=True)
class PageSettings:
    """How the page asks."""

    models: tuple[str, ...]
    system: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the request besides model and messages."""

    def body(self, model: str, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the body of a request to one model."""
        return {
            "model": model, "messages": list(messages), "stream": True, "user": "page",
            **self.fields,
        }  # fmt: skip


def read_settings(values: Mapping[str, Any], language: Language) -> PageSettings:
    """Return the settings; raises a `UserError` for a value that is not of its kind."""
    given = values.get("models")
    models = tuple(str(name) for name in cast("list[Any]", given)) if isinstance(given, list) else ()
    if not models:
        raise UserError(text("no_model", language))
    names = [*(() if values.get("own") else _SAMPLING), "max_tokens", "seed"]
    numbers = {name: read_number(name, values.get(name), language) for name in names}
    fields: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    if fields.get("top_k") == 0:
        del fields["top_k"]
    if tools := read_tools(values.get("tools"), language):
        fields["tools"] = tools
    if values.get("thinking") in ("on", "off"):
        fields["enable_thinking"] = values["thinking"] == "on"
    return PageSettings(models[:MOST_MODELS], str(values.get("system") or "").strip(), fields)


def read_number(name: str, value: Any, language: Language) -> float | int | None:
    """Return a number, None for an empty field; raises a `UserError` for what is not one."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or (name in _INTEGERS and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(text("bad_number", language, name=text(name, language), value=str(value)[:40])) from None
    return int(number) if name in _INTEGERS else number


def read_tools(value: Any, language: Language) -> list[Any]:
    """Return the tools of a field of JSON; a bare function is one, too. Raises a `UserError` for what is not a list."""
    if not str(value or "").strip():
        return []
    try:
        tools: Any = json.loads(str(value))
    except (ValueError, RecursionError):
        raise UserError(text("bad_tools", language)) from None
    if not isinstance(tools, list):
        raise UserError(text("bad_tools", language))
    return [_wrapped(tool) for tool in cast("list[Any]", tools)]


def _wrapped(tool: Any) -> Any:
    """Return a tool in the form of chat completions."""
    is_bare = isinstance(tool, dict) and "function" not in tool and "name" in tool
    return {"type": "function", "function": tool} if is_bare else tool
