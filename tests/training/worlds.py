"""A world of threads: every exchange is a barrier with a time limit, so that a mistake fails and never hangs."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")
SECONDS = 20.0
"""How long a rank waits for the others before the test fails."""


class Meeting:
    """Where the threads of a world leave what they bring to an exchange."""

    def __init__(self, size: int) -> None:
        self.size, self.slots = size, [("", None)] * size
        self.barrier = threading.Barrier(size, timeout=SECONDS)


class ThreadWorld:
    """The world of one thread. `calls` counts its exchanges by name."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size
        self.calls: list[str] = []

    def _exchange(self, name: str, value: Any) -> list[Any]:
        self.calls.append(name)
        self.meeting.slots[self.rank] = (name, value)
        self.meeting.barrier.wait()
        slots = list(self.meeting.slots)
        self.meeting.barrier.wait()
        assert {other for other, _ in slots} == {name}, f"ranks are at different exchanges: {slots}"
        return [value for _, value in slots]

    def sum(self, tensor: torch.Tensor, /) -> torch.Tensor:
        parts = self._exchange("sum", tensor.clone())
        assert {(part.shape, part.dtype) for part in parts} == {(tensor.shape, tensor.dtype)}
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    def gather(self, value: T, /) -> list[T]:
        return self._plain("gather", value)

    def agree(self, value: T, /) -> T:
        return self._plain("agree", value)[0]

    def any(self, flag: bool, /) -> bool:
        return any(self._plain("any", flag))

    def _plain(self, name: str, value: Any) -> list[Any]:
        return [pickle.loads(each) for each in self._exchange(name, pickle.dumps(value))]


class Echo(ThreadWorld):
    """A world in which every other process says and has what this one does."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(Meeting(size), rank)

    def _exchange(self, name: str, value: Any) -> list[Any]:
        self.calls.append(name)
        return [value] * self.size


def run_ranks(work: Callable[[ThreadWorld], T], size: int = 2, main: int = 0) -> list[T | BaseException]:
    """Return what `work(world)` gives, or raises, in each rank. Rank `main` is the main thread, which signals reach."""
    meeting, outcomes = Meeting(size), list[Any]([None] * size)

    def one(rank: int) -> None:
        try:
            outcomes[rank] = work(ThreadWorld(meeting, rank))
        except BaseException as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size) if rank != main]
    for thread in threads:
        thread.start()
    one(main)
    for thread in threads:
        thread.join(2 * SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a rank hangs"
    return outcomes
