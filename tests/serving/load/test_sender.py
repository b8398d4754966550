"""One request over HTTP: what a good server tells, and every way in which a server may be none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.serving.load.records import RequestRecord
from qwenkit.serving.load.requests import LoadRequest
from tests.serving.load import odd_server
from tests.serving.load.odd_server import OddServer, event, plain, streams, word

pytest.importorskip("aiohttp", reason="the extra `load` is not installed")
from qwenkit.serving.load.sender import HttpSender, Target

ASKED = LoadRequest("Once", None, 3)


def ask(answer: odd_server.Answer, request: LoadRequest = ASKED, times: int = 1, **settings: Any) -> tuple[
    list[RequestRecord], OddServer
]:  # fmt: skip
    """Ask a server of one behaviour so many times, one after the other."""
    server = OddServer(answer)

    async def measure() -> list[RequestRecord]:
        async with server.listening() as url, HttpSender(Target(url, **settings)) as send:
            records = [RequestRecord(number, None, time.perf_counter()) for number in range(times)]
            for record in records:
                await asyncio.wait_for(send(request, record), odd_server.LIMIT)
            return records

    return asyncio.run(measure()), server


def test_a_good_stream() -> None:
    (record,), server = ask(odd_server.good, model="m", key="secret", body={"temperature": 0})
    assert (record.error, record.status, record.finish_reason) == (None, 200, "length")
    assert (record.prompt_tokens, record.answer_tokens, len(record.times)) == (7, 3, 3)  # the role is no token
    assert record.first_token is not None and record.sent <= record.times[0] <= record.times[2]
    head, body = server.requests[0]
    assert head.startswith("POST /v1/chat/completions ") and "authorization: bearer secret" in head.lower()
    assert body == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
        "messages": [{"role": "user", "content": "Once"}], "max_tokens": 3,
    }  # fmt: skip


def test_a_connection_is_used_again() -> None:
    records, server = ask(odd_server.good, times=5)
    assert [record.error for record in records] == [None] * 5 and server.connections == 1


def test_a_kept_connection_that_was_closed_is_met_once() -> None:
    records, server = ask(odd_server.in_turn(odd_server.good, odd_server.hangs_up, odd_server.good), times=2)
    assert [record.error for record in records] == [None, None] and (server.connections, len(server.requests)) == (2, 3)


def test_a_new_connection_that_is_closed_is_an_error() -> None:
    records, server = ask(odd_server.in_turn(odd_server.good, odd_server.hangs_up, odd_server.hangs_up), times=2)
    assert [record.error for record in records] == [None, "connection lost"] and len(server.requests) == 3


def test_token_ids_for_completions() -> None:
    (record,), server = ask(odd_server.good, LoadRequest([5, 6], None, 2), api="completions")
    assert record.error is None and server.requests[0][0].startswith("POST /v1/completions ")
    assert server.requests[0][1]["prompt"] == [5, 6] and "messages" not in server.requests[0][1]


def test_chunks_are_counted_where_the_server_tells_no_usage() -> None:
    (record,), _ = ask(odd_server.without_usage)
    assert (record.error, record.answer_tokens, record.tokens) == (None, None, 2)


def test_thoughts_and_calls_are_tokens_too() -> None:
    deltas = [{"reasoning": "a"}, {"reasoning_content": "b"}, {"tool_calls": [{"index": 0}]}, {"content": ""}, {}]
    pieces = [event(choices=[{"delta": delta}]) for delta in deltas]
    (record,), _ = ask(streams(*pieces, b"data: [DONE]\n\n"))
    assert (record.error, len(record.times)) == (None, 3)


HTML = b"<html><body>502 Bad Gateway</body></html>"
BROKEN = {
    "a stream that is dropped": (odd_server.drops, "connection lost", None),
    "half a line": (odd_server.half_a_line, "the stream ends early", "after 1 chunks"),
    "no end": (streams(word("a"), word("b")), "the stream ends early", "after 2 chunks"),
    "another protocol": (odd_server.not_http, "not HTTP", None),
    "a busy server": (
        plain("429 Too Many Requests", b'{"error": {"message": "later"}}', "application/json", "Retry-After: 7"),
        "HTTP 429", "later",
    ),
    "a gateway": (plain("502 Bad Gateway", HTML, "text/html"), "HTTP 502", HTML.decode()),
    "a page": (plain("200 OK", HTML, "text/html"), "not a stream", f"text/html: {HTML.decode()}"),
    "a whole answer": (plain("200 OK", b'{"choices": []}'), "not a stream", 'application/json: {"choices": []}'),
    "an error in the stream": (
        streams(word("a"), event(error={"message": "out of memory"}), b"data: [DONE]\n\n"),
        "an error in the stream", "out of memory",
    ),
    "another error in the stream": (
        streams(event(error="out of memory", code=500)), "an error in the stream", "out of memory"
    ),
    "no JSON": (streams(word("a"), b"data: {nope\n\n"), "not JSON in the stream", "{nope"),
    "deep JSON": (streams(b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON in the stream", "[" * 200),
    "a list": (streams(b"data: [1]\n\n"), "not an object in the stream", "[1]"),
    "an event without end": (streams(b"data: " + b"x" * 5_000_000), "an event is too long", "more than 4000000 bytes"),
    "elsewhere": (plain("307 Temporary Redirect", b"", "text/plain", "Location: /v2"), "HTTP 307", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer(name: str) -> None:
    answer, kind, detail = BROKEN[name]
    (record,), server = ask(answer)
    assert record.error == kind and (detail is None or record.detail == detail)
    assert len(server.requests) == 1, "it was asked once, and nobody else was"
    assert record.retry_after == (7 if "429" in kind else None)


@pytest.mark.parametrize(
    ("answer", "settings", "kind"),
    [
        (odd_server.silent, {"silence_seconds": 0.2}, "silence"),
        (odd_server.stalls, {"silence_seconds": 0.2}, "silence"),
        (odd_server.silent, {"request_seconds": 0.2}, "timeout"),
        (odd_server.drips, {"silence_seconds": 5.0, "request_seconds": 0.3}, "timeout"),
    ],
    ids=["nothing", "nothing more", "nothing in time", "never an end"],
)
def test_every_wait_ends(answer: odd_server.Answer, settings: dict[str, float], kind: str) -> None:
    (record,), _ = ask(answer, **settings)
    assert record.error == kind


def test_a_server_that_never_closes_after_the_end() -> None:
    async def hangs(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        writer.write(odd_server.STREAM + odd_server.chunk(word("a", "stop")) + odd_server.chunk(b"data: [DONE]\n\n"))
        await asyncio.sleep(odd_server.LIMIT)

    (record,), _ = ask(hangs)
    assert (record.error, len(record.times)) == (None, 1)


def test_nobody_listens() -> None:
    async def measure() -> RequestRecord:
        async with OddServer(odd_server.good).listening() as url:
            pass
        async with HttpSender(Target(url)) as send:
            await send(ASKED, record := RequestRecord(0, None, 0.0))
            return record

    record = asyncio.run(measure())
    assert (record.error, record.detail) == ("no connection", "Connection refused")


# ---- whom to ask -----------------------------------------------------------------------------------------------------


def with_models(answer: odd_server.Answer) -> list[str]:
    async def measure() -> list[str]:
        async with OddServer(odd_server.good, answer).listening() as url, HttpSender(Target(url)) as send:
            return await send.models()

    return asyncio.run(measure())


def test_the_names_of_models() -> None:
    assert with_models(odd_server.MODELS) == ["odd", "other"]
    for answer in (
        plain("404 Not Found", b""),
        plain("200 OK", HTML, "text/html"),
        plain("200 OK", b'{"data": [1, {}]}'),
    ):
        assert with_models(answer) == []


def test_a_server_that_wants_a_key() -> None:
    with pytest.raises(UserError) as caught:
        with_models(plain("401 Unauthorized", b'{"error": {"message": "a key is missing"}}'))
    assert caught.value.what == "the server answers 401: a key is missing"
    assert caught.value.hint == "its key comes from the environment: QWENKIT_API_KEY, or --key-variable"


def test_what_is_not_http() -> None:
    with pytest.raises(UserError, match="the server cannot be reached"):
        with_models(odd_server.not_http)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://api.example.org/v1/", "https://api.example.org/v1"),
        ("http://[::1]:80/openai/v2", "http://[::1]:80/openai/v2"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    assert Target(url).base() == base


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "http://[::1", "http://a/v1?x=1", "unix:/run/a"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match=r"expected: such as http://127\.0\.0\.1:8000"):
        Target(url).base()


def test_no_password_in_an_address() -> None:
    with pytest.raises(UserError) as caught:
        Target("http://user:secret@host").base()
    assert "secret" not in str(caught.value) and "secret" not in repr(Target("http://a", key="secret"))
