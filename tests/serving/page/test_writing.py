"""Answers that the page asks for: through the front of the server, with its limits, its log, and its way to leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwenkit.chat import load_tokenizer
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Allowance, Client, Key, Keyring
from qwenkit.serving.page.asked_settings import PageSettings
from qwenkit.serving.page.asking import Asked
from qwenkit.serving.page.sessions import Session
from qwenkit.serving.page.tree import Answer
from qwenkit.serving.page.writing import take, write
from qwenkit.serving.refusals import Refused
from tests.serving.asgi import LIMIT
from tests.serving.conftest import Desk

SECRET = "sk-0123456789abcdef"
SETTINGS = PageSettings(("tiny",), "", {"max_tokens": 4, "temperature": 0})


def write_all(app: Any, session: Session, settings: PageSettings, key: str | None = None) -> None:
    async def run() -> None:
        async with asyncio.timeout(LIMIT):
            async for _ in write(session, settings, app, key):
                pass

    asyncio.run(run())


def test_two_models_answer_one_question(desk: Desk) -> None:
    app, session = desk.app("tiny", "other", codecs=CODECS), Session("p", "anybody")
    session.tree.ask("river?")
    write_all(app, session, PageSettings(("tiny", "other"), "", SETTINGS.fields))
    answers = session.tree.turns[0].answers
    assert list(answers) == ["tiny", "other"] and answers["tiny"].text == answers["other"].text
    assert answers["tiny"].state in ("done", "length") and answers["tiny"].figures["answer_tokens"] <= 4
    assert not session.busy and not session.running
    rows = desk.log_rows("request")
    assert {(row["path"], row["model"], row["user"], row["status"]) for row in rows} == {
        ("/v1/chat/completions", "tiny", "page", 200), ("/v1/chat/completions", "other", "page", 200),
    }  # fmt: skip


def test_the_limits_of_the_key_hold(desk: Desk) -> None:
    allowance = Allowance(requests_per_minute=1, max_tokens=3)
    keyring = Keyring([Key.of(Client("alice", allowance), SECRET)])
    app, session = desk.app(codecs=CODECS, keyring=keyring), Session("p", "alice")
    session.tree.ask("river?")
    for expected, code, status in (
        ("max_tokens = 4; expected: at most 3", "max_tokens_exceeded", 400),
        ("requests", "rate_limit_exceeded", 429),
    ):
        write_all(app, session, SETTINGS, SECRET)
        answer = session.tree.turns[0].answers["tiny"]
        assert answer.state == "failed" and expected in answer.error and answer.code == code
        assert desk.log_rows("request")[-1]["status"] == status


@pytest.mark.parametrize(
    "model, key, message",
    [("tiny", None, "a key is missing; expected: Authorization: Bearer KEY, or X-Api-Key: KEY"),
     ("tiny", "sk-wrong-wrong-wrong", "this key is not known; expected: Authorization: Bearer KEY, or X-Api-Key: KEY"),
     ("tin", SECRET, "model: there is no model 'tin'; expected: tiny; hint: did you mean tiny?")],
)  # fmt: skip
def test_a_refusal_is_the_answer(desk: Desk, model: str, key: str | None, message: str) -> None:
    app = desk.app(codecs=CODECS, keyring=Keyring([Key.of("alice", SECRET)]))
    session = Session("p", "alice")
    session.tree.ask("river?")
    write_all(app, session, PageSettings((model,)), key)
    answer = session.tree.turns[0].answers[model]
    assert (answer.state, answer.error) == ("failed", message)


def endless(desk: Desk) -> PageSettings:
    """Settings under which the tiny model writes the same word again and again."""
    word = load_tokenizer(desk.folder).encode("river")[0]
    return PageSettings(("tiny",), "", {"max_tokens": 300, "temperature": 0, "logit_bias": {str(word): 100}})


@pytest.mark.parametrize("by_stop", [True, False])
def test_stop_or_no_reader_frees_the_place_in_the_engine(desk: Desk, by_stop: bool) -> None:
    app, session = desk.app(codecs=CODECS), Session("p", "anybody")
    session.tree.ask("river?")

    async def run() -> None:
        async with asyncio.timeout(LIMIT):
            await desk.made.load(desk.made.entries[0])
            engine = desk.engines["tiny"]
            engine.hold()
            engine.allow(6)
            writing = write(session, endless(desk), app, None)
            await anext(writing)
            assert session.busy
            engine.allow(1000)
            if by_stop:
                session.stop()
                async for _ in writing:
                    pass
            else:
                await writing.aclose()
            await asyncio.to_thread(engine.wait_until_aborted)

    asyncio.run(run())
    answer = session.tree.turns[0].answers["tiny"]
    assert answer.state == "stopped" and answer.text and not session.running and not session.busy
    assert desk.log_rows("request")[0]["left"]


def test_a_server_that_breaks_is_told_without_its_reasons() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret")

    session = Session("p", "anybody")
    session.tree.ask("river?")
    write_all(broken, session, SETTINGS)
    answer = session.tree.turns[0].answers["tiny"]
    assert (answer.state, answer.error) == ("failed", "")


def test_an_error_in_the_middle_of_a_stream() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (
            b'data: {"choices": [{"delta": {"content": "a"}}]}\n',
            b'\ndata: {"error": {"message": "no"}}\n\n',
        ):
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def run() -> list[Any]:
        chunks = []
        with pytest.raises(Refused, match="no"):
            async for chunk in Asked(app, {}, None).chunks():
                chunks.append(chunk)
        return chunks

    assert asyncio.run(run()) == [{"choices": [{"delta": {"content": "a"}}]}]


def test_speed_is_what_the_engine_takes_not_what_the_page_does(desk: Desk) -> None:
    """A page that reads nothing yet: the seconds are those at which the engine gave its tokens."""
    app = desk.app(codecs=CODECS)

    async def run() -> dict[str, float]:
        async with asyncio.timeout(LIMIT):
            await desk.made.load(desk.made.entries[0])
            engine = desk.engines["tiny"]
            engine.hold()
            messages = [{"role": "user", "content": "river?"}]
            asked = Asked(app, endless(desk).body("tiny", messages), None)
            assert asked.figures == {}
            engine.allow(2)
            while "first_s" not in asked.figures:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            engine.allow(4)
            while asked.figures["answer_tokens"] < 5:
                await asyncio.sleep(0.01)
            figures = dict(asked.figures)
            engine.allow(1000)
            asked.leave()
            async for _ in asked.chunks():
                pass
            return figures

    figures = asyncio.run(run())
    assert figures["last_s"] - figures["first_s"] >= 0.3
    assert figures["prompt_tokens"] == desk.log_rows("request")[0]["prompt_tokens"]


def test_thoughts_calls_and_end_of_chunks() -> None:
    answer = Answer()
    for delta in (
        {"reasoning": "h", "reasoning_content": "h"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    ):
        take(answer, {"choices": [{"delta": delta}]})
    take(answer, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    assert (answer.thoughts, answer.state) == ("h", "done") and answer.calls[0].arguments == "{}"
