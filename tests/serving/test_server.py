"""The server in a process and over real sockets: the start, what a connection may do, the end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.serving import server
from qwenkit.serving.connection import reserve_descriptors
from qwenkit.serving.settings import Limits, ServerSettings
from tests.conftest import ROOT
from tests.serving.asgi import LIMIT
from tests.serving.conftest import CODECS as PLAIN
from tests.serving.conftest import Desk

PATH = "/v1/completions"
QUESTION = {"prompt": "river", "max_tokens": 3, "temperature": 0}


class Running:
    """A server on a thread, as a test asks it."""

    def __init__(self, desk: Desk, codecs: Any = PLAIN, **settings: Any) -> None:
        self.desk, self.app = desk, desk.app(codecs=codecs, **settings)
        made = ServerSettings(port=0, **settings)
        self.sock = server.listen(made)
        self.port = self.sock.getsockname()[1] if made.unix_socket is None else 0
        self.uvicorn = server.DrainingServer(server.configuration(self.app, made.limits), desk.made)
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        await self.uvicorn.serve(sockets=[self.sock])
        await self.desk.made.stop()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def connect(self, sent: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        sock.sendall(sent)
        return sock


@contextmanager
def running(desk: Desk, **settings: Any) -> Iterator[Running]:
    made = Running(desk, **settings)
    made.thread.start()
    try:
        yield made
    finally:
        made.uvicorn.should_exit = made.uvicorn.force_exit = True
        made.thread.join(LIMIT)
        assert not made.thread.is_alive()


def rest(sock: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_over_a_real_socket(desk: Desk) -> None:
    with running(desk) as made:
        status, body = made.ask("POST", PATH, QUESTION)
        assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 3
        status, body = made.ask("POST", PATH, {**QUESTION, "stream": True})
        assert status == 200 and body.count(b"data: ") >= 3 and b'"usage"' in body
        assert made.ask("GET", "/health", Host="evil.example")[0] == 403
        assert b"qwenkit_requests_total" in made.ask("GET", "/metrics")[1]


def test_a_client_that_closes_its_connection_frees_its_place(desk: Desk) -> None:
    with running(desk) as made:
        made.ask("POST", PATH, QUESTION)
        engine = desk.engines["tiny"]
        engine.hold()
        body = json.dumps({**QUESTION, "max_tokens": 300, "stream": True}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        sock = made.connect(head + body)
        engine.allow(3)
        while b"text" not in sock.recv(65536):
            pass
        sock.close()
        engine.allow(2)
        engine.wait_until_aborted()
        engine.allow(1000)
        assert made.ask("POST", PATH, QUESTION)[0] == 200


def test_connections_that_ask_nothing_or_take_nothing(desk: Desk) -> None:
    with running(desk, limits=Limits(idle_seconds=0.3, send_seconds=0.3)) as made:
        silent, halting = made.connect(), made.connect(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ")
        for sock in (silent, halting):
            with sock:
                with suppress(ConnectionResetError):
                    assert rest(sock) == b""
        with made.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as sock:
            assert rest(sock).startswith(b"HTTP/1.1 200")  # and closed after the idle time


@pytest.mark.parametrize(
    "sent",
    [b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 20_000,
     b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"],
)  # fmt: skip
def test_what_is_not_http(desk: Desk, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with running(desk, limits=Limits(idle_seconds=1)) as made:
        with made.connect() as sock:
            try:
                sock.sendall(sent)
                answer = rest(sock)
            except (ConnectionResetError, BrokenPipeError):  # the rest of what was sent is not read
                answer = b"HTTP/1.1 400"
        assert answer.startswith(b"HTTP/1.1 4")
        assert made.ask("GET", "/health")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_more_connections_than_there_may_be(desk: Desk) -> None:
    """One too many is told so at once, also where neither it nor the others ask anything."""
    with running(desk, limits=Limits(connections=3)) as made:
        with made.connect(), made.connect(), made.connect():
            with made.connect() as fourth:
                assert rest(fourth).decode() == (
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
                    "Connection: close\r\nContent-Length: 126\r\n\r\n"
                    '{"error": {"message": "too many connections are open", "type": "server_error", '
                    '"param": null, "code": "too_many_connections"}}'
                )
        deadline = time.monotonic() + LIMIT
        while made.ask("GET", "/health")[0] != 200:  # as soon as the server has seen that they are closed
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("soft", "hard", "set_to", "connections"),
    [(1024, 4096, 1664, 1024), (1024, 1024, None, 512), (256, 512, 512, 256), (65536, 65536, None, 1024),
     (1024, resource.RLIM_INFINITY, 1664, 1024)],
)  # fmt: skip
def test_descriptors_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, set_to: int | None, connections: int
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, both: limits.append(both))
    assert reserve_descriptors(1024, 512) == connections
    assert limits == ([] if set_to is None else [(set_to, hard)])


@pytest.mark.parametrize("behind", [b"A: b\r\n" * 1000, b"Host: localhost\r\nA: " + b"x" * 16_000 + b"\r\n"])
def test_header_fields_that_are_too_large_in_one_packet(desk: Desk, behind: bytes) -> None:
    line = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with running(desk, limits=Limits(header_bytes=4096)) as made:
        with made.connect(line + behind + b"\r\n") as sock:
            answer = rest(sock)
        assert answer.startswith(b"HTTP/1.1 431 ") and b'"code": "header_too_large"' in answer
        with made.connect(line + b"A: " + b"x" * 4000 + b"\r\nConnection: close\r\n\r\n") as sock:
            assert rest(sock).startswith(b"HTTP/1.1 200")


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            server.listen(ServerSettings(port=port))
    assert caught.value.text() == (
        f"127.0.0.1:{port}: port {port} is in use\n  expected: a free port\n"
        f"  hint: --port {port + 1}, or end the program that has it"
    )
    with pytest.raises(UserError, match="this address is not known"):
        server.listen(ServerSettings(host="no such host"))


def test_a_socket_in_the_file_system(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = ServerSettings(unix_socket=path)
    first = server.listen(settings)
    assert path.stat().st_mode & 0o777 == 0o700 and server.address_of(first, settings) == f"unix:{path}"
    with pytest.raises(UserError, match="this socket is in use"):
        server.listen(settings)
    first.close()
    server.listen(settings).close()  # what nobody answers at is replaced
    other = tmp_path / "file"
    other.write_text("")
    with pytest.raises(UserError, match="this is not a socket"):
        server.listen(ServerSettings(unix_socket=other))
    with running(desk, unix_socket=tmp_path / "t"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT)
            sock.connect(str(tmp_path / "t"))
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert rest(sock).startswith(b"HTTP/1.1 200")


def test_the_end_lets_open_requests_end(desk: Desk) -> None:
    with running(desk) as made:
        made.ask("POST", PATH, QUESTION)
        engine = desk.engines["tiny"]
        engine.hold()
        body = json.dumps({**QUESTION, "max_tokens": 6, "stream": True}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with made.connect(head + body) as sock:
            engine.allow(2)
            begun = sock.recv(65536)
            made.uvicorn.handle_exit(signal.SIGTERM, None)
            assert desk.made.draining
            engine.allow(1000)
            assert b'"usage"' in begun + rest(sock)
        made.thread.join(LIMIT)
        assert not made.thread.is_alive() and not desk.made.loaded


def test_the_end_does_not_wait_for_ever(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """Who is cut off is told so in the interface's own form, and nothing is shown on the screen."""
    with running(desk, limits=Limits(drain_seconds=1)) as made:
        made.ask("POST", PATH, QUESTION)
        engine = desk.engines["tiny"]
        engine.hold()
        with made.connect(sent({**QUESTION, "max_tokens": 300, "stream": True})) as sock:
            engine.allow(2)
            begun = sock.recv(65536)
            with made.connect(sent(QUESTION)) as other:
                while desk.made.stats()["tiny"].waiting == 0:
                    time.sleep(0.01)
                made.uvicorn.handle_exit(signal.SIGTERM, None)
                stream, whole = begun + rest(sock), rest(other)
        engine.allow(1000)
        made.thread.join(LIMIT)
        assert not made.thread.is_alive()
    assert stream.startswith(b"HTTP/1.1 200") and b'{"code": "draining", "message": "the server is ending"' in stream
    assert stream.endswith(b"0\r\n\r\n")
    assert whole.startswith(b"HTTP/1.1 503") and b"retry-after: 5\r\n" in whole and b'"draining"' in whole
    assert "Traceback" not in capfd.readouterr().err
    assert [row["error"] for row in desk.log_rows("request")[1:]] == ["draining", "draining"]


