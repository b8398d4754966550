"""Gradio behind its gate: what is closed, whose pages are whose, and what a browser is told. Over a real socket."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Client, Key, Keyring
from qwenkit.serving.page.gate import check_path, checked_join, digests_of
from qwenkit.serving.page.key_form import cookie
from qwenkit.serving.refusals import Refused
from qwenkit.serving.settings import Limits
from tests.serving.asgi import LIMIT
from tests.serving.conftest import Desk
from tests.serving.test_server import Running, running

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789xx"
JOIN = {"data": [], "fn_index": 0, "session_hash": "abc", "event_data": None, "trigger_id": None}


def test_nothing_of_it_is_imported_without_being_asked() -> None:
    code = "import sys, qwenkit.serving.app, qwenkit.serving.server; assert 'gradio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT)


class Visitor:
    """Somebody with a browser, and a key or none."""

    def __init__(self, made: Running, key: str | None) -> None:
        self.made, self.cookie = made, {} if key is None else {"Cookie": cookie(key, "/ui", False).partition(";")[0]}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.made.port, timeout=LIMIT)
        try:
            sent = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
            connection.request(method, path, sent, {**self.cookie, **kind, **headers})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, response.read()
        finally:
            connection.close()


@pytest.fixture(name="made")
def _made(desk: Desk) -> Iterator[Running]:
    pytest.importorskip("gradio", reason="the page needs the extra `ui`")
    keys = Keyring([Key.of("alice", ALICE), Key.of(Client("bob", models=frozenset({"tiny"})), BOB)])
    with running(desk, codecs=CODECS, page=True, keyring=keys, limits=Limits(body_bytes=200_000)) as made:
        yield made


CLOSED = [
    ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/file/etc/passwd"), ("GET", "/file=/etc/passwd"),
    ("GET", "/gradio_api/file=http://127.0.0.1/"), ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
    ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/upload_progress?upload_id=a"),
    ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/api/predict"), ("POST", "/gradio_api/call/send"),
    ("GET", "/gradio_api/call/send/abc"), ("POST", "/gradio_api/cancel"), ("POST", "/gradio_api/reset"),
    ("POST", "/gradio_api/component_server"), ("GET", "/gradio_api/info"), ("GET", "/gradio_api/openapi.json"),
    ("GET", "/config"), ("GET", "/gradio_api/runs"), ("GET", "/gradio_api/deep_link"), ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/app_id"), ("GET", "/gradio_api/dev/reload"), ("POST", "/login"), ("GET", "/logout"),
    ("GET", "/monitoring"), ("GET", "/monitoring/summary"), ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/custom_component/a/client/component/index.js"), ("GET", "/svelte/x"),
    ("GET", "/manifest.json"), ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"), ("POST", "/gradio_api/stream/a"),
    ("GET", "/gradio_api/mcp/"),
    ("GET", "/assets/../index.html"), ("GET", "/assets/%2e%2e/index.html"), ("GET", "/assets/..%2findex.html"),
    ("GET", "/assets//etc/passwd"), ("GET", "/static/../../routes.py"), ("GET", "/static/js/..%5c..%5croutes.py"),
    ("PUT", "/"), ("DELETE", "/theme.css"), ("POST", "/"), ("GET", "/gradio_api/heartbeat/../x"),
    ("GET", "/export/abc.py"), ("GET", "/export/..%2f..%2fx.json"), ("GET", "/export/nobody.json"),
]  # fmt: skip


def test_what_is_closed_is_not_there(made: Running) -> None:
    """File paths, uploads, the proxy, calls past the queue, gradio's own tools: 404 or 405, for whoever has a key."""
    alice = Visitor(made, ALICE)
    for method, path in CLOSED:
        status, fields, body = alice.ask(method, f"/ui{path}", b"{}" if method == "POST" else None)
        assert status in (404, 405), (method, path, status)
        assert fields["content-type"] == "application/json" and b"root:" not in body


def test_nothing_without_a_key_but_the_form(made: Running) -> None:
    nobody, wrong = Visitor(made, None), Visitor(made, "sk-wrong-wrong-wrong")
    for visitor in (nobody, wrong):
        status, fields, body = visitor.ask("GET", "/ui/")
        assert status == 200 and b"<form" in body and b"gradio" not in body
        assert "script-src 'self';" in fields["content-security-policy"]
        for method, path in [*CLOSED, ("GET", "/theme.css"), ("GET", "/page.js"), ("GET", "/gradio_api/heartbeat/abc"),
                             ("GET", "/gradio_api/queue/data?session_hash=abc"), ("POST", "/gradio_api/queue/join"),
                             ("GET", "/export/abc.json")]:  # fmt: skip
            if ".." not in path and "%" not in path and path != "/":
                assert visitor.ask(method, f"/ui{path}", "{}" if method == "POST" else None)[0] == 401, path
    assert nobody.ask("GET", "/ui/theme.css", Authorization=f"Bearer {ALICE}")[0] == 401  # a key, but not the page's
    assert Visitor(made, ALICE).ask("GET", "/v1/models")[0] == 401  # a cookie, which a page of another site may cause


def test_the_form_gives_a_cookie_for_a_key_that_is_known(made: Running) -> None:
    nobody = Visitor(made, None)
    status, fields, body = nobody.ask("POST", "/ui/key", "key=sk-wrong-wrong-wrong")
    assert status == 401 and b"not known" in body and "set-cookie" not in fields
    status, fields, _ = nobody.ask("POST", "/ui/key", f"key={quote(ALICE)}")
    assert (status, fields["location"]) == (303, "/ui/")
    assert fields["set-cookie"] == cookie(ALICE, "/ui", False)
    origin = {"Origin": "https://evil.example"}
    assert nobody.ask("POST", "/ui/key", f"key={quote(ALICE)}", **origin)[0] == 403
    assert nobody.ask("GET", "/ui/", Host="evil.example")[0] == 403
    assert nobody.ask("POST", "/ui/key", b"key=" + b"x" * 300_000)[0] == 413
    assert (nobody.ask("GET", "/ui")[0], nobody.ask("GET", "/")[0]) == (307, 307)


