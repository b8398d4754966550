"""A server of the review page on this machine alone, where a reader's judgements are saved.

    with serve(corpus, Path("review.jsonl")) as server:
        server.serve_forever()

Only the page itself is answered: a request must name this server as its host, so that no other site can reach it by a
name of its own (DNS rebinding), and a browser must say that the request comes from this page. A judgement is saved
completely or not at all, and the page shows which.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from qwenkit.data.review.page import SAYS, judgements, page, summary
from qwenkit.errors import UserError
from qwenkit.records import dumps

_LONGEST, _SECONDS = 10_000, 60  # bytes of a judgement; how long a connection may be idle
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NAMES = ("127.0.0.1", "localhost", "[::1]")


def serve(corpus: Path, saved: Path, port: int = 0) -> socketserver.TCPServer:
    """Return a server of the page; each judgement becomes a row of `saved`. Call `serve_forever()` to run it."""
    book = _Book(saved)
    body = page(corpus).encode(errors="replace")
    try:
        return _Server(("127.0.0.1", port), _handler(body, book))
    except OSError as error:
        raise UserError(
            f"this port cannot be had ({error.strerror})", where=f"--port {port}", expected="a free one; 0 finds one"
        ) from error


class _Book:
    """The file of judgements: it is opened, and what is in it read, before anybody judges."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        if path.exists() and not path.is_file():
            raise UserError("judgements cannot be saved here", where=f"--saved {path}", expected="a file")
        try:
            with path.open("ab"):
                pass
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"judgements cannot be saved here ({why})", where=f"--saved {path}",
                            expected="a file that may be written, in a folder that is there") from error  # fmt: skip
        judgements(path)
        self._begin = b"" if not data or data.endswith(b"\n") else b"\n"

    def add(self, row: dict[str, str]) -> None:
        """Save a judgement; an `OSError` where it cannot be, and then nothing of it is in the file."""
        line = dumps(row).encode() + b"\n"
        with self._lock, self.path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(self._begin + line) != len(self._begin + line):
                    raise OSError(28, os.strerror(28), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
            self._begin = b""

    def state(self) -> bytes:
        """Return all judgements and their sums, as the page asks for them."""
        with self._lock:
            rows = judgements(self.path) if self.path.exists() else []
            state = {"said": rows, "summary": summary(self.path)} if rows else {"said": []}
        return dumps(state).encode()


def _handler(body: bytes, book: _Book) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS

        def do_GET(self) -> None:
            if not self._of_us():
                return self._answer(403, b"this page is for this machine alone\n")
            if self.path == "/said":
                try:
                    return self._answer(200, book.state(), "application/json")
                except (OSError, UserError) as error:
                    return self._failed(500, str(error))
            return self._answer(200, body) if self.path == "/" else self._answer(404, b"")

        def do_POST(self) -> None:
            if not self._of_us() or not self._of_our_page():
                return self._answer(403, b"")
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdecimal() or "Transfer-Encoding" in self.headers:
                return self._answer(411, b"")
            if len(length) > 9 or int(length) > _LONGEST:
                return self._answer(413, b"")
            try:
                row = _judgement(self.rfile.read(int(length)))
            except (ValueError, KeyError, TypeError, RecursionError):
                return self._answer(400, b"")
            try:
                book.add(row)
            except OSError as error:
                return self._failed(507, f"{book.path}: a judgement was not saved ({error.strerror})")
            return self._answer(204, b"")

        def _hosts(self) -> set[str]:
            port = cast("tuple[str, int]", self.server.server_address)[1]
            return {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())

        def _of_us(self) -> bool:
            """Return whether the request names this server, once."""
            hosts = self.headers.get_all("Host", [])
            return len(hosts) == 1 and hosts[0].strip().lower() in self._hosts()

        def _of_our_page(self) -> bool:
            """Return whether the request comes from the page: browsers say from which, and send JSON to their own site
            only."""
            origins = [*self.headers.get_all("Origin", []), *self.headers.get_all("Referer", [])]
            site = self.headers.get("Sec-Fetch-Site")
            if not origins and site is None:
                return True  # no browser
            kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            ours = all(_origin(origin) == f"http://{self.headers['Host'].strip().lower()}" for origin in origins)
            return ours and site in (None, "same-origin", "none") and kind == "application/json"

        def _failed(self, status: int, why: str) -> None:
            """Report a judgement that cannot be saved to the page, and where the server was started."""
            print(f"error: {why}", file=sys.stderr, flush=True)
            self._answer(status, why.encode(errors="replace"), "text/plain")

        def _answer(self, status: int, data: bytes, kind: str = "text/html") -> None:
            self.send_response(status)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the page's own reader is its only visitor."""

    return Handler


def _judgement(data: bytes) -> dict[str, str]:
    given = json.loads(data)
    row = {key: given[key] for key in ("id", "source", "rule", "say")}
    if row["say"] not in SAYS or not all(isinstance(value, str) for value in row.values()):
        raise ValueError(row["say"])
    return row


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address.strip().lower())
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection: browsers open one in advance and leave it idle, and it must not hold up others."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who goes away is not a fault to tell of."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)
