"""Which sequences run: a queue, and a batch whose finished rows are refilled at once (continuous batching).

Row i of the cache belongs to `running[i]`. When a sequence leaves, the last row moves into its place, so that the
running rows are always the first ones and the model reads them without a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from qwenkit.inference.sequence import Sequence


class Scheduler:
    """Queue and batch. `move(source_row, target_row, length)` copies a row of the cache."""

    def __init__(self, max_batch: int, move: Callable[[int, int, int], None]) -> None:
        self.max_batch, self.move = max_batch, move
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def admit(self) -> list[Sequence]:
        """Fill the free rows from the queue, in order; the newly admitted are the last rows."""
        count = min(len(self.waiting), self.max_batch - len(self.running))
        admitted = [self.waiting.popleft() for _ in range(count)]
        self.running += admitted
        return admitted

    def retire(self) -> list[Sequence]:
        """Take out the finished; from the back, so that the row moved into a gap is one that goes on."""
        finished = []
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason is None:
                continue
            finished.append(self.running[row])
            last = self.running.pop()
            if row < len(self.running):
                self.move(len(self.running), row, last.stored)
                self.running[row] = last
        return finished[::-1]
