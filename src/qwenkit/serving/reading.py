"""What all routes do with a body and a response's names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request

from qwenkit.errors import listed, nearest
from qwenkit.serving.faces.frames import dumps
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.visit import Visit

T = TypeVar("T")

LARGE_BODY = 32 * 1024
"""Bodies from this size on are parsed on another thread, so that nobody else waits."""


LARGE_ANSWER = 4096
"""Tokens and log-probabilities of an answer from which on it is written on another thread."""


async def parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """Return what a body asks; a large one is read on another thread."""
    return parse(body) if len(body) < LARGE_BODY else await asyncio.to_thread(parse, body)


async def written(whole: Callable[[], Mapping[str, Any]], numbers: int) -> bytes:
    """Return a response as JSON; one of many numbers is made on another thread, in pieces, so that nobody else waits.
    `numbers` are its tokens and log-probabilities."""
    if numbers < LARGE_ANSWER:
        return dumps(whole()).encode()
    return await asyncio.to_thread(lambda: "".join(_pieces(whole())).encode())


def _pieces(value: Any, depth: int = 6) -> Iterator[str]:
    """Yield the JSON of a value; no piece is long, because the interpreter does nothing else while it writes one. Down
    to this depth a response has lists that grow with its answer."""
    if depth == 0:
        yield dumps(value)
    elif isinstance(value, Mapping) and any(isinstance(item, (list, Mapping)) for item in value.values()):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else ''}{dumps(key)}:"
            yield from _pieces(item, depth - 1)
        yield "}"
    elif isinstance(value, list) and any(isinstance(item, (list, Mapping)) for item in value):
        yield "["
        for number, item in enumerate(value):
            yield "," if number else ""
            yield from _pieces(item, depth - 1)
        yield "]"
    else:
        yield dumps(value)


def no_such_path(request: Request) -> Refused:
    """Return the refusal of a path that is not there, with the nearest one that is."""
    asked, paths = request.url.path[:80], [getattr(route, "path", "") for route in request.app.routes]
    close = nearest(asked, [path for path in paths if path and "{" not in path])
    hint = f"did you mean {close}?" if close else None
    return Refused(Refusal("not_found", f"there is no path {asked}", hint=hint, code="no_such_path"))


def new_id(visit: Visit) -> str:
    """Return the id of a response: the request's, where an API's ids may hold it."""
    return visit.id if visit.id.isalnum() else visit.id.encode().hex()[:64]


def fields_of(ignored: Sequence[str]) -> dict[str, str]:
    """Return the header that names fields without effect."""
    return {"x-ignored-fields": listed(ignored, most=20)} if ignored else {}
