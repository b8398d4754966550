"""What an engine's loop asks of an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qwenkit.inference.outputs import Delta
from qwenkit.inference.sequence import Request

if TYPE_CHECKING:
    from qwenkit.inference.adapters import EngineAdapter


class SteppingEngine(Protocol):
    """What a loop needs of an engine; `Engine` is one. `stats()` of an engine that has it must suit any thread."""

    @property
    def has_work(self) -> bool:
        """Return whether a step has something to compute or to hand out."""
        ...

    @property
    def prepare(self) -> Callable[..., Request]:
        """Return what checks, renders and encodes a request, on any thread: a function of a prompt or conversation,
        sampling parameters, `rng_id` and further arguments by their names."""
        ...

    def enqueue(self, request: Request) -> int:
        """Queue a request and return its handle."""
        ...

    def step(self) -> list[Delta]:
        """Run one step of the model; return what the requests have got."""
        ...

    def abort(self, handle: int) -> None:
        """Drop a request."""
        ...


class AdaptingEngine(SteppingEngine, Protocol):
    """What the loop's methods for adapters need besides."""

    def read_adapter(self, name: str, folder: str | Path) -> EngineAdapter:
        """Read an adapter, on any thread."""
        ...

    def load_adapter(self, name: str, folder: str | Path | EngineAdapter) -> EngineAdapter:
        """Let requests name it."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Let no further request name it."""
        ...