def sent(body: Any, headers: str = "", announced: int | None = None, method: str = "POST", path: str = PATH) -> bytes:
    """A request as bytes; with `announced` it says that its body has so many."""
    data = json.dumps(body).encode()
    length = len(data) if announced is None else announced
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + data


def test_the_rest_of_a_refused_body_is_taken(desk: Desk) -> None:
    """A client that sends all it has before it reads must read why it was refused, and no reset connection."""
    body = b"x" * (32 << 20)  # more than the buffers of two sockets hold
    with running(desk) as made:
        for fields, status in (("", b"413"), ("Content-Encoding: gzip\r\n", b"415"), ("X-Request-Id: -\r\n", b"400")):
            with made.connect() as sock:
                sock.sendall(sent("", fields, len(body) + 2) + body)
                assert rest(sock).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(("method", "status"), [("GET", b"200"), ("PUT", b"405")])
def test_a_body_that_nobody_reads_ends_the_connection(desk: Desk, method: str, status: bytes) -> None:
    """Else a byte a minute would keep it for ever, and the body might be taken for the next request."""
    with running(desk, limits=Limits(body_seconds=0.3)) as made:
        with made.connect(sent("", announced=100_000, method=method, path="/health")) as sock:
            answer = rest(sock)
            assert answer.startswith(b"HTTP/1.1 " + status) and b"\r\nconnection: close\r\n" in answer.lower()


