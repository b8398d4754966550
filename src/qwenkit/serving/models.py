"""The models of a server: their names, which of them are in memory, and who uses them.

    catalog = ModelCatalog(entries_of(["runs/nano/chat-rlhf", "Qwen/Qwen2.5-0.5B-Instruct"], {"small": "runs/tiny"}))
    entry = catalog.find("nano")                          # raises Refused, with the nearest name
    async with catalog.use(entry, timeout=600) as model:  # loaded now, if it was not; kept while it is used
        handle = await model.loop.asubmit(...)

A model is loaded when it is first asked. Where memory does not suffice for one more, those that nobody uses go, the one
first that was asked the longest time ago. One is loaded at a time; who asks for it meanwhile waits for the same load,
and a client that leaves does not end it. A model whose engine has failed is made anew by the next request, or by who
asks whether the server is ready; one that could not be loaded is tried again after a while.

Names of models stand in answers; paths do not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qwenkit.errors import QwenkitError, UserError, nearest
from qwenkit.hub import parse
from qwenkit.inference import LoopStats
from qwenkit.platform import available_memory
from qwenkit.serving.refusals import ENDING, Refusal, Refused
from qwenkit.serving.served_model import Loader, ServedModel

HEADROOM = 1.2
"""Memory that loading a model takes, as a multiple of its files."""
STOP_SECONDS = 30.0
ADAPTER_SECONDS = 60.0
"""How long an engine's present step may keep an adapter waiting."""
RETRY_SECONDS = 30.0
"""How long a model that could not be loaded is not tried again."""
_WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(eq=False)
class Entry:
    """A model that can be asked: by which names, and from where it is loaded."""

    name: str
    reference: str
    """A folder, a GGUF file, or a name of the Hub."""
    aliases: tuple[str, ...] = ()
    adapters: dict[str, str] = field(default_factory=dict[str, str])
    """The folders of its adapters, by the names under which they are asked."""
    model: ServedModel | None = None
    loading: asyncio.Task[ServedModel] | None = None
    users: int = 0
    """Requests that use it, or wait until it is loaded; while there is one it stays in memory."""
    last_used: float = 0.0
    failed_at: float | None = None
    """When it could not be loaded, by the monotonic clock; None: it could, or nobody has tried."""

    @property
    def rests(self) -> bool:
        """Return whether it has failed just now, so that trying again makes no sense yet."""
        return self.failed_at is not None and time.monotonic() - self.failed_at < RETRY_SECONDS


def entries_of(
    models: Sequence[str], aliases: Mapping[str, str], adapters: Mapping[str, str] | None = None
) -> list[Entry]:
    """Return the models of a command line. An alias names a model that is among them, or one more; adapters, by their
    names, are of the first model.

    Raises a `UserError` for two models of one name."""
    entries: dict[str, Entry] = {}
    for reference in models:
        name = _name_of(reference)
        if name in entries and entries[name].reference != reference:
            raise UserError(f"two models are called {name}", where="qwenkit serve", expected="one of each name",
                            hint=f"--alias OTHER={reference}, in place of the path alone")  # fmt: skip
        entries.setdefault(name, Entry(name, reference))
    for alias, reference in aliases.items():
        known = next((e for e in entries.values() if reference in (e.name, e.reference)), None)
        if alias in entries or any(alias in entry.aliases for entry in entries.values()):
            raise UserError(f"two models are called {alias}", where="qwenkit serve", expected="one of each name")
        if known is None:
            entries[alias] = Entry(alias, reference)
        else:
            known.aliases = (*known.aliases, alias)
    made = list(entries.values())
    for name, folder in (adapters or {}).items():
        if any(name in (entry.name, *entry.aliases) for entry in made):
            raise UserError(f"a model and an adapter are called {name}", where="qwenkit serve",
                            expected="one of each name")  # fmt: skip
        made[0].adapters[name] = folder
    return made


def _name_of(reference: str) -> str:
    """Return the name of a model that was given none: of a folder or file its last part, of the Hub's `org/name`."""
    path = Path(reference)
    if (name := parse(reference)) is not None and not path.exists():
        return name.repo
    return (path.stem if path.suffix == ".gguf" else path.name) or path.resolve().name


