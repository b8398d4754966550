"""Pages out of the records of a web archive: HTTP encodings are undone, and the type of the content is found.

    page(record) -> Page(body, url, charset, is_text), or the reason why there is none

No header is believed without proof. Crawlers often undo encodings and leave the headers; servers say `deflate` and send
either of two forms, or send what they do not say. So an encoding is undone where the bytes confirm it, decoded text
stays, and other encodings are not a page. A page that says it is plain text, or has no markup, keeps its lines
(`is_text`).
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import zstandard

from qwenkit.compression import GZIP, ZSTD
from qwenkit.data.readers.sources import PAGE
from qwenkit.data.readers.text_lines import MAX_RECORD, TOO_LONG
from qwenkit.data.readers.warc import Record

PACKED = "a page packed in a way that is not read"
BROKEN = "a page whose packed bytes are damaged"
NO_PAGE = "not a text page"
_SAID = ("text/html", "text/plain", "text/markdown", "text/xml", "application/xhtml", "application/xml")
_UNSAID = ("", "text", "html", "unknown", "*/*", "application/octet-stream", "application/unknown")
_TEXT = ("text/plain", "text/markdown")
_TAG = re.compile(rb"<[a-zA-Z/!?]")
_BINARY = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x7fELF",
    b"RIFF",
    b"\0\0\0",
    b"OggS",
    b"ID3",
)
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r?\n")
_CHUNK_END = re.compile(rb"\r?\n|\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MOST_ENCODINGS = 4


class Page(NamedTuple):
    """The bytes of a page, with the encoding that the server claims; `is_text` says that it is not markup."""

    body: bytes
    url: str | None
    charset: str | None
    is_text: bool


def page(record: Record) -> Page | str:
    """Return the page in a record, or the reason why there is none."""
    kind, body = record.headers.get("content-type", ""), record.block
    if body.startswith(b"HTTP/"):
        head, body = (*re.split(rb"\r?\n\r?\n", body, maxsplit=1), b"")[:2]
        status, http = _http_head(head)
        if status != "200":
            return "HTTP status is not 200"
        kind, unpacked = http.get("content-type", ""), _undo(body, http)
        if isinstance(unpacked, str):
            return unpacked
        body = unpacked
    media_type = kind.partition(";")[0].strip().lower()
    is_page = media_type.startswith(_SAID) or (media_type in _UNSAID and (not media_type or bool(PAGE.match(body))))
    if not is_page or body.startswith(_BINARY):
        return NO_PAGE
    charset = re.search(r"charset=[\"']?([\w.:-]+)", kind, re.I)
    url = record.headers.get("warc-target-uri", "").strip("<>") or None
    is_text = not PAGE.match(body) if media_type.startswith(_TEXT) else not _has_markup(body)
    return Page(body, url, charset.group(1) if charset else None, is_text)


def _has_markup(body: bytes) -> bool:
    """Return whether bytes contain a tag; UTF-16 is not examined."""
    return b"\0" in body[:1000] or _TAG.search(body) is not None


def _http_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Return status and headers, names in lower case; values of a repeated name are a list."""
    first, *lines = re.split(r"\r?\n", head.decode("latin-1"))
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        key = name.strip().lower()
        headers[key] = (
            f"{headers[key]}, {value.strip()}" if key in headers and key.endswith("encoding") else value.strip()
        )
    status = re.match(r"HTTP/[\d.]*\s+(\d{3})", first)
    return status.group(1) if status else "", headers


def _undo(body: bytes, headers: dict[str, str]) -> bytes | str:
    """Return the body with transfer and content encodings undone, or the reason why that is not possible."""
    transfer, content = (_names(headers.get(f"{what}-encoding", "")) for what in ("transfer", "content"))
    body = _joined(body, "chunked" in transfer)
    names = [name for name in (*content, *transfer) if name not in ("chunked", "identity")]
    if len(names) > _MOST_ENCODINGS:
        return PACKED
    for name in [*reversed(names), "", ""]:  # at last compression that is not declared
        unpacked = _unpacked(body, name)
        if isinstance(unpacked, str):
            return unpacked
        body = unpacked
    return body


