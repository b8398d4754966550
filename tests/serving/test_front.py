"""What every request passes before a route: ids, names, keys, bodies; and the forms of what is refused."""

from __future__ import annotations

import asyncio

import pytest

from qwenkit.serving.keys import Allowance, Client, Key, Keyring
from qwenkit.serving.settings import Limits
from tests.serving.asgi import LIMIT, aask, ask, open_
from tests.serving.conftest import Desk

SECRET = "sk-0123456789abcdef"
PATH = "/v1/completions"
QUESTION = {"prompt": "The river", "max_tokens": 3, "temperature": 0}


def keys(**allowance: int) -> Keyring:
    return Keyring([Key.of(Client("alice", Allowance(**allowance)), SECRET)])


def test_every_response_has_its_id(desk: Desk) -> None:
    app = desk.app()
    answer = ask(app, "POST", PATH, QUESTION, x_request_id="mine-1")
    assert answer.status == 200 and answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    other = ask(app, "GET", "/nowhere")
    assert other.status == 404 and len(other.headers["x-request-id"]) == 32
    rows = desk.log_rows("request")
    assert [row["id"] for row in rows] == ["mine-1", other.headers["x-request-id"]]
    assert rows[0]["prompt_tokens"] > 0 and rows[0]["generated_tokens"] == 3 and "river" not in desk.log.getvalue()


@pytest.mark.parametrize("id", ["", " ", "a b", "x" * 129, "é", "a\tb", "-x"])
def test_an_id_that_no_log_could_hold(desk: Desk, id: str) -> None:
    answer = ask(desk.app(), "POST", PATH, QUESTION, x_request_id=id)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request_id")
    assert len(answer.headers["x-request-id"]) == 32


