"""What every request passes before a route sees it, and what happens when it ends: an ASGI application around another.

    app = Front(routes, settings, error_form)

In this order: the request's id, the name by which it asks and the page it comes from, a browser's question whether it
may ask (CORS), the key, what its key has used up, and the body, within its size and its time. Whatever is wrong is
refused in the form of the interface that was asked (`error_form`), and what goes wrong inside becomes a plain 500 whose
cause only the log has.

While a route answers, the connection is watched: where the client leaves, the route is cancelled, which ends what it
computes. What a request holds (`Visit.stack`) is given back in any case. A body that nobody reads is taken and thrown
away behind the refusal, for a while: a connection that is closed on unread bytes is reset, and many clients would then
never read why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Protocol

from qwenkit.serving.guard import Gate
from qwenkit.serving.limits import Usage
from qwenkit.serving.log import RequestLog
from qwenkit.serving.metrics import ServerMetrics
from qwenkit.serving.refusals import ENDING, Refusal, Refused, refusal_of
from qwenkit.serving.settings import MEGABYTE, ServerSettings
from qwenkit.serving.visit import PAGE, Scope, Visit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

OPEN_PATHS = ("/health", "/ready")
"""They are answered without a key, and tell nothing but whether the server lives."""
PAGE_PATHS = ("/", PAGE, f"{PAGE}/", f"{PAGE}/key", f"{PAGE}/key.css")
"""Where there is a chat page, these are, too: they ask for the key."""
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


class ErrorForm(Protocol):
    """How the interfaces say what went wrong."""

    def __call__(self, path: str, refusal: Refusal) -> tuple[int, object]:
        """Return the status and the JSON body for the interface that answers at a path."""
        ...


class ClientLeft(Exception):
    """The client has closed the connection."""


class Front:
    """The application that the web server runs."""

    def __init__(self, app: App, settings: ServerSettings, error_form: ErrorForm, metrics: ServerMetrics,
                 log: RequestLog, usage: Usage, faces: Mapping[str, str]) -> None:  # fmt: skip
        """Wrap `app`, which finds the visit in its scope's state. `faces` are the names of the interfaces by their
        paths."""
        self.faces, self.open_requests = faces, 0
        self.app, self.settings, self.limits, self.error_form = app, settings, settings.limits, error_form
        self.metrics, self.log, self.usage, self.gate = metrics, log, usage, Gate(settings)
        self._open_ids: set[tuple[str, str]] = set()
        self._body_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = Visit.begin(scope)
        visit.face = "page" if visit.is_page else self.faces.get(visit.path, "other")
        scope.setdefault("state", {})["visit"] = visit
        answer = _Answer(send, visit, self.limits.send_seconds)
        self._count_open(1)
        try:
            await self._answer(visit, scope, receive, answer)
        except ClientLeft:
            visit.left, visit.status = True, visit.status or 499
            self.metrics.disconnects.add(1, face=visit.face)
        except asyncio.CancelledError:  # the server ends, and has waited for as long as it may
            visit.error, visit.status = ENDING.code, visit.status or ENDING.status
            raise
        except Exception as error:
            await self._fail(visit, answer, error)
        finally:
            await self._close(visit)
        if answer.owes_end:
            await self._take_rest(receive, answer)

    async def _answer(self, visit: Visit, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Admit the request, then run the route until it ends or the client leaves."""
        visit.take_id()
        visit.check_length()
        self.gate.check_host(visit.host)
        self.gate.check_origin(visit.origin, visit.host)
        wanted = visit.headers.get("access-control-request-headers")
        answer.extra += self.gate.cors_headers(visit.origin, visit.method == "OPTIONS", wanted)
        if visit.method == "OPTIONS" and "access-control-request-method" in visit.headers:
            await answer.whole(204, b"", ())
            return
        self._authenticate(visit)
        self._hold_id(visit)
        if visit.method == "POST" and (visit.client is not None or visit.is_page):
            if visit.client is not None and not visit.is_page:  # what the page asks of models is a request of its own
                visit.stack.enter_context(self.usage.open(visit.client))
            visit.body, visit.is_read = await self._read_body(visit, receive), True
        await _until_it_leaves(self.app, scope, receive, answer)

    def _authenticate(self, visit: Visit) -> None:
        """Set whose request it is; raises `Refused` for a key that is missing or nobody's."""
        visit.client = self.settings.keyring.identify(visit.presented_key)
        open_paths = OPEN_PATHS + (PAGE_PATHS if self.settings.page else ())
        if visit.client is None and visit.path not in open_paths:
            what = "this key is not known" if visit.presented_key else "a key is missing"
            raise Refused(Refusal("unauthenticated", what, expected="Authorization: Bearer KEY, or X-Api-Key: KEY",
                                  code="invalid_api_key"))  # fmt: skip

    def _hold_id(self, visit: Visit) -> None:
        """Keep the id for as long as the request is open; raises `Refused` where the client's other request has it."""
        name = (visit.client.name if visit.client else "", visit.id)
        if name in self._open_ids:
            raise Refused(Refusal("conflict", f"a request with the id {visit.id} is open", "X-Request-Id",
                                  "an id for each request", code="duplicate_request_id"))  # fmt: skip
        self._open_ids.add(name)
        visit.stack.callback(self._open_ids.discard, name)

    async def _read_body(self, visit: Visit, receive: Receive) -> bytes:
        """Return the body; raises `Refused` for one that is too large, or that does not come."""
        if visit.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(Refusal("media_type", "the body is compressed", "Content-Encoding", "identity"))
        announced = visit.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.limits.body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0

        def give_back() -> None:
            self._body_bytes -= size

        visit.stack.callback(give_back)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._body_bytes += len(parts[-1])
                    self._check_size(size)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(Refusal("slow", f"the body did not come within {self.limits.body_seconds:g} s",
                                  code="body_timeout")) from None  # fmt: skip

    def _check_size(self, size: int) -> None:
        if size > self.limits.body_bytes:
            raise self._too_large()
        if self._body_bytes > self.limits.all_body_bytes:
            raise Refused(Refusal("busy", "the bodies of all open requests are too large together",
                                  hint="try again later", code="server_busy", retry_after=1))  # fmt: skip

    def _too_large(self) -> Refused:
        most = self.limits.body_bytes / MEGABYTE
        return Refused(Refusal("too_large", "the body is too large", expected=f"at most {most:.3g} MB",
                               code="body_too_large"))  # fmt: skip

    async def _fail(self, visit: Visit, answer: _Answer, error: Exception) -> None:
        """Tell what went wrong in the interface's form, where the answer has not begun."""
        refusal = refusal_of(error)
        visit.error = refusal.code or refusal.kind
        if refusal.kind == "internal":
            visit.fault = place_of(error)
            visit.texts["fault_message"] = str(error)
        self.metrics.refused.add(1, reason=visit.error)
        if answer.begun:
            return
        status, body = self.error_form(visit.path, refusal)
        with contextlib.suppress(ClientLeft):
            await answer.json(status, body, _fields_of(refusal), owes_end=visit.leaves_body and refusal.kind != "slow")

    async def _take_rest(self, receive: Receive, answer: _Answer) -> None:
        """Throw the rest of a body away, as long as one may take to come; then the answer ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.body_seconds):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        with contextlib.suppress(ClientLeft):
            await answer.end()

    async def _close(self, visit: Visit) -> None:
        """Give back what the request holds; write it down."""
        try:
            await visit.stack.aclose()
        finally:
            self._count_open(-1)
            self.metrics.requests.add(1, face=visit.face, status=str(visit.status or 500))
            self.metrics.duration.observe(visit.seconds, face=visit.face)
            is_quiet = visit.path in OPEN_PATHS and visit.status == 200
            if not is_quiet and not (visit.is_page and (visit.status or 500) < 400):
                self.log.write("request", text=visit.texts, **visit.log_line())

    def _count_open(self, change: int) -> None:
        self.open_requests += change
        self.metrics.open.set(self.open_requests)


def _fields_of(refusal: Refusal) -> list[Header]:
    """Return the header fields that tell programs what to do about a refusal."""
    fields: list[Header] = []
    if refusal.retry_after is not None:
        fields.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after))).encode()))
    if refusal.kind == "unauthenticated":
        fields.append((b"www-authenticate", b"Bearer"))
    if refusal.kind == "method" and refusal.expected is not None:
        fields.append((b"allow", refusal.expected.encode()))
    if refusal.kind in ("timeout", "conflict"):
        fields.append((b"x-should-retry", b"false"))  # the clients of OpenAI and Anthropic would ask twice more
    return fields


def place_of(error: BaseException, most: int = 8) -> str:
    """Return the kind of an error and where it came from, the innermost place first, without its message: that may
    hold what people wrote."""
    frames = traceback.extract_tb(error.__traceback__)[-most:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    return f"{type(error).__name__}: {' < '.join(places)}"


class _Answer:
    """Sends the response, with the header fields that all responses have."""

    def __init__(self, send: Send, visit: Visit, seconds: float) -> None:
        self._send, self._visit, self._seconds = send, visit, seconds
        self.extra: list[Header] = list(_ALWAYS)
        self.begun = self.complete = self.owes_end = False

    async def send(self, message: Message) -> None:
        """Send a message of ASGI; raises `ClientLeft` where the client takes nothing for too long."""
        if message["type"] == "http.response.start":
            self.begun, self._visit.status = True, message["status"]
            names = {name.lower() for name, _ in message.get("headers", ())}
            own = [*self.extra, (b"x-request-id", self._visit.id.encode())]
            if self._visit.face == "messages":
                own.append((b"request-id", self._visit.id.encode()))  # Anthropic's name of it
            if self._visit.leaves_body:
                own.append((b"connection", b"close"))  # what follows would be taken for the next request
            kept = [field for field in own if field[0] not in names]
            message = {**message, "headers": [*message.get("headers", ()), *kept]}
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            self._visit.error = "client_too_slow"
            raise ClientLeft from None

    async def json(self, status: int, body: object, fields: Iterable[Header], owes_end: bool = False) -> None:
        """Send a JSON body; all signs beyond ASCII are escapes, so that any text is one. With `owes_end` the end of the
        message is left to `end`: the client has all of it, and the connection stays open."""
        await self.whole(status, json.dumps(body).encode(), [(b"content-type", b"application/json"), *fields], owes_end)

    async def whole(self, status: int, body: bytes, fields: Iterable[Header], owes_end: bool = False) -> None:
        """Send a complete response; `owes_end` as for `json`."""
        length = (b"content-length", str(len(body)).encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
        await self.send({"type": "http.response.body", "body": body, "more_body": owes_end})
        self.owes_end = owes_end

    async def end(self) -> None:
        """Send the end of a response whose body was sent."""
        await self.send({"type": "http.response.body", "body": b""})


async def _until_it_leaves(app: App, scope: Scope, receive: Receive, answer: _Answer) -> None:
    """Run a route whose request was read; cancel it and raise `ClientLeft` where the client leaves before its end."""
    route = asyncio.ensure_future(app(scope, _nothing_more, answer.send))
    watcher = asyncio.ensure_future(_leaving(receive))
    try:
        await asyncio.wait((route, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not route.done() and not answer.complete:  # after a complete answer every client has left
            raise ClientLeft
        await route
    finally:
        for task in (route, watcher):
            task.cancel()
        await asyncio.gather(route, watcher, return_exceptions=True)


async def _leaving(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing_more() -> Message:
    """Wait for ever: the body was read before, and whether the client leaves is seen elsewhere."""
    await asyncio.Event().wait()
    raise AssertionError