def test_the_page_names_no_other_host_and_its_policy_allows_none(made: Running) -> None:
    status, fields, body = Visitor(made, ALICE).ask("GET", "/ui/", **{"Accept-Encoding": "br, gzip"})
    html, policy = body.decode(), fields["content-security-policy"]
    assert status == 200 and "gradio_config" in html
    assert not re.findall(r'(?:src|href|content)="(?:https?:)?//', html)
    assert "unsafe-eval" not in policy and "*" not in policy and "http" not in policy
    (scripts,) = re.findall(r"script-src ([^;]*)", policy)
    assert scripts.split() == ["'self'", *(f"'{digest}'" for digest in digests_of(html))]
    assert fields["cache-control"] == "no-store" and fields["x-content-type-options"] == "nosniff"
    for path in re.findall(r'(?:src|href)="(\./[^"]+|/ui/[^"]+)"', html):
        status, fields, _ = Visitor(made, ALICE).ask("GET", "/ui" + path.removeprefix("/ui").removeprefix("."))
        assert status == 200 and "default-src 'none'" in fields["content-security-policy"]


def test_a_page_of_another_key_is_closed(made: Running) -> None:
    alice, bob = Visitor(made, ALICE), Visitor(made, BOB)
    assert alice.ask("POST", "/ui/gradio_api/queue/join", {**JOIN, "session_hash": "hers"})[0] != 403
    for method, path, body in (
        ("POST", "/gradio_api/queue/join", {**JOIN, "session_hash": "hers"}),
        ("GET", "/gradio_api/queue/data?session_hash=hers", None), ("GET", "/gradio_api/heartbeat/hers", None),
    ):  # fmt: skip
        status, _, answer = bob.ask(method, f"/ui{path}", body)
        assert status == 403 and json.loads(answer)["error"]["code"] == "foreign_page"
    assert alice.ask("GET", "/ui/export/hers.json")[2] == b"[]\n" and bob.ask("GET", "/ui/export/hers.json")[0] == 404


def test_bodies_that_no_page_sends(made: Running) -> None:
    alice = Visitor(made, ALICE)
    for body in (b"", b"[]", b"{", b"\xff", {**JOIN, "session_hash": "../x"}, {**JOIN, "fn_index": "send"},
                 {**JOIN, "fn_index": 10**9},
                 {**JOIN, "data": {}}, {**JOIN, "other": 1}, {**JOIN, "request": {"username": "a"}}, {},
                 {**JOIN, "session_hash": None}, b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}"):  # fmt: skip
        assert alice.ask("POST", "/ui/gradio_api/queue/join", body)[0] == 400, body
    assert alice.ask("POST", "/ui/gradio_api/queue/join", b" " * 300_000)[0] == 413
    assert alice.ask("GET", "/ui/gradio_api/queue/data")[0] == 400
    assert alice.ask("GET", "/ui/gradio_api/queue/data?session_hash=a&session_hash=b")[0] == 400


def test_events_of_junk_break_nothing(made: Running, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever has a key may send any event with any values: none breaks the page, and none tells what it held."""
    alice = Visitor(made, ALICE)
    junk: list[Any] = [[], ["secret"] * 14, [None] * 14, [{"path": "/etc/passwd"}] * 14, [["secret"]] * 40]
    statuses = {
        alice.ask("POST", "/ui/gradio_api/queue/join",
                  {**JOIN, "fn_index": number, "data": data, "event_data": event})[0]
        for number in (-1, *range(20), 10**9) for data in junk for event in (None, {"index": [9, {}], "value": [[]]})
    }  # fmt: skip
    assert statuses <= {200, 400, 404, 422}
    with made.connect(f"GET /ui/gradio_api/queue/data?session_hash=abc HTTP/1.1\r\nHost: localhost\r\nCookie: "
                      f"{alice.cookie['Cookie']}\r\n\r\n".encode()) as sock:  # fmt: skip
        told = more = sock.recv(65536)
        while more and b"close_stream" not in told:
            told += (more := sock.recv(65536))
    assert b"root:" not in told, told[-500:]
    assert alice.ask("GET", "/ui/")[0] == 200
    assert "secret" not in capfd.readouterr().err
    assert "secret" not in made.desk.log.getvalue()


def test_an_open_page_does_not_keep_the_server_from_its_end(desk: Desk) -> None:
    pytest.importorskip("gradio", reason="the page needs the extra `ui`")
    with running(desk, codecs=CODECS, page=True, limits=Limits(drain_seconds=10_000)) as made:
        with made.connect(b"GET /ui/gradio_api/heartbeat/abc HTTP/1.1\r\nHost: localhost\r\n\r\n") as sock:
            begun = b""
            while b"ALIVE" not in begun:
                begun += sock.recv(65536)
            made.uvicorn.handle_exit(signal.SIGTERM, None)
            made.thread.join(LIMIT)
            assert not made.thread.is_alive()


def test_paths_and_bodies_alone() -> None:
    for raw in (b"/assets/a%2e", b"%"):
        with pytest.raises(Refused):
            check_path("GET", "/assets/a.", raw)
    check_path("HEAD", "/assets/index-a.js", b"/ui/assets/index-a.js")
    assert checked_join(json.dumps(JOIN).encode(), [0]) == "abc"
