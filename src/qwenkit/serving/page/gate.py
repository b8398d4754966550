"""Around gradio: which of its paths are open, whose pages may ask them, and what a browser may do with what it gets.

Gradio brings some sixty routes: files by their paths, uploads, a proxy, a log, an editor of its code. The page needs
few, which `OPEN` lists; whatever else is asked is answered as a path that does not exist. What is open is checked once
more here: the name of a page belongs to one key, a body is JSON within the server's limits, and names of assets hold no
path. Every response carries a Content-Security-Policy under which a browser asks nobody but this server.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from qwenkit.serving.json_body import read_body
from qwenkit.serving.page.sessions import NAME, Session, Sessions
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.visit import PAGE, Visit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_FILE = r"[A-Za-z0-9_][A-Za-z0-9_.~-]*"
OPEN: dict[str, tuple[re.Pattern[str], ...]] = {
    "GET": tuple(
        re.compile(pattern)
        for pattern in (
            r"/", r"/theme\.css", rf"/assets/{_FILE}", rf"/static/(js|fonts|img)/{_FILE}",
            rf"/static/fonts/{_FILE}/{_FILE}", r"/gradio_api/queue/data",
            rf"/gradio_api/heartbeat/{NAME.pattern}",
        )
    ),
    "POST": (re.compile(r"/gradio_api/queue/join"),),
}  # fmt: skip
"""The paths of gradio that the page uses."""
_JOIN = ("data", "event_data", "fn_index", "trigger_id", "session_hash", "simple_format", "batched", "request")
_SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.S)
_LINKS = re.compile(r'<link rel="manifest"[^>]*>|<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', re.S)
_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)
DRAIN_LOOK_SECONDS = 0.5
"""How often an open page looks whether the server ends."""
_NOT_SENT = (b"accept-encoding", b"authorization", b"x-api-key", b"x-forwarded-host", b"x-forwarded-proto")
"""Header fields that are not passed on: a page that is compressed could not be read here, a key is not gradio's affair,
and of where it was forwarded from it would make addresses."""
_OWN = (
    '<link rel="icon" href="data:,"><link rel="stylesheet" href="{path}/page.css">'
    '<script src="{path}/page.js" defer></script></head>'
)
POLICY = _POLICY.format(scripts="")


class _Kind(NamedTuple):
    """What a request of the page is about."""

    session: str | None
    is_stream: bool
    """It lasts as long as the page is open."""


class PageGate:
    """The application of gradio, behind its gate."""

    def __init__(self, app: App, sessions: Sessions, events: Container[int], is_draining: Callable[[], bool]) -> None:
        """Guard `app`, which knows `events` by these numbers; the streams of open pages end once `is_draining` says so
        and nothing is written to them."""
        self._app, self._sessions, self._events, self._is_draining = app, sessions, events, is_draining

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; raises `Refused`, which the front tells."""
        visit: Visit = scope["state"]["visit"]
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        check_path(scope["method"], path, scope.get("raw_path") or b"")
        kind = self._kind(path, scope, visit)
        session: Session | None = None
        if kind.session is not None:
            assert visit.client is not None, "the front lets nobody pass without"
            session = self._sessions.of(kind.session, visit.client.name)
        scope = {**scope, "headers": [field for field in scope["headers"] if field[0].lower() not in _NOT_SENT]}
        answer = self._app(scope, _body_of(visit, receive), guarded := _Guarded(send, path))
        if session is None or not kind.is_stream:
            await answer
            return
        try:
            await self._stream(answer, session, guarded)
        except BaseException:
            session.stop()  # the page is closed: a stream whose page is open ends by itself
            raise

    async def _stream(self, answer: Awaitable[None], session: Session, guarded: _Guarded) -> None:
        """Run a stream until it ends, or the server does."""
        task = asyncio.ensure_future(answer)
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=DRAIN_LOOK_SECONDS)
                if not task.done() and self._is_draining() and not session.busy:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    await guarded.end()
                    return
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _kind(self, path: str, scope: MutableMapping[str, Any], visit: Visit) -> _Kind:
        """Return whose page asks, and how."""
        if path.startswith("/gradio_api/heartbeat/"):
            return _Kind(path.rpartition("/")[2], True)
        if path == "/gradio_api/queue/data":
            names = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=4).get("session_hash", [])
            if len(names) != 1:
                raise Refused(Refusal("invalid", "the page's name is missing", "session_hash", code="invalid_page"))
            return _Kind(names[0], True)
        return (
            _Kind(checked_join(visit.body, self._events), False)
            if path == "/gradio_api/queue/join"
            else _Kind(None, False)
        )


