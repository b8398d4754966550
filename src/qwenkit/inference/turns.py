"""What waits for its turn on an engine's thread: calls that need an idle engine, and the requests that came after one.

    turns = Turns()
    turns.hold(future, call, when_idle=True)     # nothing later overtakes it
    turns.hold(number, enqueue)                  # while `turns` is not empty
    turns.drop(number)                           # given up: gone at once
    turns.run(lambda: not engine.has_work)       # those whose turn it is, in the order in which they came

Only one thread uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple


class _Held(NamedTuple):
    """What waits, and whether it waits for an idle engine or only for what came before it."""

    function: Callable[[], None]
    when_idle: bool


class Turns:
    """First come, first served; nothing in it but what still waits."""

    def __init__(self) -> None:
        """Start with nothing that waits."""
        self._held: dict[Hashable, _Held] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._held)

    def hold(self, key: Hashable, function: Callable[[], None], when_idle: bool = False) -> None:
        """Put a function at the end, which runs when those before it have; with `when_idle` not before the engine is
        idle."""
        self._held[key] = _Held(function, when_idle)

    def drop(self, key: Hashable) -> None:
        """Forget a function that nobody waits for any more, if it still waits."""
        self._held.pop(key, None)

    def run(self, is_idle: Callable[[], bool]) -> None:
        """Run those whose turn it is, until one needs an idle engine and it is not."""
        while self._held:
            key, turn = next(iter(self._held.items()))
            if turn.when_idle and not is_idle():
                return
            del self._held[key]
            turn.function()
