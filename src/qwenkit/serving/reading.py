"""What all routes do with a body and a response's names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from qwenkit.errors import listed
from qwenkit.serving.visit import Visit

T = TypeVar("T")

LARGE_BODY = 32 * 1024
"""Bodies from this size on are parsed on another thread, so that nobody else waits."""


async def parsed(parse: Callable[[bytes], T], body: bytes) -> T:
    """Return what a body asks; a large one is read on another thread."""
    return parse(body) if len(body) < LARGE_BODY else await asyncio.to_thread(parse, body)


def new_id(visit: Visit) -> str:
    """Return the id of a response: the request's, where an API's ids may hold it."""
    return visit.id if visit.id.isalnum() else visit.id.encode().hex()[:64]


def fields_of(ignored: Sequence[str]) -> dict[str, str]:
    """Return the header that names fields without effect."""
    return {"x-ignored-fields": listed(ignored, most=20)} if ignored else {}
