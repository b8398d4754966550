"""A client without a network: asks an ASGI application and sees its messages as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

Body = bytes | list[bytes | None]
LIMIT = 60.0
"""Seconds that no answer of a test needs."""


class Exchange:
    """One request and what has come back of it so far."""

    def __init__(
        self, app: Any, method: str, path: str, body: bytes | list[bytes | None], headers: Mapping[str, str]
    ) -> None:
        fields = {"host": "127.0.0.1:8000", **{name.lower(): value for name, value in headers.items()}}
        self.scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
            "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        self._parts: list[bytes | None] = [body] if isinstance(body, bytes) else list(body)
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._left = asyncio.Event()
        self.takes = asyncio.Event()
        """Cleared, the client takes nothing of the answer."""
        self.takes.set()
        self.status, self.headers, self.complete = 0, dict[str, str](), False
        self.task = asyncio.ensure_future(app(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._parts and (part := self._parts.pop(0)) is not None:
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if not self._left.is_set():
            await self._messages.put(message)

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        while not self.complete:
            getting = asyncio.ensure_future(self._messages.get())
            await asyncio.wait((getting, self.task), return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT)
            if not getting.done():
                getting.cancel()
                assert self.task.done(), "nothing came within the limit"
                self.task.result()
                return
            message = getting.result()
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
                continue
            self.complete = not message.get("more_body", False)
            yield message.get("body", b"")

    async def answer(self) -> Answer:
        """Return the complete response."""
        body = b"".join([chunk async for chunk in self.chunks()])
        await asyncio.wait_for(self.task, LIMIT)
        return Answer(self.status, self.headers, body)


class Answer:
    """A complete response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def open_(app: Any, method: str, path: str, body: object = b"", **headers: str) -> Exchange:
    """Begin to ask, inside an event loop; header names are written with _ for -. A list of bytes is a body in pieces;
    None among them: nothing more comes."""
    parts: Any = body if isinstance(body, (bytes, list)) and not _is_json_list(body) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if not isinstance(body, bytes):
        fields.setdefault("content-type", "application/json")
    return Exchange(app, method, path, parts, fields)


def _is_json_list(body: object) -> bool:
    return isinstance(body, list) and not all(part is None or isinstance(part, bytes) for part in body)


async def aask(app: Any, method: str, path: str, body: object = b"", **headers: str) -> Answer:
    """Ask, and return the complete response."""
    return await open_(app, method, path, body, **headers).answer()


def ask(app: Any, method: str, path: str, body: object = b"", **headers: str) -> Answer:
    """Ask in an event loop of its own."""
    return asyncio.run(aask(app, method, path, body, **headers))