def check_path(method: str, path: str, raw: bytes) -> None:
    """Raise `Refused` for a path of gradio's that the page does not use."""
    patterns = OPEN.get("GET" if method == "HEAD" else method, ())
    if b"%" in raw or not any(pattern.fullmatch(path) for pattern in patterns):
        raise Refused(Refusal("not_found", f"there is no path {path[:80]}", code="no_such_path"))


def checked_join(body: bytes, events: Container[int]) -> str:
    """Return whose page a body is from; raises `Refused` for one that no page of ours sends."""
    given = read_body(body)
    extra = sorted(set(given) - set(_JOIN))
    event = given.get("fn_index")
    if extra or not isinstance(event, int) or event not in events or not isinstance(given.get("data"), list):
        raise Refused(Refusal("invalid", "this is not what the page sends", extra[0] if extra else None,
                              "fn_index, data and session_hash", code="invalid_page"))  # fmt: skip
    if given.get("simple_format") or given.get("batched") or given.get("request"):
        raise Refused(Refusal("invalid", "this is not what the page sends", code="invalid_page"))
    name = given.get("session_hash")
    return name if isinstance(name, str) else ""


def _body_of(visit: Visit, receive: Receive) -> Receive:
    """Return what gives the body, which the front has read, and then waits for the client to leave."""
    parts = [visit.body]

    async def again() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return again


class _Guarded:
    """Sends a response with the page's policy; in HTML the scripts that are allowed are named by their digests."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._path = send, path
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._is_open = False

    async def __call__(self, message: Message) -> None:
        """Send one message of ASGI."""
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            fields = [field for field in fields if not field[0].startswith((b"access-control-", b"set-cookie"))]
            message = {**message, "headers": [*fields, *self._fields()]}
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in fields):
                self._start = message
                return
        elif self._start is not None:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._page(self._start, b"".join(self._parts))
            return
        self._is_open = message.get("more_body", message["type"] == "http.response.start")
        await self._send(message)

    async def end(self) -> None:
        """End a response that has begun."""
        if self._is_open:
            await self._send({"type": "http.response.body", "body": b""})

    def _fields(self) -> list[tuple[bytes, bytes]]:
        stays = self._path.startswith(("/assets/", "/static/"))
        fields = [(b"content-security-policy", POLICY.encode()), (b"x-dns-prefetch-control", b"off"),
                  (b"referrer-policy", b"same-origin")]  # fmt: skip
        return fields + ([(b"cache-control", b"private, max-age=86400")] if stays else [])

    async def _page(self, start: Message, body: bytes) -> None:
        """Send HTML that names no other host, under a policy that allows its own scripts."""
        html = _LINKS.sub("", body.decode()).replace("</head>", _OWN.format(path=PAGE), 1)
        policy = _POLICY.format(scripts="".join(f" '{digest}'" for digest in digests_of(html))).encode()
        replaced = {b"content-security-policy": policy, b"content-length": str(len(html.encode())).encode()}
        fields = [(name, replaced.get(name, value)) for name, value in start["headers"]]
        await self._send({**start, "headers": fields})
        await self._send({"type": "http.response.body", "body": html.encode()})


def digests_of(html: str) -> list[str]:
    """Return the digests of the scripts that stand in a page, as a policy names them."""
    codes = [match["code"] for match in _SCRIPT.finditer(html) if "src=" not in match["attributes"]]
    return [f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}" for code in codes if code]
