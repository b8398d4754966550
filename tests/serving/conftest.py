"""A tiny model behind an application, with an engine whose steps the test may hold back."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from qwenkit.chat import load_tokenizer
from qwenkit.inference import Delta, Engine, EngineLoop
from qwenkit.serving.app import make_app
from qwenkit.serving.log import RequestLog
from qwenkit.serving.models import Entry, ModelCatalog
from qwenkit.serving.served_model import ServedModel
from qwenkit.serving.settings import ServerSettings
from tests.serving import plain_codec
from tests.serving.asgi import LIMIT
from tests.stages.conftest import make_folder

CODECS: Any = {"/v1/chat/completions": plain_codec, "/v1/completions": plain_codec}


class HeldEngine:
    """An engine whose steps wait for the test, where it asks for that."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.free, self.permits = engine, True, threading.Semaphore(0)
        self.aborted: list[int] = []
        self.changed = threading.Condition()
        self.prepare, self.enqueue, self.stats = engine.prepare, engine.enqueue, engine.stats
        self.read_adapter, self.load_adapter = engine.read_adapter, engine.load_adapter
        self.unload_adapter = engine.unload_adapter

    @property
    def has_work(self) -> bool:
        return self.engine.has_work

    def hold(self) -> None:
        self.free = False

    def allow(self, steps: int) -> None:
        self.permits.release(steps)

    def step(self) -> list[Delta]:
        if not self.free:
            assert self.permits.acquire(timeout=LIMIT)
        return self.engine.step()

    def abort(self, handle: int) -> None:
        self.engine.abort(handle)
        with self.changed:
            self.aborted.append(handle)
            self.changed.notify_all()

    def wait_until_aborted(self, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.aborted) >= count, LIMIT)


@pytest.fixture(scope="session", name="tiny")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session", name="long")
def _long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder with room for the prompts of agents, and with tokens around thoughts."""
    folder = tmp_path_factory.mktemp("served") / "long"
    return make_folder(folder, positions=32768, visible=("<think>", "</think>"))


class Desk:
    """Makes applications, and stops their engines at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, io.StringIO()
        self.engines: dict[str, HeldEngine] = {}
        self._models: list[ServedModel] = []
        self.loads: list[str] = []

    def load(self, name: str, reference: str) -> ServedModel:
        tok = load_tokenizer(self.folder)
        engine = Engine(self.folder, tok, invariant=False, kv_tokens=4096, max_batch=8, native=False)
        held = self.engines[name] = HeldEngine(engine)
        model = ServedModel(name, engine, tok, EngineLoop(held, max_waiting=4), self.folder)
        self.loads.append(name)
        self._models.append(model)
        return model

    def catalog(self, *names: str, **more: Any) -> ModelCatalog:
        entries = [Entry(name, str(self.folder)) for name in names or ("tiny",)]
        return ModelCatalog(entries, self.load, **more)

    def app(self, *names: str, codecs: Any = CODECS, texts: bool = False, **settings: Any) -> FastAPI:
        self.made = self.catalog(*names)
        made = ServerSettings(log_texts=texts, **settings)
        return make_app(self.made, made, RequestLog(self.log, texts), codecs)

    def log_rows(self, event: str | None = None) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [row for row in rows if event is None or row["event"] == event]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.free = True
            engine.allow(1000)
        for model in self._models:
            model.loop.stop(LIMIT)


@pytest.fixture
def desk(tiny: Path) -> Iterator[Desk]:
    made = Desk(tiny)
    yield made
    made.close()


Make = Callable[..., FastAPI]
