"""Which codec answers at which path: the paths of the APIs that generate."""

from __future__ import annotations

from typing import Any

from qwenkit.serving.faces import chat_completions, completions, messages, responses

CODECS: dict[str, Any] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/messages": messages,
}