def test_a_body_with_two_lengths(desk: Desk) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    behind = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(desk) as made:
        with made.connect(head + b"2\r\n{}\r\n0\r\n\r\n" + behind) as sock:
            answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert b"Transfer-Encoding: stands beside Content-Length; expected: one of the two" in answer


def test_the_command_from_its_start_to_its_end(tiny: Path, tmp_path: Path) -> None:
    """`qwenkit serve` in a process of its own: the start screen, an answer, the log, SIGTERM, exit code 0."""
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "qwenkit.cli", "serve", str(tiny), "--port", "0", "--threads", "1",
               "--kv-tokens", "2048", "--log", str(log)]  # fmt: skip
    environment = {**os.environ, "QWENKIT_API_KEY": "sk-0123456789abcdef", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert process.stdout.readline().startswith("serving  tiny  (")
        port = int(address.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        fields = {"Authorization": "Bearer sk-0123456789abcdef"}
        connection.request("POST", PATH, json.dumps({**QUESTION, "model": "tiny"}), fields)
        response = connection.getresponse()
        assert response.status == 200 and response.read()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        timer.cancel()
        process.kill()
        process.wait(LIMIT)
    assert (process.returncode, err) == (0, "") and out.endswith("stopped\n")
    load, row = [json.loads(line) for line in log.read_text().splitlines()]
    assert (load["event"], load["model"]) == ("load", "tiny")
    assert (row["status"], row["key"], row["model"]) == (200, "default", "tiny")


SLOW_LOAD = """
import sys, time
from qwenkit.serving import served_model
served_model.loader = lambda **settings: lambda name, reference: time.sleep(1000)
from qwenkit.cli.entry import main
sys.argv = ["qwenkit", "serve", sys.argv[1], "--port", "0", "--log", "none"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_first_model_is_loaded_waits_for_no_load(tiny: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW_LOAD, str(tiny)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    try:
        assert process.stdout is not None and process.stdout.readline().endswith("loading tiny ...\n")
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        timer.cancel()
        process.kill()
        process.wait(LIMIT)
    assert (process.returncode, out, err) == (0, "stopped while tiny was being loaded\n", "")
