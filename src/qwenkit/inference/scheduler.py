"""Decide which sequences run: a queue, and a batch whose finished rows are refilled at once (continuous batching).

Row i of the cache belongs to `running[i]`. When a sequence leaves, the last row moves into its place, so the running
rows are always the first ones and the model reads them without a copy.

Both lists are replaced, never changed in place: an interrupt (Ctrl-C) in the middle leaves the old ones, and no
sequence is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qwenkit.inference.sequence import Sequence


class Scheduler:
    """The queue and the batch (continuous batching; Yu et al., 2022, "Orca"). `move(source_row, target_row, length)`
    copies `length` slots of a row of the cache."""

    def __init__(self, max_batch: int, move: Callable[[int, int, int], None]) -> None:
        """Create an empty queue and a batch of at most `max_batch` sequences."""
        self.max_batch, self.move = max_batch, move
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Append sequences to the queue."""
        self.waiting = [*self.waiting, *sequences]

    def schedule(self) -> None:
        """Fill the free rows from the queue, first come first served; the new sequences get the last rows."""
        count = self.max_batch - len(self.running)
        if self.waiting and count:
            self.running, self.waiting = [*self.running, *self.waiting[:count]], self.waiting[count:]

    def remove_finished(self) -> None:
        """Remove finished sequences from the batch; from the back, so that a running row moves into the gap."""
        running = list(self.running)
        for row in reversed(range(len(running))):
            if running[row].finish_reason is None:
                continue
            last = running.pop()
            if row < len(running):
                self.move(len(running), row, last.num_cached)
                running[row] = last
        self.running = running

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Abort sequences: the waiting ones leave the queue, the running ones at the next `remove_finished`."""
        cancelled = set(sequences)
        for sequence in cancelled:
            sequence.finish_reason = sequence.finish_reason or "abort"
        self.waiting = [sequence for sequence in self.waiting if sequence not in cancelled]
