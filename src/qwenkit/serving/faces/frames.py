"""Server-sent events as text, and what OpenAI's APIs have in common: usage and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwenkit.serving.refusals import Kind, Refusal
from qwenkit.serving.request import Usage

DONE = "data: [DONE]\n\n"
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Characters at which some clients split lines, although the format does not."""


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> str:
    """Return JSON on one line, Chinese characters as they are."""
    text = _ENCODER.encode(value)
    return text if text.isascii() else text.translate(_LINE_ENDS)


def frame(value: Mapping[str, Any], event: str | None = None) -> str:
    """Return one server-sent event."""
    return f"data: {dumps(value)}\n\n" if event is None else f"event: {event}\ndata: {dumps(value)}\n\n"


class TextFrame:
    """A server-sent event in which one text changes: the rest of it is written once, as there is one for each token."""

    MARK = "\x00\x01\x00"

    def __init__(self, frame: str) -> None:
        """Take an event whose text is `MARK`, wherever that occurs."""
        self._parts = frame.split(dumps(self.MARK))

    def filled(self, text: str) -> str:
        """Return the event with this text."""
        return dumps(text).join(self._parts)


def usage(used: Usage) -> dict[str, Any]:
    """Return how many tokens were used, in the form of chat completions and completions."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }


_TYPES: dict[Kind, tuple[str, str]] = {
    "invalid": ("invalid_request_error", "invalid_value"),
    "unauthenticated": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", "forbidden"),
    "not_found": ("invalid_request_error", "not_found"),
    "method": ("invalid_request_error", "method_not_allowed"),
    "conflict": ("invalid_request_error", "conflict"),
    "too_large": ("invalid_request_error", "too_large"),
    "media_type": ("invalid_request_error", "unsupported_media_type"),
    "busy": ("rate_limit_error", "queue_full"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "slow": ("invalid_request_error", "body_timeout"),
    "timeout": ("server_error", "timeout"),
    "unavailable": ("server_error", "unavailable"),
    "internal": ("server_error", "internal_error"),
}


def openai_error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal in OpenAI's form."""
    kind, code = _TYPES[refusal.kind]
    body = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code or code}
    return refusal.status, {"error": body}
