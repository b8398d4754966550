"""A WARC/1.1 writer: one gzip member per record, fixed dates, so that the same pages give the same bytes.

    write_warc(path, pages)          # rows with "url", "content_type", "body" (bytes)

Each page becomes a response record; ids are hashes of the content.
"""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

from qwenkit.records import Row

DATE = "2023-09-28T00:00:00Z"  # the day of the report


def write_warc(path: str | Path, pages: Iterable[Row]) -> int:
    """Write pages as response records after a warcinfo record; return the number of pages."""
    count = 0
    with open(path, "wb") as file:
        fields = b"software: qwenkit\r\nformat: WARC/1.1\r\n"
        file.write(_record("warcinfo", None, "application/warc-fields", fields, 0))
        for count, page in enumerate(pages, 1):
            body = _response(page["content_type"], page["body"])
            file.write(_record("response", page["url"], "application/http; msgtype=response", body, count))
    return count


def _response(content_type: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _record(kind: str, url: str | None, content_type: str, block: bytes, number: int) -> bytes:
    """Return one record, compressed by itself; its id is a hash of its content and place."""
    name = uuid.UUID(bytes=hashlib.sha256(f"{number}|{url}|".encode() + block).digest()[:16])
    head = [
        "WARC/1.1", f"WARC-Type: {kind}", f"WARC-Record-ID: <urn:uuid:{name}>", f"WARC-Date: {DATE}",
        *([f"WARC-Target-URI: {url}"] if url else []), f"Content-Type: {content_type}", f"Content-Length: {len(block)}",
    ]  # fmt: skip
    return gzip.compress("\r\n".join(head).encode() + b"\r\n\r\n" + block + b"\r\n\r\n", compresslevel=6, mtime=0)
