"""Answers through the application: whole, streamed, cut off by those who leave, bounded for those who take nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwenkit.inference import Engine, SamplingParams
from qwenkit.serving import answering, reading
from qwenkit.serving.answering import NUMBERS_AT_ONCE
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Allowance, Client, Key, Keyring
from qwenkit.serving.settings import Limits
from tests.serving.asgi import LIMIT, Exchange, aask, ask, open_
from tests.serving.conftest import Desk

PATH = "/v1/completions"
QUESTION = {"prompt": "The river 7 flows past a garden of stone. " * 3, "max_tokens": 5, "temperature": 0}
LONG = {**QUESTION, "max_tokens": 300, "stream": True}


async def frames(exchange: Exchange) -> list[Any]:
    text = b"".join([chunk async for chunk in exchange.chunks()])
    return [json.loads(frame[6:]) for frame in text.split(b"\n\n") if frame.startswith(b"data: ")]


async def started(desk: Desk, app: Any, body: Any = LONG, **headers: str) -> Exchange:
    """A streamed answer whose first token has come, on an engine that is held back."""
    if not desk.engines:
        await aask(app, "POST", PATH, QUESTION, **headers)
    engine = desk.engines["tiny"]
    engine.hold()
    exchange = open_(app, "POST", PATH, body, **headers)
    engine.allow(2)
    async for chunk in exchange.chunks():
        if b'"text"' in chunk:
            return exchange
    raise AssertionError("no text came")


async def idle(desk: Desk) -> None:
    """Wait until no request is left on the engine."""
    model = desk.made.loaded["tiny"]
    for _ in range(int(LIMIT / 0.01)):
        stats = model.loop.stats()
        if not stats.running and not stats.waiting and not model.engine.stats().kv_tokens_used:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a request is still there")


def test_whole_and_streamed_answers_are_the_engines(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app()
        answer = await aask(app, "POST", PATH, QUESTION)
        model = desk.made.loaded["tiny"]
        params = SamplingParams(max_tokens=5, temperature=0)
        expected = Engine(desk.folder, model.tok).generate([QUESTION["prompt"]], params)[0]
        assert answer.json["texts"] == [expected.text] and answer.json["usage"]["completion_tokens"] == len(
            expected.ids
        )
        streamed = open_(app, "POST", PATH, {**QUESTION, "stream": True})
        rows = await frames(streamed)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert "".join(row.get("text", "") for row in rows) == expected.text
        assert rows[0] == {"event": "Began"} and rows[-1]["usage"]["completion_tokens"] == len(expected.ids)

    asyncio.run(run())


def test_several_prompts_and_answers_at_once(desk: Desk) -> None:
    app = desk.app()
    alone = [ask(app, "POST", PATH, {**QUESTION, "prompt": prompt}).json["texts"][0] for prompt in ("river", "石头")]
    both = ask(app, "POST", PATH, {**QUESTION, "prompt": ["river", "石头"], "n": 2}).json
    assert both["texts"] == [alone[0], alone[0], alone[1], alone[1]]
    sampled = {**QUESTION, "temperature": 1, "seed": 3}
    assert ask(app, "POST", PATH, sampled).json["texts"] == ask(app, "POST", PATH, sampled).json["texts"]


def test_a_client_that_leaves_frees_its_place_within_one_step(desk: Desk) -> None:
    """Whether its answer is being streamed or comes as a whole: no further step computes it."""

    async def run() -> None:
        app = desk.app()
        streamed = await started(desk, app)
        engine = desk.engines["tiny"]
        streamed.leave()
        await asyncio.wait_for(streamed.task, LIMIT)
        engine.allow(1)  # the step that was being computed
        await asyncio.to_thread(engine.wait_until_aborted)
        engine.allow(1)  # the next one has its place
        await idle(desk)
        whole = open_(app, "POST", PATH, {**LONG, "stream": False})
        engine.allow(2)
        while not desk.made.loaded["tiny"].loop.stats().running:
            await asyncio.sleep(0.01)
        whole.leave()
        await asyncio.wait_for(whole.task, LIMIT)
        engine.allow(1)
        await asyncio.to_thread(engine.wait_until_aborted, 2)
        engine.allow(1)
        await idle(desk)
        assert [row.get("left") for row in desk.log_rows("request")] == [None, True, True]
        assert app.state.services.metrics.disconnects.value(face="plain_codec") == 2

    asyncio.run(run())


def test_a_client_that_leaves_before_its_turn(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app()
        await aask(app, "POST", PATH, QUESTION)
        desk.engines["tiny"].hold()
        waiting = [open_(app, "POST", PATH, LONG) for _ in range(3)]
        while desk.made.loaded["tiny"].loop.stats().waiting < 3:
            await asyncio.sleep(0.01)
        for exchange in waiting:
            exchange.leave()
        await asyncio.wait_for(asyncio.gather(*(exchange.task for exchange in waiting)), LIMIT)
        desk.engines["tiny"].allow(2)
        await idle(desk)

    asyncio.run(run())


def test_a_reader_that_takes_nothing_is_given_up(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app(limits=Limits(send_seconds=0.05))
        exchange = await started(desk, app)
        exchange.takes.clear()
        desk.engines["tiny"].allow(4)
        await asyncio.wait_for(exchange.task, LIMIT)
        desk.engines["tiny"].allow(4)
        await idle(desk)
        assert desk.log_rows("request")[-1]["error"] == "client_too_slow"

    asyncio.run(run())


def test_a_stream_says_that_it_is_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        app = desk.app()
        await aask(app, "POST", PATH, QUESTION)
        monkeypatch.setattr(answering, "QUIET_SECONDS", 0.02)
        desk.engines["tiny"].hold()
        exchange = open_(app, "POST", PATH, {**LONG, "max_tokens": 2})
        async for chunk in exchange.chunks():
            if chunk == b": alive\n\n":
                break
        desk.engines["tiny"].allow(1000)
        rest = b"".join([chunk async for chunk in exchange.chunks()])
        assert b'"usage"' in rest

    asyncio.run(run())


def test_a_request_ends_with_its_time(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app(limits=Limits(request_seconds=1))
        await aask(app, "POST", PATH, QUESTION)
        desk.engines["tiny"].hold()
        exchange = open_(app, "POST", PATH, LONG)
        rows = await frames(exchange)
        assert rows[-1]["code"] == "timeout"
        whole = await aask(app, "POST", PATH, {**LONG, "stream": False})
        assert (whole.status, whole.json["code"]) == (504, "timeout")
        desk.engines["tiny"].allow(5)
        await idle(desk)

    asyncio.run(run())


def test_a_full_queue(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app(limits=Limits(max_queue=2))
        await aask(app, "POST", PATH, QUESTION)
        desk.engines["tiny"].hold()
        waiting = [open_(app, "POST", PATH, QUESTION) for _ in range(2)]
        while desk.made.loaded["tiny"].loop.stats().waiting < 2:
            await asyncio.sleep(0.01)
        refused = await aask(app, "POST", PATH, QUESTION)
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "queue_full", "1")
        thread = desk.made.loaded["tiny"].loop._thread
        for pending in thread._pending.values():
            pending.since -= 7.5  # the queue has stood for so long
        later = await aask(app, "POST", PATH, QUESTION)
        assert (later.status, later.headers["retry-after"]) == (429, "8")
        desk.engines["tiny"].allow(1000)
        assert [(await exchange.answer()).status for exchange in waiting] == [200, 200]

    asyncio.run(run())


def test_beginnings_are_shared_among_requests_of_one_key_alone(desk: Desk) -> None:
    secrets = {"alice": "sk-alice-0123456789", "bob": "sk-bob-0123456789ab"}
    app = desk.app(keyring=Keyring([Key.of(name, secret) for name, secret in secrets.items()]))
    found = [
        ask(app, "POST", PATH, QUESTION, x_api_key=secrets[name]).json["usage"]["cached_tokens"]
        for name in ("alice", "bob", "alice", "bob")
    ]
    assert found[0] == found[1] == 0 and found[2] == found[3] > 16


def test_the_limits_of_a_key(desk: Desk) -> None:
    allowance = Allowance(max_tokens=4, prompt_tokens=30)
    app = desk.app(keyring=Keyring([Key.of(Client("a", allowance), "sk-0123456789abcdef")]))

    def code(**body: Any) -> tuple[int, str]:
        answer = ask(app, "POST", PATH, {"prompt": "river", **body}, x_api_key="sk-0123456789abcdef")
        return answer.status, answer.json.get("code") or answer.json["usage"]["completion_tokens"]

    assert code(max_tokens=5) == (400, "max_tokens_exceeded")
    assert code(prompt="river " * 200) == (400, "prompt_too_long")
    assert code(temperature=0) == (200, 4) and code(max_tokens=2, temperature=0) == (200, 2)
    assert code(n=129) == (400, "too_many_answers") and code(prompt=["a"] * 65, n=2) == (400, "too_many_answers")
    assert code(priority=-1) == (400, "priority_too_high")


def test_what_the_model_cannot_read(desk: Desk) -> None:
    app = desk.app()
    answer = ask(app, "POST", PATH, {"prompt": "stone " * 300})
    assert (answer.status, answer.json["param"], answer.json["code"]) == (400, "prompt", "context_length_exceeded")
    assert answer.json["message"].startswith("prompt: 601 tokens; expected: at most 511 tokens")
    assert ask(app, "POST", PATH, {"prompt": ""}).status == 400
    assert ask(app, "POST", "/v1/chat/completions", {"messages": [{"role": "nobody", "content": "x"}]}).status == 400
    assert ask(app, "POST", PATH, QUESTION).status == 200


def test_a_text_that_no_tokens_could_hold_is_not_encoded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    app = desk.app()
    ask(app, "POST", PATH, QUESTION)
    model = desk.made.loaded["tiny"]
    monkeypatch.setattr(type(model.tok), "encode", lambda *given, **more: pytest.fail("it was encoded"))
    text = "x" * (512 * model.longest_token + 1)
    answer = ask(app, "POST", PATH, {"prompt": text})
    assert (answer.status, answer.json["param"], answer.json["code"]) == (400, "prompt", "context_length_exceeded")
    assert f"{len(text)} characters; expected: at most 512 tokens" in answer.json["message"]
    messages = [{"role": "user", "content": text}]
    assert ask(app, "POST", "/v1/chat/completions", {"messages": messages}).json["param"] == "messages"


def test_a_prompt_is_cut_where_that_is_asked(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    asked = {"prompt": "stone " * 600, "max_tokens": 2, "truncate_prompt_tokens": 20}
    answer = ask(app, "POST", PATH, asked)
    assert answer.status == 200 and answer.json["usage"]["prompt_tokens"] == 20


def test_a_conversation_ends_with_its_turn(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app()
        messages = [{"role": "user", "content": "river?"}]
        body = {"messages": messages, "max_tokens": 12, "temperature": 0}
        answer = await aask(app, "POST", "/v1/chat/completions", body)
        model = desk.made.loaded["tiny"]
        expected = Engine(desk.folder, model.tok).chat([messages], SamplingParams(max_tokens=12, temperature=0))[0]
        assert answer.json["texts"] == [expected.text]

    asyncio.run(run())


def test_texts_are_in_the_log_where_they_are_asked_for(desk: Desk) -> None:
    app = desk.app(texts=True)
    answer = ask(app, "POST", PATH, QUESTION)
    row = desk.log_rows("request")[0]
    assert row["prompts"] == [QUESTION["prompt"]] and row["answers"] == answer.json["texts"]


def test_figures_of_answers(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app()
        await aask(app, "POST", PATH, QUESTION)
        await aask(app, "POST", PATH, {"prompt": 3})
        while desk.made.loaded["tiny"].loop.stats().generated_tokens < 5:  # counted after it was handed out
            await asyncio.sleep(0.01)
        text = (await aask(app, "GET", "/metrics")).body.decode()
        assert 'qwenkit_requests_total{face="plain_codec",status="200"} 1' in text
        assert 'qwenkit_time_to_first_token_seconds_count{model="tiny"} 1' in text
        assert 'qwenkit_inter_token_latency_seconds_count{model="tiny"} 4' in text
        assert 'qwenkit_generated_tokens_total{model="tiny"} 5' in text
        assert "qwenkit_requests_open 1" in text  # this one

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"prompt": NaN}', b'{"stream": "yes", "prompt": 1}'])
def test_bodies_that_are_no_requests(desk: Desk, body: bytes) -> None:
    assert 400 <= ask(desk.app(), "POST", PATH, body).status < 500


def test_an_answer_that_comes_faster_than_it_is_written_lets_others_go_on(desk: Desk) -> None:
    """All deltas wait already; each of them has many numbers."""

    async def run() -> None:
        app = desk.app(codecs=CODECS)
        await aask(app, "POST", PATH, QUESTION)
        engine = desk.engines["tiny"]
        engine.hold()
        body = {**QUESTION, "n": 32, "max_tokens": 20, "ignore_eos": True, "logprobs": 20, "stream": True}
        exchange = open_(app, "POST", PATH, body)
        while not engine.has_work:
            await asyncio.sleep(0.01)
        engine.allow(1000)
        with engine.changed:
            deadline = time.monotonic() + LIMIT
            while engine.has_work and time.monotonic() < deadline:
                engine.changed.wait(0.01)  # the event loop stands still meanwhile
        turns = 0

        async def count() -> None:
            nonlocal turns
            while not exchange.task.done():
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await exchange.answer()
        await counting
        numbers = 20 * 21  # of one delta
        assert numbers < NUMBERS_AT_ONCE < 2 * numbers and turns >= 32 // 2

    asyncio.run(run())


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/completions", {"prompt": "The river", "logprobs": 3}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 3}),
    ("/v1/responses", {"input": "river?", "top_logprobs": 3}),
])  # fmt: skip
def test_a_large_answer_is_written_on_another_thread(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """And is the same."""
    app = desk.app(codecs=CODECS)
    body |= {"temperature": 0, "max_output_tokens" if path == "/v1/responses" else "max_tokens": 30}
    small = ask(app, "POST", path, body, x_request_id="a").json
    threads: set[int] = set()
    monkeypatch.setattr(reading, "LARGE_ANSWER", 1)
    pieces = reading._pieces

    def watched(value: Any, depth: int = 6) -> Iterator[str]:
        threads.add(threading.get_ident())
        return pieces(value, depth)

    monkeypatch.setattr(reading, "_pieces", watched)
    large = ask(app, "POST", path, body, x_request_id="a").json
    assert len(threads) == 1 and threading.get_ident() not in threads
    for each in (small, large):
        each.pop("created", None), each.pop("created_at", None), each.pop("usage")
    assert small == large
