"""Decide what the next step computes: a queue, blocks for those that run, and a batch of answers and pieces of prompts
(continuous batching; Yu et al., 2022, "Orca").

    scheduler = Scheduler(max_batch=128, pool=BlockPool(512))
    scheduler.add(request.sequences)
    batch = scheduler.schedule(budget=1024)   # Batch(prefill=[(sequence, start, stop), ...], decode=[sequence, ...])
    scheduler.computed(batch)                 # after the model ran: full blocks can be found from now on
    scheduler.remove_finished()

A step computes at most `budget` tokens: the next one of every answer, then pieces of prompts, first come first served
inside a priority (lower numbers first). A sequence enters when there are blocks for all that it has so far; what of it
is already there is not computed again, and one whose next block is being computed for another waits for it. Where an
answer needs a block and none is left, the sequence that came last gives its own back and is computed again later
(preemption); its draws, its text and its place in the queue stay with it.

Nothing is computed here. What has been computed of a sequence stands in `Sequence.num_computed`: whoever runs the batch
raises it. An interrupt (Ctrl-C) in the middle loses no sequence: `running` is replaced, never changed in place, a
sequence leaves the queue after it has entered the batch, and `recover` counts the blocks anew.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from qwenkit.inference.block_pool import BLOCK, BlockPool
from qwenkit.inference.sequence import Sequence

_PART = 64  # of the queue, looked at in a step

PromptPiece = tuple[Sequence, int, int]
"""The tokens start to stop (half-open) of a sequence's prompt and answer."""


class Batch(NamedTuple):
    """What one step computes."""

    prefill: list[PromptPiece]
    """Pieces of prompts to read. One that reaches the sequence's end gives its next token."""
    decode: list[Sequence]
    """Sequences of which the next token alone is to be read."""


