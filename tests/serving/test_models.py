"""Several models: names, loads, room, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from qwenkit.errors import UserError
from qwenkit.records import read_object, write_json
from qwenkit.serving import models
from qwenkit.serving.models import Entry, entries_of, weight_bytes
from qwenkit.serving.refusals import Refused
from qwenkit.serving.served_model import loader
from tests.serving.asgi import LIMIT, aask, ask, open_
from tests.serving.conftest import Desk

PATH = "/v1/completions"


def question(model: str | None = None) -> dict[str, object]:
    return {"prompt": "river", "max_tokens": 2, "model": model}


def test_names_of_a_command_line(tmp_path: Path) -> None:
    entries = entries_of(
        ["runs/a/chat/", "org/Name-1B", "x/model.Q4.gguf"], {"small": "org/Name-1B", "other": "runs/b/chat"}
    )
    assert [(entry.name, entry.aliases) for entry in entries] == [
        ("chat", ()), ("org/Name-1B", ("small",)), ("model.Q4", ()), ("other", ()),
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        entries_of(["runs/a/chat", "runs/b/chat"], {})
    assert caught.value.text() == (
        "qwenkit serve: two models are called chat\n  expected: one of each name\n"
        "  hint: --alias OTHER=runs/b/chat, in place of the path alone"
    )
    with pytest.raises(UserError, match="two models are called chat"):
        entries_of(["runs/a/chat"], {"chat": "runs/b/chat"})


def test_a_name_that_is_not_there(desk: Desk) -> None:
    app = desk.app("nano", "other")
    answer = ask(app, "POST", PATH, question("nan"))
    assert (answer.status, answer.json["code"]) == (404, "model_not_found")
    assert answer.json["message"] == ("model: there is no model 'nan'; expected: nano, other; hint: did you mean nano?")
    assert ask(app, "POST", PATH, question(None)).json["model"] == "nano" and desk.loads == ["nano"]


def test_a_key_sees_its_models_alone(desk: Desk) -> None:
    catalog = desk.catalog("nano", "other")
    with pytest.raises(Refused) as caught:
        catalog.find("nano", frozenset({"other"}))
    assert caught.value.refusal.expected == "other"
    assert catalog.find(None, frozenset({"other"})).name == "other"
    with pytest.raises(Refused):
        catalog.find(None, frozenset())


def test_loaded_once_for_all_who_ask_and_also_where_one_leaves(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app("nano")
        first = open_(app, "POST", PATH, question())
        others = [open_(app, "POST", PATH, question()) for _ in range(3)]
        while not desk.made.entries[0].loading:
            await asyncio.sleep(0)
        first.leave()
        assert [(await each.answer()).status for each in others] == [200] * 3
        await asyncio.wait_for(first.task, LIMIT)
        assert desk.loads == ["nano"] and desk.made.entries[0].users == 0

    asyncio.run(run())


def test_the_one_that_was_asked_the_longest_time_ago_goes(desk: Desk) -> None:
    async def run() -> None:
        catalog = desk.catalog("a", "b", "c", max_loaded=2)
        for name in ("a", "b", "a", "c"):
            async with catalog.use(catalog.find(name), LIMIT):
                pass
        assert sorted(catalog.loaded) == ["a", "c"] and desk.loads == ["a", "b", "c"]
        async with catalog.use(catalog.find("a"), LIMIT), catalog.use(catalog.find("c"), LIMIT):
            with pytest.raises(Refused) as caught:
                async with catalog.use(catalog.find("b"), LIMIT):
                    pass
        refusal = caught.value.refusal
        assert (refusal.status, refusal.what) == (503, "there is no room for b beside the models that are in use")
        await catalog.stop()
        assert not catalog.loaded

    asyncio.run(run())


def test_memory_decides_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        catalog = desk.catalog("a", "b")
        async with catalog.use(catalog.find("a"), LIMIT):
            pass
        monkeypatch.setattr(models, "available_memory", lambda: weight_bytes(desk.folder) // 2)
        async with catalog.use(catalog.find("b"), LIMIT):
            assert list(catalog.loaded) == ["b"]

    asyncio.run(run())


def test_a_load_that_is_given_up_at_the_end_keeps_nobody() -> None:
    """Who waits is told that the server ends, while the thread of the load goes on; what it brings is dropped."""
    may_end, ended = threading.Event(), threading.Event()

    def load(name: str, reference: str) -> Any:
        assert may_end.wait(LIMIT)
        ended.set()

    async def run() -> None:
        catalog = models.ModelCatalog([Entry("big", "big"), Entry("small", "small")], load)
        waiting = asyncio.create_task(catalog.use(catalog.entries[0], LIMIT).__aenter__())
        while catalog.entries[0].loading is None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        catalog.drain()
        catalog.give_up_loads()
        with pytest.raises(Refused) as caught:
            await waiting
        assert caught.value.refusal.code == "draining" and catalog.unfinished == ["big"]
        await catalog.stop()

    asyncio.run(run())  # ends before the load does
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(LIMIT)


def test_a_model_that_cannot_be_loaded(desk: Desk, tmp_path: Path) -> None:
    """Clients hear that it cannot, whoever runs the server why."""

    async def run() -> None:
        heard: list[BaseException | None] = []
        load = loader(kv_tokens=64, max_batch=1, threads=1, max_waiting=1, stall_seconds=LIMIT)
        catalog = models.ModelCatalog([Entry("gone", str(tmp_path / "gone"))], load)
        catalog.on_load = lambda name, seconds, error: heard.append(error)
        with pytest.raises(Refused) as caught:
            async with catalog.use(catalog.entries[0], LIMIT):
                pass
        assert caught.value.refusal.what == "gone cannot be loaded; the server's log says why"
        assert caught.value.refusal.status == 503 and str(tmp_path) in str(heard[0])
        assert catalog.state == "failed"
        with pytest.raises(Refused) as again:
            async with catalog.use(catalog.entries[0], LIMIT):
                pass
        assert again.value.refusal.what == "gone could not be loaded; the server's log says why" and len(heard) == 1
        with pytest.raises(UserError):
            await catalog.load(catalog.entries[0])

    asyncio.run(run())


def test_loads_are_in_the_log_and_counted(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app("nano")
        await aask(app, "POST", PATH, question())
        assert [row["event"] for row in desk.log_rows()] == ["load", "request"]
        text = (await aask(app, "GET", "/metrics")).body.decode()
        assert 'qwenkit_model_loads_total{model="nano",result="loaded"} 1' in text

    asyncio.run(run())


def test_a_failed_engine_is_made_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        app = desk.app("nano")
        assert (await aask(app, "POST", PATH, question())).status == 200

        def fails() -> None:
            raise MemoryError

        monkeypatch.setattr(desk.engines["nano"], "step", fails)
        assert (await aask(app, "POST", PATH, question())).status == 503
        assert desk.made.state == "failed"
        assert (await aask(app, "GET", "/ready")).json == {"status": "failed"}  # and begins to make it anew
        assert (await aask(app, "POST", PATH, question())).status == 200 and desk.loads == ["nano", "nano"]
        assert (await aask(app, "GET", "/ready")).json == {"status": "ready"}

    asyncio.run(run())


def test_ready_when_the_first_model_is_and_not_while_draining(desk: Desk) -> None:
    async def run() -> None:
        app = desk.app("nano")
        loading = await aask(app, "GET", "/ready")
        assert (loading.status, loading.json, loading.headers["retry-after"]) == (503, {"status": "loading"}, "1")
        await aask(app, "POST", PATH, question())
        assert (await aask(app, "GET", "/ready")).json == {"status": "ready"}
        desk.made.drain()
        assert (await aask(app, "GET", "/ready")).json == {"status": "draining"}
        refused = await aask(app, "POST", PATH, question())
        assert (refused.status, refused.json["code"]) == (503, "draining")
        assert (await aask(app, "GET", "/health")).status == 200

    asyncio.run(run())


def test_who_waits_for_a_model_is_told_that_the_server_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        app, go = desk.app("nano"), threading.Event()
        monkeypatch.setattr(desk.made, "_load", lambda name, reference: go.wait(LIMIT))
        asked = open_(app, "POST", PATH, question())
        while desk.made.entries[0].loading is None:
            await asyncio.sleep(0.01)
        await desk.made.stop()
        answer = await asked.answer()
        go.set()
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "draining", "5")
        assert desk.log_rows("load")[0]["error"] == "the server is ending"

    asyncio.run(run())


def test_a_folder_that_fails_its_certificate_is_not_served(tiny: Path, tmp_path: Path) -> None:
    import shutil

    from qwenkit.chat import load_tokenizer
    from qwenkit.evaluation import parity
    from qwenkit.model import load_model

    folder = tmp_path / "exported"
    shutil.copytree(tiny, folder)
    model, tok = load_model(folder), load_tokenizer(folder)
    seen = parity.observe(model, parity.prompts_of(tok, model.config.vocab_size, 64))
    write_json(folder / parity.CERTIFICATE, parity.certificate(seen, {}, None))
    options = {"kv_tokens": 64, "max_batch": 1, "threads": 1, "max_waiting": 1, "stall_seconds": LIMIT}
    loader(**options)("exported", str(folder)).loop.stop(LIMIT)
    certificate = read_object(folder / parity.CERTIFICATE)
    certificate["top"][0]["logprobs"][0][0] -= 1.0
    write_json(folder / parity.CERTIFICATE, certificate)
    with pytest.raises(UserError) as caught:
        loader(**options)("exported", str(folder))
    assert caught.value.text() == (
        f"{folder}: the model is 1 nats away from its certificate\n  expected: at most 0.001\n"
        "  hint: export it again; `qwenkit parity` shows how far it is"
    )
    loader(**options, check_certificates=False)("exported", str(folder)).loop.stop(LIMIT)
