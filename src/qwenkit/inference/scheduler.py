"""Decide what the next step computes: a queue, and a batch whose finished places are refilled at once (continuous
batching; Yu et al., 2022, "Orca").

    scheduler = Scheduler(max_batch=128)
    scheduler.add(request.sequences)
    batch = scheduler.schedule()          # Batch(prefill=[(sequence, start, stop), ...], decode=[sequence, ...])
    scheduler.remove_finished()

Nothing is computed or stored here. Where the cache keeps a sequence is the cache's affair, and what has been computed
of it stands in `Sequence.num_computed`: whoever runs the batch raises it.

An interrupt (Ctrl-C) in the middle loses no sequence: `running` is replaced, never changed in place, and a sequence
leaves the queue after it has entered the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from qwenkit.inference.sequence import Sequence

Piece = tuple[Sequence, int, int]
"""The tokens start to stop (half-open) of a sequence's prompt and answer."""


class Batch(NamedTuple):
    """What one step computes."""

    prefill: list[Piece]
    """Pieces of prompts to read. One that reaches the sequence's end gives its next token."""
    decode: list[Sequence]
    """Sequences of which only the newest token is to be read."""


class Scheduler:
    """The queue and the batch, first come first served."""

    def __init__(self, max_batch: int) -> None:
        """Create an empty queue and a batch of at most `max_batch` sequences."""
        self.max_batch = max_batch
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._turns: dict[Sequence, int] = {}
        """Which answers were to grow in a step that had no room for all of them, and what was computed of each."""

    @property
    def has_work(self) -> bool:
        """Return whether a sequence runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Append sequences to the queue."""
        self.waiting.extend(sequences)

    def schedule(self, budget: int | None = None) -> Batch:
        """Fill the free places from the queue, and return what the next step computes.

        Without a budget, prompts that have a place are read whole, before any answer grows. With one, a step computes
        at most so many tokens: the next one of every answer, then pieces of prompts. Where it is smaller than the
        number of answers, they take turns."""
        self._admit()
        prompts = [sequence for sequence in self.running if sequence.is_prefill]
        if budget is None:
            pieces = [(sequence, sequence.num_computed, sequence.length) for sequence in prompts]
            return Batch(pieces, [] if pieces else list(self.running))
        self._rotate()
        decode = [sequence for sequence in self.running if not sequence.is_prefill]
        if len(decode) > budget:
            decode = decode[:budget]
            self._turns = {sequence: sequence.num_computed for sequence in decode}
        return Batch(_pieces(prompts, budget - len(decode)), decode)

    def remove_finished(self) -> None:
        """Take finished sequences out of the batch."""
        self.running = [sequence for sequence in self.running if sequence.status != "finished"]
        self._turns = {sequence: before for sequence, before in self._turns.items() if sequence.status != "finished"}

    def _rotate(self) -> None:
        """Move the answers that had their turn behind the others; a step that was interrupted was nobody's turn."""
        served = {sequence for sequence, before in self._turns.items() if sequence.num_computed > before}
        if served:
            waited = [sequence for sequence in self.running if sequence not in served]
            self.running = [*waited, *(sequence for sequence in self.running if sequence in served)]
        self._turns = {}

    def _admit(self) -> None:
        """Fill the free places, and drop from the head of the queue what runs or was aborted."""
        for sequence in self.running:  # an earlier call may have been interrupted before this
            sequence.started = True
        while self.waiting and self.waiting[0].status != "waiting":
            self.waiting.popleft()
        free = self.max_batch - len(self.running)
        if free <= 0 or not self.waiting:
            return
        admitted = list(islice((sequence for sequence in self.waiting if sequence.status == "waiting"), free))
        self.running = [*self.running, *admitted]
        for sequence in admitted:
            sequence.started = True
        while self.waiting and self.waiting[0].status != "waiting":
            self.waiting.popleft()


def _pieces(prompts: Iterable[Sequence], budget: int) -> list[Piece]:
    """Return the next pieces of prompts, of at most `budget` tokens together."""
    pieces: list[Piece] = []
    for sequence in prompts:
        stop = min(sequence.length, sequence.num_computed + budget)
        if stop > sequence.num_computed:
            pieces.append((sequence, sequence.num_computed, stop))
            budget -= stop - sequence.num_computed
    return pieces
