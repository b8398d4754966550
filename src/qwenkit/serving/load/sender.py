"""One request over HTTP, into its record.

    async with HttpSender(Target("http://127.0.0.1:8000", "chat", "nano")) as send:
        names = await send.models()
        await send(request, record)

It speaks to any server of OpenAI's API and believes none: every wait has a limit, bodies and events have one, no
redirect is followed (a key goes to the server that was named, and nowhere else), nothing is decompressed, and whatever
comes that is not a stream is an error with a kind and the server's own words. Only a request that meets a kept
connection which the server has closed in the meantime is sent again, on another one: no byte of an answer had come, and
the time of that is in the record.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from qwenkit.errors import UserError
from qwenkit.serving.load.events import DONE, BrokenStream, EventReader, body_message, read_chunk
from qwenkit.serving.load.records import RequestRecord
from qwenkit.serving.load.requests import Api, LoadRequest

PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
_LIST_SECONDS = 20.0
_END_SECONDS = 1.0
_BODY_BYTES = 1_000_000
_ERROR_BYTES = 10_000


@dataclass(frozen=True)
class Target:
    """The server, and what all requests have in common."""

    url: str
    """`http://host:port`, with or without `/v1`."""
    api: Api = "chat"
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields that every body has, such as `temperature`."""
    connect_seconds: float = 10.0
    silence_seconds: float = 120.0
    """The longest time without a byte."""
    request_seconds: float = 600.0

    def base(self) -> str:
        """Return the address of the API, which ends with `/v1` or as it was given; raises a `UserError`."""
        try:
            parts = urlsplit(self.url)
            complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise UserError(
                "this is not an address", where=self.url, expected="such as http://127.0.0.1:8000"
            ) from None
        if not complete or parts.query or parts.fragment:
            raise UserError("this is not the address of a server", where=self.url,
                            expected="such as http://127.0.0.1:8000")  # fmt: skip
        if parts.username is not None or parts.password is not None:
            raise UserError("an address with a password", where=f"{parts.scheme}://{parts.hostname}",
                            hint="keys come from the environment")  # fmt: skip
        path = parts.path.rstrip("/")
        return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


class HttpSender:
    """Asks one server."""

    def __init__(self, target: Target) -> None:
        """Check the address; raises a `UserError`."""
        self._target, self._base = target, target.base()
        self._url = self._base + PATHS[target.api]
        named = {} if target.model is None else {"model": target.model}
        self._common = {**named, "stream": True, "stream_options": {"include_usage": True}, **target.body}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open connections as they are needed."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "qwenkit-bench", "Content-Type": "application/json"}
        if self._target.key:
            headers["Authorization"] = f"Bearer {self._target.key}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._target.connect_seconds, sock_read=self._target.silence_seconds
        )
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_notice_reuse)
        self._session = aiohttp.ClientSession(
            trace_configs=[trace], connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
        )  # fmt: skip
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        at: TracebackType | None) -> None:  # fmt: skip
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the open session."""
        assert self._session is not None, "use it inside `async with`"
        return self._session

    async def models(self) -> list[str]:
        """Return the names of the server's models, none where it does not tell; raises a `UserError` where it cannot be
        reached or wants a key."""
        try:
            async with asyncio.timeout(_LIST_SECONDS):
                async with self.session.get(f"{self._base}/models", allow_redirects=False) as response:
                    body = await _read_some(response, _BODY_BYTES)
        except TimeoutError:
            raise UserError("the server does not answer", where=self._base, expected=f"{_LIST_SECONDS:g} s at most",
                            hint="is it still loading its model?") from None  # fmt: skip
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UserError(f"the server cannot be reached ({_reason(error)})", where=self._base,
                            hint="is it running, and is this its address?") from error  # fmt: skip
        if response.status in (401, 403):
            raise UserError(f"the server answers {response.status}: {body_message(body)}", where=self._base,
                            hint="its key comes from the environment: QWENKIT_API_KEY, or --key-variable")  # fmt: skip
        return _names(body) if response.status == 200 else []

    async def __call__(self, request: LoadRequest, record: RequestRecord) -> None:
        """Ask, and write into the record what comes, and when."""
        body = json.dumps({**self._common, **request.body(self._target.api)}).encode()
        record.sent = time.perf_counter()
        try:
            async with asyncio.timeout(self._target.request_seconds):
                while await self._meets_a_closed_connection(body, record):
                    pass
        except BrokenStream as error:
            record.fail(error.kind, str(error))
        except aiohttp.ServerTimeoutError as error:
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            record.fail("no connection" if connecting else "silence", _reason(error))
        except TimeoutError:
            record.fail("timeout", f"not complete after {self._target.request_seconds:g} s")
        except aiohttp.ClientConnectorError as error:
            record.fail("no connection", _reason(error))
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, OSError) as error:
            record.fail("connection lost", _reason(error))
        except (aiohttp.ClientError, ValueError) as error:
            record.fail("not HTTP", _reason(error))

    async def _meets_a_closed_connection(self, body: bytes, record: RequestRecord) -> bool:
        """Send the body and read the answer. True where the connection had been kept from a request before, and the
        server has closed it: each such one is met once, so a caller may ask until it is false."""
        reused: list[bool] = []
        try:
            async with self.session.post(
                self._url, data=body, allow_redirects=False, trace_request_ctx=reused
            ) as response:
                await _read_response(response, record)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not reused or record.status is not None:
                raise
            return True
        return False


async def _notice_reuse(session: aiohttp.ClientSession, context: Any, given: Any) -> None:
    """Tell a request that its connection was kept from another one (a signal of aiohttp's)."""
    if isinstance(reused := context.trace_request_ctx, list):
        reused.append(True)


async def _read_response(response: aiohttp.ClientResponse, record: RequestRecord) -> None:
    """Read a stream of events, or what was answered instead."""
    record.status = response.status
    if response.status != 200:
        record.retry_after = _seconds(response.headers.get("Retry-After"))
        record.fail(f"HTTP {response.status}", body_message(await _read_some(response, _ERROR_BYTES)))
        response.close()
        return
    if response.content_type != "text/event-stream":
        message = body_message(await _read_some(response, _ERROR_BYTES))
        response.close()
        raise BrokenStream("not a stream", f"{response.content_type}: {message}")
    reader = EventReader()
    while piece := await response.content.readany():
        now = time.perf_counter()
        for data in reader.push(piece):
            if data.strip() == DONE:
                await _end(response)
                return
            chunk = read_chunk(data)
            if chunk.grows:
                record.times.append(now)
            record.finish_reason = chunk.finish_reason or record.finish_reason
            if chunk.answer_tokens is not None:
                record.prompt_tokens, record.answer_tokens = chunk.prompt_tokens, chunk.answer_tokens
    if record.finish_reason is None:
        raise BrokenStream("the stream ends early", f"after {len(record.times)} chunks")


async def _end(response: aiohttp.ClientResponse) -> None:
    """Read the end of a response whose stream is complete, so that its connection can be used again."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        response.close()


async def _read_some(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return a body, or its first bytes where it is long."""
    body = b""
    while len(body) < most and (piece := await response.content.read(most - len(body))):
        body += piece
    return body


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a `Retry-After`: a number, or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text[:10])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _names(body: bytes) -> list[str]:
    """Return the names in a list of models, whatever else it is."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return []
    rows = value.get("data") if isinstance(value, dict) else None
    names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str)]


def _reason(error: BaseException) -> str:
    """Return why a connection failed, in the system's words."""
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    text = os.strerror(number) if isinstance(number, int) and number > 0 else str(inner)
    return text.partition("\n")[0][:200] or "no reason given"
