"""Which sequences run: a queue, and a batch whose finished rows are refilled at once (continuous batching).

Row i of the cache belongs to `running[i]`. When a sequence leaves, the last row moves into its place, so that the
running rows are always the first ones and the model reads them without a copy.

Both lists are replaced, not changed: an interrupt (Ctrl-C) in the middle leaves the old ones, and nobody is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qwenkit.inference.sequence import Sequence


class Scheduler:
    """Queue and batch. `move(source_row, target_row, length)` copies a row of the cache."""

    def __init__(self, max_batch: int, move: Callable[[int, int, int], None]) -> None:
        self.max_batch, self.move = max_batch, move
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue up."""
        self.waiting = [*self.waiting, *sequences]

    def schedule(self) -> None:
        """Fill the free rows from the queue, in order; the newly admitted are the last rows."""
        count = self.max_batch - len(self.running)
        if self.waiting and count:
            self.running, self.waiting = [*self.running, *self.waiting[:count]], self.waiting[count:]

    def remove_finished(self) -> None:
        """Take out the finished; from the back, so that the row moved into a gap is one that goes on."""
        running = list(self.running)
        for row in reversed(range(len(running))):
            if running[row].finish_reason is None:
                continue
            last = running.pop()
            if row < len(running):
                self.move(len(running), row, last.stored)
                running[row] = last
        self.running = running

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Nobody wants these any more: their rows are free when the batch next changes."""
        gone = set(sequences)
        for sequence in gone:
            sequence.finish_reason = sequence.finish_reason or "abort"
        self.waiting = [sequence for sequence in self.waiting if sequence not in gone]
