"""What an engine's loop asks of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from qwenkit.inference.outputs import Delta
from qwenkit.inference.sequence import Request


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

    @property
    def read_adapter(self) -> Callable[..., Any]:
        """Return what reads an adapter, on any thread; an engine without adapters has none."""
        ...

    @property
    def load_adapter(self) -> Callable[..., Any]:
        """Return what lets requests name an adapter that was read."""
        ...

    @property
    def unload_adapter(self) -> Callable[..., Any]:
        """Return what lets no further request name one."""
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