def test_two_requests_with_one_id(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app()
        await aask(app, "POST", PATH, QUESTION)
        desk.engines["tiny"].hold()
        first = open_(app, "POST", PATH, QUESTION, x_request_id="twice")
        await asyncio.sleep(0)
        second = await aask(app, "POST", PATH, QUESTION, x_request_id="twice")
        assert (second.status, second.json["code"]) == (409, "duplicate_request_id")
        assert second.json["message"] == (
            "X-Request-Id: a request with the id twice is open; expected: an id for each request"
        )
        desk.engines["tiny"].allow(1000)
        assert (await first.answer()).status == 200
        assert (await aask(app, "POST", PATH, QUESTION, x_request_id="twice")).status == 200

    asyncio.run(run())


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions", "/metrics", "/openapi.json", "/nowhere", "/"])
@pytest.mark.parametrize("fields", [{}, {"authorization": "Bearer wrong-wrong-wrong-wrong"}, {"x_api_key": "no"}])
def test_nothing_without_a_key(desk: Desk, path: str, fields: dict[str, str]) -> None:
    answer = ask(desk.app(keyring=keys()), "POST" if path.startswith("/v1") else "GET", path, b"", **fields)
    assert (answer.status, answer.json["code"], answer.headers["www-authenticate"]) == (
        401,
        "invalid_api_key",
        "Bearer",
    )
    assert not desk.loads


@pytest.mark.parametrize(
    "fields", [{"authorization": f"Bearer {SECRET}"}, {"authorization": f"bearer  {SECRET} "}, {"x_api_key": SECRET}]
)
def test_both_ways_to_send_a_key(desk: Desk, fields: dict[str, str]) -> None:
    app = desk.app(keyring=keys())
    assert ask(app, "POST", PATH, QUESTION, **fields).status == 200
    assert SECRET not in desk.log.getvalue() and desk.log_rows("request")[0]["key"] == "alice"
    assert ask(app, "GET", "/health").json == {"status": "ok"}


def test_names_and_pages(desk: Desk) -> None:
    app = desk.app(origins=("https://chat.example.org",), keyring=keys())
    assert ask(app, "GET", "/health", host="evil.example").json["code"] == "host_not_allowed"
    assert ask(app, "POST", PATH, QUESTION, origin="https://evil.example").json["code"] == "origin_not_allowed"
    may = ask(app, "OPTIONS", PATH, origin="https://chat.example.org", access_control_request_method="POST")
    assert (may.status, may.body) == (204, b"") and may.headers[
        "access-control-allow-origin"
    ] == "https://chat.example.org"
    answer = ask(app, "POST", PATH, QUESTION, origin="https://chat.example.org", x_api_key=SECRET)
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert "access-control-allow-credentials" not in answer.headers


def test_a_body_that_is_too_large(desk: Desk) -> None:
    app = desk.app(limits=Limits(body_bytes=1000))
    announced = ask(app, "POST", PATH, b"{}", content_length="1001")
    assert (announced.status, announced.json["code"], announced.headers["connection"]) == (
        413,
        "body_too_large",
        "close",
    )
    come = ask(app, "POST", PATH, [b"x" * 600, b"x" * 600])
    assert (come.status, come.json["message"]) == (413, "the body is too large; expected: at most 0.000954 MB")
    assert ask(app, "POST", PATH, b"{}", content_length="9" * 5000).status == 413


def test_the_bodies_of_all_together(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app(limits=Limits(body_bytes=1000, all_body_bytes=1500))
        slow = open_(app, "POST", PATH, [b"x" * 900, None])
        await asyncio.sleep(0)
        refused = await aask(app, "POST", PATH, [b"x" * 700])
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "server_busy", "1")
        slow.leave()
        await asyncio.wait_for(slow.task, LIMIT)
        assert (await aask(app, "POST", PATH, [b"x" * 700])).json["code"] == "invalid_json"

    asyncio.run(run())


def test_a_body_that_does_not_come(desk: Desk) -> None:
    answer = ask(desk.app(limits=Limits(body_seconds=0.05)), "POST", PATH, [b"{", None])
    assert (answer.status, answer.json["code"]) == (408, "body_timeout")
    assert answer.json["message"] == "the body did not come within 0.05 s"


def test_a_compressed_body(desk: Desk) -> None:
    answer = ask(desk.app(), "POST", PATH, b"x", content_encoding="gzip")
    assert (answer.status, answer.json["message"]) == (
        415,
        "Content-Encoding: the body is compressed; expected: identity",
    )


def test_a_client_that_has_asked_too_much(desk: Desk) -> None:
    app = desk.app(keyring=keys(requests_per_minute=2))
    statuses = [ask(app, "POST", PATH, QUESTION, x_api_key=SECRET).status for _ in range(2)]
    refused = ask(app, "POST", PATH, QUESTION, x_api_key=SECRET)
    assert statuses == [200, 200] and refused.status == 429 and 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json["code"] == "rate_limit_exceeded" and refused.headers["connection"] == "close"


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/completions/", "/../etc/passwd", "//v1/completions", "/v1/completions\x00"]
)
def test_paths_that_are_not_there(desk: Desk, path: str) -> None:
    answer = ask(desk.app(), "POST", path, QUESTION)
    assert (answer.status, answer.json["code"]) == (404, "no_such_path")
    wrong = ask(desk.app(), "GET", PATH)
    assert (wrong.status, wrong.json["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert wrong.json["message"] == "GET is not for this path; expected: POST"


@pytest.mark.parametrize(
    ("path", "meant"),
    [("/chat/completions", "/v1/chat/completions"), ("/v1/v1/completions", "/v1/completions"),
     ("/v1/completions/", "/v1/completions"), ("/v1/models/", "/v1/models"), ("/v1/embedding", "/v1/embeddings")],
)  # fmt: skip
def test_the_nearest_path_is_told(desk: Desk, path: str, meant: str) -> None:
    answer = ask(desk.app(), "GET", path)
    assert (answer.status, answer.json["message"]) == (404, f"there is no path {path}; hint: did you mean {meant}?")
    assert "did you mean" not in ask(desk.app(), "GET", "/favicon.ico").json["message"]


def test_what_programs_are_told_to_do(desk: Desk) -> None:
    """The clients of OpenAI and Anthropic ask again after a 409 and a 504, unless they are told not to."""

    async def run() -> None:
        app = desk.app(limits=Limits(request_seconds=1))
        await aask(app, "POST", PATH, QUESTION)
        desk.engines["tiny"].hold()
        first = open_(app, "POST", PATH, QUESTION, x_request_id="one")
        await asyncio.sleep(0)
        assert (await aask(app, "POST", PATH, QUESTION, x_request_id="one")).headers["x-should-retry"] == "false"
        late = await first.answer()
        assert (late.status, late.headers["x-should-retry"]) == (504, "false")
        desk.engines["tiny"].allow(1000)

    asyncio.run(run())


def test_a_fault_tells_the_log_and_nobody_else(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.serving import plain_codec

    def fails(*given: object) -> None:
        raise RuntimeError("/secret/path and a stack")

    monkeypatch.setattr(plain_codec, "whole", fails)
    answer = ask(desk.app(), "POST", PATH, QUESTION)
    assert answer.status == 500 and b"secret" not in answer.body and answer.json["code"] == "internal_error"
    (row,) = desk.log_rows("request")
    assert row["fault"].startswith("RuntimeError: test_front.py:") and "secret" not in desk.log.getvalue()
