"""The steps of an engine: what is scheduled, computed, guessed, and measured for the next ones.

    stepper = Stepper(runner, make_scheduler(runner, 128, invariant=True), pending, 1024, True, None)
    stepper.step(version)

A step that was interrupted in its middle (Ctrl-C) is done again, after the blocks of the cache have been counted anew.
"""

from __future__ import annotations

import time

from qwenkit.errors import UserError
from qwenkit.inference.block_pool import BLOCK, BlockPool
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.forward_pass import NativeForward
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES
from qwenkit.inference.model_runner import ModelRunner
from qwenkit.inference.pacing import Pace
from qwenkit.inference.pending import PendingRequests
from qwenkit.inference.scheduler import Batch, Scheduler
from qwenkit.inference.speculation import Drafts, Gain, Speculation, with_room
from qwenkit.inference.stats import EngineStats
from qwenkit.model import Transformer


class Stepper:
    """Runs steps for all pending requests."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        requests: PendingRequests,
        step_tokens: int,
        invariant: bool,
        speculation: Speculation | None,
    ) -> None:
        """Compute at most `step_tokens` tokens a step. `invariant`: no step depends on a clock, so `speculation` is
        refused. Raises a `UserError` for a speculation that does not fit."""
        self.runner, self.scheduler, self.requests = runner, scheduler, requests
        self.step_tokens, self.invariant = step_tokens, invariant
        self.speculation = _checked(speculation, runner.model, requests.tok, invariant)
        self._pace, self._gain, self._interrupted = Pace(), Gain(), False
        self._computed = self._generated = self._guessed = 0

    def step(self, version: int) -> None:
        """Run one step of the model, and finalize the requests that it completes; `version` is that of the weights."""
        again, self._interrupted = self._interrupted, True
        if again:
            self.scheduler.recover()
        self._collect_finished(version)
        if self.scheduler.waiting:  # an answer begins
            self.runner.forward.follow()
        self.scheduler.invariant = apart(self.runner, self.invariant)
        batch = self.scheduler.schedule(self._budget())
        if batch.prefill or batch.decode:
            self._compute(batch)
        self._collect_finished(version)
        self._interrupted = False

    def stats(self) -> EngineStats:
        """Return what was done; any thread may ask."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            prompt_tokens_asked=scheduler.num_asked,
            prompt_tokens_found=scheduler.num_cached,
            prompt_tokens_computed=self._computed,
            tokens_generated=self._generated,
            tokens_guessed=self._guessed,
            preemptions=scheduler.num_preempted,
            kv_tokens=pool.num_blocks * BLOCK,
            kv_tokens_used=pool.num_used * BLOCK,
        )

    def _budget(self) -> int:
        """Return how many tokens the next step may compute."""
        if self.invariant:
            return self.step_tokens
        scheduler = self.scheduler
        answers = sum(not scheduler.is_prefill(sequence) for sequence in scheduler.running)
        if not answers:
            return self.step_tokens
        queued = min(len(scheduler.waiting), scheduler.max_batch - len(scheduler.running))
        waiting = len(scheduler.running) - answers + queued
        return min(self.step_tokens, answers + self._pace.prompt_tokens(waiting, answers))

    def _compute(self, batch: Batch) -> None:
        start, pool = time.perf_counter(), self.scheduler.pool
        guessing = self.speculation is not None and not batch.prefill and self._gain.wanted()
        drafts = self._drafts(batch) if guessing else {}  # which may take blocks that must be cleared
        self.runner.cache.clear_blocks(pool.dirty)
        pool.dirty = []
        written = sum(len(sequence.ids) for sequence in batch.decode)
        self.runner.step(batch, drafts)
        self.scheduler.computed(batch)
        new = sum(len(sequence.ids) for sequence in batch.decode) - written
        self._note(batch, time.perf_counter() - start, guessing, new)

    def _note(self, batch: Batch, seconds: float, guessed: bool, new: int) -> None:
        """Count what a step did; learn what steps cost."""
        prompt_tokens = sum(stop - start for _, start, stop in batch.prefill)
        self._computed, self._generated = self._computed + prompt_tokens, self._generated + new
        self._pace.note(seconds, len(batch.decode), prompt_tokens)
        if batch.decode and not batch.prefill:
            self._gain.note(guessed, seconds, new)

    def _drafts(self, batch: Batch) -> Drafts:
        """Return what is guessed to follow the answers; at most as many tokens as a step computes."""
        assert self.speculation is not None
        most = min(self.speculation.tokens, self.step_tokens // max(1, len(batch.decode)) - 1)
        room = with_room(batch.decode, self.scheduler.pool, most)
        drafts = self.speculation.propose(batch.decode, room)
        self._guessed += sum(map(len, drafts.values()))
        return drafts

    def _collect_finished(self, version: int) -> None:
        """Finalize complete requests and free the places that are done, also where a step was interrupted."""
        self.requests.collect(self.scheduler.running, version)
        self.scheduler.remove_finished()


def make_scheduler(runner: ModelRunner, max_batch: int, invariant: bool) -> Scheduler:
    """Return the scheduler of a runner's cache."""
    whole_prompts = KV_CACHE_DTYPES[runner.kv_cache].whole_prompts
    pool = BlockPool(runner.num_blocks)
    return Scheduler(max_batch, pool, invariant=apart(runner, invariant), whole_prompts=whole_prompts)


def apart(runner: ModelRunner, invariant: bool) -> bool:
    """Return whether what was written must be kept apart from what was read. Where native code does both to the same
    bits, what was written may be found and read again like a prompt, whatever the mode; not while torch stands in for
    it, since a model has hooks."""
    forward = runner.forward
    return invariant and not (isinstance(forward, NativeForward) and forward.is_native)


def _checked(
    speculation: Speculation | None, model: Transformer, tok: TextTokenizer | None, invariant: bool
) -> Speculation | None:
    """Return what guesses; raises a `UserError` where it does not fit the model or the mode."""
    if speculation is None:
        return None
    if invariant:
        raise UserError("speculation in an engine whose steps must not depend on a clock",
                        expected="Engine(..., invariant=False)")  # fmt: skip
    speculation.check(model, tok)
    return speculation