class ModelCatalog:
    """All models of a server. Its methods belong to the event loop; the work of loading is done on a thread."""

    def __init__(self, entries: Sequence[Entry], load: Loader, *, max_loaded: int | None = None) -> None:
        """Keep the models, none of them loaded yet. `max_loaded` of them may be in memory at a time."""
        if not entries:
            raise UserError("no model", where="qwenkit serve", expected="a folder, a GGUF file, or org/name of the Hub")
        self.entries = tuple(entries)
        self._load, self._max_loaded = load, max_loaded
        self.on_load: Callable[[str, float, BaseException | None], None] = lambda name, seconds, error: None
        """Hears of every load: the model, how many seconds it took, and what went wrong."""
        self._one_at_a_time = asyncio.Lock()
        self.draining = False
        self.unfinished: list[str] = []
        """Models whose load was given up at the end, though a thread may still be at it."""

    @property
    def names(self) -> list[str]:
        """Return all names: the aliases of a model behind its own, adapters behind all models."""
        return list(self._by_name)

    @property
    def _by_name(self) -> dict[str, Entry]:
        """Return whose name each is; adapters, which come and go, stand behind all models."""
        models = {name: entry for entry in self.entries for name in (entry.name, *entry.aliases)}
        return models | {name: entry for entry in self.entries for name in entry.adapters}

    @property
    def loaded(self) -> dict[str, ServedModel]:
        """Return the models that are in memory, by their own names."""
        return {entry.name: entry.model for entry in self.entries if entry.model is not None}

    def stats(self) -> dict[str, LoopStats]:
        """Return the figures of the models that are in memory."""
        return {name: model.loop.stats() for name, model in self.loaded.items()}

    @property
    def state(self) -> str:
        """Return whether the first model answers: ready, loading, stalled, failed or draining."""
        first = self.entries[0]
        if self.draining:
            return "draining"
        if first.model is not None:
            state = first.model.loop.stats().state
            return {"running": "ready", "stalled": "stalled"}.get(state, "failed")
        if self.loaded and first.failed_at is None and first.loading is None:
            return "ready"  # it has made room for another one
        return "loading" if first.failed_at is None or first.loading is not None else "failed"

    def recover(self) -> None:
        """Begin to load the first model again where its engine, or its last load, has failed: somebody who waits until
        the server is ready sends no request that would."""
        first = self.entries[0]
        if self.state == "failed" and first.loading is None and not first.rests:
            self._begin(first)

    def find(self, name: str | None, allowed: frozenset[str] | None = None) -> Entry:
        """Return the model of a name, or of an adapter's; raises `Refused` as `known_name` does."""
        return self._by_name[self.known_name(name, allowed)]

    def known_name(self, name: str | None, allowed: frozenset[str] | None = None) -> str:
        """Return a name that is there (for None the first one that is allowed); raises `Refused` for one that is not,
        or that this client may not ask, with the nearest name."""
        known = [each for each in self._by_name if allowed is None or each in allowed]
        if name is None and known:
            return known[0]
        if name in known:
            return name
        close = nearest(name or "", known)
        hint = f"did you mean {close}?" if close else None
        raise Refused(Refusal("not_found", f"there is no model {str(name)[:80]!r}", "model",
                              ", ".join(known) or None, hint, "model_not_found"))  # fmt: skip

    @asynccontextmanager
    async def use(self, entry: Entry, timeout: float) -> AsyncIterator[ServedModel]:
        """Give a model that stays in memory inside the block. Raises `Refused` where it cannot be had within `timeout`
        seconds."""
        entry.users += 1
        try:
            yield await self._loaded(entry, timeout)
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def load(self, entry: Entry) -> ServedModel:
        """Load a model, if it is not in memory; raises the error of loading as it is, for whoever runs the server."""
        if entry.model is not None and entry.model.works:
            return entry.model
        return await asyncio.shield(entry.loading or self._begin(entry))

    def _begin(self, entry: Entry) -> asyncio.Task[ServedModel]:
        entry.loading = asyncio.create_task(self._load_entry(entry))
        entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry.loading

    async def _loaded(self, entry: Entry, timeout: float) -> ServedModel:
        if entry.rests and entry.loading is None:
            raise _not_now(f"{entry.name} could not be loaded; the server's log says why", RETRY_SECONDS)
        try:
            return await asyncio.wait_for(self.load(entry), timeout)
        except asyncio.CancelledError:
            if self.draining:  # the load was, not who waits for it
                raise Refused(ENDING) from None
            raise
        except TimeoutError:
            raise _not_now(f"{entry.name} is still being loaded", 10) from None
        except Refused:
            raise
        except QwenkitError:
            raise _not_now(f"{entry.name} cannot be loaded; the server's log says why", RETRY_SECONDS) from None

    async def _load_entry(self, entry: Entry) -> ServedModel:
        """Load a model, after making room for it."""
        start, error = time.monotonic(), None
        try:
            async with self._one_at_a_time:
                await self._unload(entry)  # an engine that has failed
                await self._make_room(entry)
                entry.model = await _on_own_thread(partial(self._load_model, entry))
                entry.failed_at = None
                return entry.model
        except Refused as reason:
            error = reason
            raise
        except asyncio.CancelledError:
            error = Refused(ENDING)
            raise
        except MemoryError:
            entry.failed_at = time.monotonic()
            error = UserError("there is not enough memory for this model", where=entry.name)
            raise error from None
        except BaseException as reason:
            entry.failed_at, error = time.monotonic(), reason
            raise
        finally:
            entry.loading = None
            self.on_load(entry.name, time.monotonic() - start, error)

    def _load_model(self, entry: Entry) -> ServedModel:
        """Load a model with its adapters, on a thread."""
        model = self._load(entry.name, entry.reference)
        try:
            for name, folder in entry.adapters.items():
                model.loop.load_adapter(name, folder, timeout=ADAPTER_SECONDS)
        except BaseException:
            model.loop.stop(STOP_SECONDS)
            raise
        return model

    async def load_adapter(self, entry: Entry, name: str, folder: str, timeout: float) -> None:
        """Load one more adapter of a model while it answers; the name is one more of the server's. Raises `Refused` for
        a name that is there already, and a `UserError` for an adapter that does not fit."""
        async with self.use(entry, timeout) as model, self._one_at_a_time:
            if name in self._by_name:
                raise Refused(Refusal("conflict", f"{name} is there already", "lora_name", "a new name",
                                      "unload it first", "name_taken"))  # fmt: skip
            await model.loop.aload_adapter(name, folder, timeout=ADAPTER_SECONDS)
            entry.adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        """Let an adapter be asked no more; its requests go on. Raises `Refused` for a name that no adapter has."""
        adapters = {each: entry for entry in self.entries for each in entry.adapters}
        if name not in adapters:
            close = nearest(name[:80], list(adapters))
            hint = f"did you mean {close}?" if close else None
            raise Refused(Refusal("not_found", f"there is no adapter {name[:80]!r}", "lora_name",
                                  ", ".join(adapters) or None, hint, "model_not_found"))  # fmt: skip
        entry = adapters[name]
        del entry.adapters[name]
        if entry.model is not None:
            await entry.model.loop.aunload_adapter(name, timeout=ADAPTER_SECONDS)

    async def _make_room(self, entry: Entry) -> None:
        """Unload what nobody uses until the model fits; raises `Refused` where it never does."""
        wanted = weight_bytes(Path(entry.reference)) * HEADROOM
        while not self._fits(wanted):
            idle = [each for each in self.entries if each.model is not None and not each.users]
            if not idle:
                raise _not_now(f"there is no room for {entry.name} beside the models that are in use", 10)
            await self._unload(min(idle, key=lambda each: each.last_used))

    def _fits(self, wanted: float) -> bool:
        if not self.loaded:
            return True  # the engine itself says what is missing
        if self._max_loaded is not None and len(self.loaded) >= self._max_loaded:
            return False
        free = available_memory()
        return free is None or wanted <= free

    async def _unload(self, entry: Entry, seconds: float = STOP_SECONDS) -> None:
        model, entry.model = entry.model, None
        if model is not None:
            await asyncio.to_thread(model.loop.stop, seconds)
            del model
            gc.collect()

    def drain(self) -> None:
        """Take no more requests; those that are there go on."""
        self.draining = True

    def give_up_loads(self) -> None:
        """Wait for no load any more: who waits for one is told that the server ends. Its thread cannot be stopped;
        `unfinished` has the model's name."""
        for entry in self.entries:
            if entry.loading is not None:
                self.unfinished.append(entry.name)
                entry.loading.cancel()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End all engines, and what still runs on them or waits for them: whoever asked is told so, at the latest after
        `seconds` for each engine, whose present step may take longer."""
        self.drain()
        self.give_up_loads()
        for entry in self.entries:
            await self._unload(entry, seconds)


async def _on_own_thread(work: Callable[[], ServedModel]) -> ServedModel:
    """Return what `work` gives, from a thread that the end of the event loop does not wait for."""
    done = concurrent.futures.Future[ServedModel]()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name="load", daemon=True).start()
    return await asyncio.wrap_future(done)


def weight_bytes(path: Path) -> int:
    """Return the size of a model's files; 0 for one that is not on this machine yet."""
    files = [path] if path.is_file() else [*path.glob("*")] if path.is_dir() else []
    return sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS)


def _not_now(what: str, seconds: float) -> Refused:
    return Refused(Refusal("unavailable", what, code="model_unavailable", retry_after=seconds))