def _names(value: str) -> list[str]:
    return [name.strip().lower().removeprefix("x-") for name in value.split(",") if name.strip()]


def _unpacked(body: bytes, name: str) -> bytes | str:
    """Return a body without one encoding: that of its first bytes, else the declared one, unless it is text already."""
    if body.startswith(GZIP.magic):
        return _inflated(body, 31) or BROKEN
    if body.startswith(ZSTD.magic):
        unpack = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress
        return _bounded(unpack, zstandard.ZstdError, body, 1 << 11) or BROKEN
    if name not in _DECODERS or not _is_binary(body):
        return body
    unpacked = _DECODERS[name](body)
    return unpacked if unpacked else PACKED if _CONTROL.search(body) else body  # or text in another encoding than UTF-8


def _deflated(body: bytes) -> bytes | str | None:
    """Return what `deflate` decompresses to: in zlib's form, as specified, or in the raw one that some servers send."""
    return _inflated(body, 15) or _inflated(body, -15)


def _inflated(body: bytes, bits: int) -> bytes | str | None:
    """Return what one or several members decompress to, as far as a truncated one goes; None for other data."""
    unpacked = bytearray()
    while body:
        unpack = zlib.decompressobj(wbits=bits)
        try:
            unpacked += unpack.decompress(body, MAX_RECORD + 1 - len(unpacked))
        except zlib.error:
            return None
        if len(unpacked) > MAX_RECORD:
            return TOO_LONG
        if bits < 0 and not unpack.eof and _CONTROL.search(unpacked):  # otherwise this may be an accident
            return None
        body = unpack.unused_data if bits == 31 and unpack.unused_data.startswith(GZIP.magic) else b""
    return bytes(unpacked) or None


def _brotli(body: bytes) -> bytes | str | None:
    try:
        import brotli
    except ImportError:
        return "a page packed by brotli, which is not installed"
    return _bounded(brotli.Decompressor().process, brotli.error, body, 16)  # bytes, which may become 16 MB each


def _bounded(unpack: Callable[[bytes], bytes], fault: type[Exception], body: bytes, step: int) -> bytes | str | None:
    """Return the output of a decoder that is fed in pieces, as far as a truncated body goes; None for a broken one."""
    unpacked = bytearray()
    try:
        for at in range(0, len(body), step):
            unpacked += unpack(body[at : at + step])
            if len(unpacked) > MAX_RECORD:
                return TOO_LONG
    except fault:
        return None
    return bytes(unpacked) or None


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "gzip": _deflated,
    "deflate": _deflated,
    "br": _brotli,
    "zstd": lambda _: None,
    "compress": lambda _: None,
}


def _is_binary(body: bytes) -> bool:
    """Return whether a page's bytes are neither markup nor text in UTF-8 (except for a truncated last character)."""
    if body.lstrip().startswith(b"<"):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body[:500])
    except UnicodeDecodeError:
        return True
    return _CONTROL.search(body[:500]) is not None and not body.startswith((b"\xff\xfe", b"\xfe\xff"))


def _joined(body: bytes, declared: bool) -> bytes:
    """Return a body without the frames of chunked transfer encoding, if it has them. A body that ends before its last
    chunk, as crawlers truncate them, is returned as far as it goes."""
    parts: list[bytes] = []
    at = 0
    while match := _CHUNK.match(body, at):
        size, start = int(match.group(1), 16), match.end()
        chunk = body[start : start + size]
        if size == 0:
            return b"".join(parts) if parts or declared else body
        if len(chunk) < size:
            is_cut = declared and (parts or chunk.startswith((b"<", GZIP.magic)))
            return b"".join([*parts, chunk]) if is_cut else body
        end = _CHUNK_END.match(body, start + size)
        if end is None:
            break
        parts.append(chunk)
        at = end.end()
    return b"".join(parts) if declared and parts else body
