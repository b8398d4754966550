"""How the page asks models: as any client does, through the front of the server, without a network.

    asked = Asked(app, body, key)
    async for chunk in asked.chunks(): ...   # the chunks of chat completions, as they come
    asked.leave()                            # from anywhere: closes the connection, and frees its place in the engine

    asked.figures                            # tokens and seconds, as the server itself counts them

So there is one limit, one queue and one log: the page can do nothing that its user's key cannot. `app` is the complete
application, its front included.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.visit import Visit

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
PATH = "/v1/chat/completions"
END_SECONDS = 30.0
"""How long a request may take to end after its connection was closed."""


class Asked:
    """One request for an answer."""

    def __init__(self, app: App, body: Mapping[str, Any], key: str | None) -> None:
        """Begin to ask, inside an event loop, for a stream; `key` is that of whoever uses the page."""
        self._body: bytes | None = json.dumps(body).encode()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._left = asyncio.Event()
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        headers += [] if key is None else [(b"authorization", b"Bearer " + key.encode("latin-1", "replace"))]
        self._scope: MutableMapping[str, Any] = {
            "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
            "headers": headers, "scheme": "http", "http_version": "1.1", "client": ("page", 0),
            "server": ("localhost", 0), "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        self._task = asyncio.ensure_future(app(self._scope, self._receive, self._send))
        self._task.add_done_callback(lambda task: self._messages.put_nowait(None))

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    @property
    def figures(self) -> dict[str, float]:
        """Return tokens of prompt and answer, and the seconds at which the first and the last of the answer came, where
        one has: measured at the engine, for what arrives here waits for its turn and comes in heaps."""
        visit: Visit | None = self._scope.get("state", {}).get("visit")
        if visit is None or visit.first_token_seconds is None or visit.last_token_seconds is None:
            return {}
        return {"prompt_tokens": visit.prompt_tokens, "answer_tokens": visit.generated_tokens,
                "first_s": visit.first_token_seconds, "last_s": visit.last_token_seconds}  # fmt: skip

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._messages.put(message)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of the answer; ends early after `leave`. Raises `Refused` where the server refuses, or
        something goes wrong in the middle."""
        try:
            async for data in self._events():
                if "error" in data:
                    raise Refused(_refusal(data["error"]))
                yield data
        finally:
            self.leave()
            await asyncio.wait((self._task,), timeout=END_SECONDS)

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON objects of the response: the events of a stream, or the one of a refusal."""
        status, rest = 0, ""
        while (message := await self._messages.get()) is not None:
            if message["type"] == "http.response.start":
                status = message["status"]
                continue
            rest += message.get("body", b"").decode("utf-8", "replace")
            if status != 200:
                continue
            *events, rest = rest.split("\n\n")
            for event in events:
                if event.startswith("data: {"):
                    yield json.loads(event.removeprefix("data: "))
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        if status not in (0, 200):
            yield json.loads(rest)


def _refusal(error: Mapping[str, Any]) -> Refusal:
    """Return what an error of chat completions says."""
    return Refusal("invalid", str(error.get("message")), code=error.get("code"))