class Scheduler:
    """The queue, the batch, and the blocks."""

    def __init__(self, max_batch: int, pool: BlockPool, *, invariant: bool = True, whole_prompts: bool = False) -> None:
        """Create an empty queue and a batch of at most `max_batch` sequences, whose blocks come out of a pool.

        `invariant`: the answer of a sequence that was taken out of the cache is computed again token by token, and what
        is found are prompts only, so that the bits of a token never depend on how it was computed. `whole_prompts`: a
        prompt is never cut, and nothing of it is found (the official cache of 8 bits has one range a call)."""
        self.max_batch, self.pool = max_batch, pool
        self.invariant, self.whole_prompts = invariant, whole_prompts
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_asked = self.num_cached = self.num_preempted = 0
        self._next_part = 0
        """Where in the queue `_prune_queue` goes on."""
        self._turns: dict[Sequence, int] = {}
        """Which answers were to grow in a step that had no room for all of them, and what was computed of each."""

    @property
    def has_work(self) -> bool:
        """Return whether a sequence runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences into the queue: behind all of their priority."""
        for sequence in sequences:
            if self.waiting and _queue_key(sequence) < _queue_key(self.waiting[-1]):
                insort(self.waiting, sequence, key=_queue_key)
            else:
                self.waiting.append(sequence)

    def schedule(self, budget: int) -> Batch:
        """Return what the next step computes. Asked again before it was computed, it says the same."""
        self._mark_running()
        self._prune_queue()
        self._rotate()
        decode = self._answers(budget)
        pieces, left = self._pieces(budget - len(decode))
        if left > 0:
            self._schedule_waiting(left, pieces, decode)
        return Batch(pieces, decode)

    def computed(self, batch: Batch) -> None:
        """Let the blocks that a step has filled be found."""
        if self.whole_prompts:
            return
        for sequence in [*(piece[0] for piece in batch.prefill), *batch.decode]:
            if sequence.table.blocks and sequence.num_computed >= (len(sequence.table.chain) + 1) * BLOCK:
                ids = self._lasting(sequence)
                self.pool.register(sequence.table, ids, min(sequence.num_computed, len(ids)))

    def remove_finished(self) -> None:
        """Take finished sequences out of the batch, and their blocks back."""
        if not any(sequence.status == "finished" for sequence in self.running):
            return
        for sequence in self.running:
            if sequence.status == "finished" and sequence.table.blocks:
                if sequence.finish_reason == "not finite":
                    self.pool.forget(sequence.table)
                self.pool.release(sequence.table, suspect=sequence.finish_reason not in ("stop", "length"))
        self.running = [sequence for sequence in self.running if sequence.status != "finished"]
        self._turns = {sequence: before for sequence, before in self._turns.items() if sequence.status != "finished"}

    def recover(self) -> None:
        """Count the blocks anew, after something was interrupted in its middle, and recover the answers that grew."""
        for sequence in (*self.running, *self.waiting):
            sequence.recover()
        lost = [sequence for sequence in self.running if sequence.table.capacity < self._needed(sequence)]
        for sequence in lost:
            sequence.started = False
            if sequence not in self.waiting:
                insort(self.waiting, sequence, key=_queue_key)
        self.running = [sequence for sequence in self.running if sequence not in lost]
        running = set(self.running)
        self.waiting = [sequence for sequence in self.waiting if sequence not in running]
        for sequence in self.waiting:
            sequence.table.blocks, sequence.table.chain, sequence.num_computed = [], [], 0
        self.pool.rebuild(sequence.table for sequence in self.running)

    def _needed(self, sequence: Sequence) -> int:
        """Return for how many tokens a sequence that runs has blocks: what is computed, and the rest of its prompt."""
        return self._piece_end(sequence) if self.is_prefill(sequence) else sequence.num_computed

    # ---- answers ----------------------------------------------------------------------------------------------------

    def is_prefill(self, sequence: Sequence) -> bool:
        """Return whether a piece of a sequence is to be read, and not its next token alone."""
        return sequence.num_computed < self._piece_end(sequence) and not self._is_next(sequence)

    def _is_next(self, sequence: Sequence) -> bool:
        return bool(sequence.ids) and sequence.num_computed == sequence.length - 1

    def _piece_end(self, sequence: Sequence) -> int:
        """Return up to where a sequence is read in pieces."""
        whole = sequence.request.read_length if self.invariant or not sequence.ids else sequence.length
        return min(whole, sequence.length)

    def _answers(self, budget: int) -> list[Sequence]:
        """Return the sequences whose next token is to be read, each with a block for it."""
        ready = [sequence for sequence in self.running if not self.is_prefill(sequence)]
        if len(ready) > budget:
            ready = ready[:budget]
            self._turns = {sequence: sequence.num_computed for sequence in ready}
        for sequence in sorted(ready, key=_queue_key):
            while sequence.started and not self.pool.reserve(sequence.table, sequence.num_computed + 1):
                self._preempt(max(self.running, key=_queue_key))
        return [sequence for sequence in ready if sequence.started]

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch; it waits again, before all that came later."""
        self.num_preempted += 1
        self.pool.release(sequence.table, suspect=True)
        sequence.num_computed, sequence.started = 0, False
        insort(self.waiting, sequence, key=_queue_key)
        self.running = [other for other in self.running if other is not sequence]

    def _rotate(self) -> None:
        """Move the answers that had their turn behind the others; a step that was interrupted was nobody's turn."""
        served = {sequence for sequence, before in self._turns.items() if sequence.num_computed > before}
        if served:
            waited = [sequence for sequence in self.running if sequence not in served]
            self.running = [*waited, *(sequence for sequence in self.running if sequence in served)]
        self._turns = {}

    # ---- prompts ----------------------------------------------------------------------------------------------------

    def _pieces(self, budget: int) -> tuple[list[PromptPiece], int]:
        """Return the next pieces of the prompts that run, and what is left of the budget."""
        pieces: list[PromptPiece] = []
        for sequence in self.running:
            if budget > 0 and self.is_prefill(sequence):
                pieces.append(self._piece(sequence, budget))
                budget -= pieces[-1][2] - pieces[-1][1]
        return pieces, budget

    def _piece(self, sequence: Sequence, budget: int) -> PromptPiece:
        start, end = sequence.num_computed, self._piece_end(sequence)
        return sequence, start, end if self.whole_prompts else min(end, start + budget)

    def _mark_running(self) -> None:
        """Note what runs already, where an earlier call was interrupted."""
        for sequence in self.running:
            sequence.started = True

    def _prune_queue(self) -> None:
        """Drop from the next part of the queue what was aborted, or runs already.

        Parts take turns, so that everything leaves soon, wherever it stands; the next one follows at once where half of
        one was dropped. So a step looks at a bounded number, and at two for each that it drops."""
        part: list[Sequence] = []
        kept: list[Sequence] = []
        while 2 * len(kept) <= len(part):
            start = self._next_part if self._next_part < len(self.waiting) else 0
            part = self.waiting[start : start + _PART]
            if not part:
                return
            kept = [sequence for sequence in part if not sequence.started and sequence.finish_reason is None]
            if len(kept) < len(part):
                self.waiting[start : start + _PART] = kept
            self._next_part = start + len(kept)

    def _schedule_waiting(self, budget: int, pieces: list[PromptPiece], decode: list[Sequence]) -> None:
        """Let sequences enter while there are places, blocks and tokens; add their first pieces, or next tokens."""
        being_computed = {self._next_key(piece[0]) for piece in pieces}
        index = 0  # of the queue; what stands before it waits for others, and is at most a batch
        while index < min(len(self.waiting), self.max_batch) and len(self.running) < self.max_batch and budget > 0:
            sequence = self.waiting[index]
            if sequence.status != "waiting":
                del self.waiting[index]
                continue
            cached = self._match(sequence)
            key = self._next_key(sequence)
            could_take = cached + BLOCK <= self._match_limit(sequence)
            if could_take and key is not None and key in being_computed:  # another one computes it in this step
                self.pool.release(sequence.table)
                index += 1
                continue
            if not self.pool.reserve(sequence.table, sequence.length):
                self.pool.release(sequence.table)
                break
            self._enter(sequence, cached)
            del self.waiting[index]
            if self.is_prefill(sequence):
                pieces.append(self._piece(sequence, budget))
                budget -= pieces[-1][2] - pieces[-1][1]
                being_computed.add(key)
            else:  # all but its newest token was found
                decode.append(sequence)
                budget -= 1

    def _enter(self, sequence: Sequence, cached: int) -> None:
        self.num_asked += self._piece_end(sequence)
        self.num_cached += cached
        sequence.num_computed = cached
        if not sequence.ids and sequence.num_cached is None:
            sequence.num_cached = cached
        self.running = [*self.running, sequence]
        sequence.started = True

    def _match(self, sequence: Sequence) -> int:
        """Take over the blocks of a sequence that are there already; return the number of their tokens."""
        if self.whole_prompts or sequence.table.blocks:
            return 0
        return self.pool.match(sequence.table, self._lasting(sequence), self._match_limit(sequence))

    def _match_limit(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence may be taken over: the newest one is computed in any case."""
        count = len(self._lasting(sequence))
        return min(count, sequence.length - 1, sequence.request.match_limit)

    def _next_key(self, sequence: Sequence) -> Hashable | None:
        return None if self.whole_prompts else self.pool.next_key(sequence.table, self._lasting(sequence))

    def _lasting(self, sequence: Sequence) -> tuple[int, ...]:
        """Return the tokens whose blocks others may find."""
        if self.invariant or not sequence.ids:
            return sequence.prompt.ids
        return sequence.tokens(0, sequence.length)


def _queue_key(sequence: Sequence) -> tuple[int, int, int]:
    """Return what decides who comes first: the priority, then the request, then the sample."""
    return sequence.request.priority, sequence.request.handle, sequence.sample
