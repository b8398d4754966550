"""An engine without a model, whose steps the test lets happen, fail or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qwenkit.errors import UserError
from qwenkit.inference import Delta, Output, Sample, SamplingParams
from qwenkit.inference.sequence import Request
from qwenkit.prompt import Prompt

LIMIT = 60.0
"""Seconds that no wait of a test needs."""


class FakeEngine:
    """Every answer is `max_tokens` tokens 0, 1, 2, ..., one a step, for all samples of all requests.

    With `free=False` a step waits until the test allows it (`allow`). A prompt that begins with 13 is refused where it
    is prepared, one with 14 where it is queued."""

    def __init__(self, free: bool = True) -> None:
        self.free = free
        self.permits = threading.Semaphore(0)
        self.in_step = threading.Event()
        self.requests: dict[int, Request] = {}
        self.tokens: dict[int, int] = {}
        self.aborted: list[int] = []
        self.options: list[dict[str, object]] = []
        self.threads: set[int] = set()
        self.polls = self.steps = self.next_handle = 0
        self.before_step: Callable[[], None] = lambda: None
        self.changed = threading.Condition()

    def allow(self, steps: int) -> None:
        self.permits.release(steps)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the engine's calls bring about."""
        with self.changed:
            assert self.changed.wait_for(condition, LIMIT)

    def note(self) -> None:
        self.threads.add(threading.get_ident())
        with self.changed:
            self.changed.notify_all()

    @property
    def has_work(self) -> bool:
        self.polls += 1
        return bool(self.requests)

    def prepare(
        self, prompt: Any, params: SamplingParams | None = None, rng_id: int | None = None, **options: object
    ) -> Request:
        if prompt[0] == 13:
            raise UserError("unlucky", where="prompt")
        self.options.append(options)
        params = params or SamplingParams.plain(max_tokens=3)
        return Request(rng_id or 0, "request", Prompt(tuple(prompt)), params, params.max_tokens or 0, frozenset())

    def enqueue(self, request: Request) -> int:
        if request.prompt.ids[0] == 14:
            raise UserError("unlucky, too", where="request")
        request.handle, self.next_handle = self.next_handle, self.next_handle + 1
        self.requests[request.handle], self.tokens[request.handle] = request, 0
        self.note()
        return request.handle

    def step(self) -> list[Delta]:
        self.in_step.set()
        if not self.free:
            assert self.permits.acquire(timeout=LIMIT)
        self.in_step.clear()
        self.before_step()
        self.steps += 1
        deltas = [delta for handle in list(self.requests) for delta in self._grown(handle)]
        self.note()
        return deltas

    def abort(self, handle: int) -> None:
        if self.requests.pop(handle, None):
            self.aborted.append(handle)
        self.note()

    def _grown(self, handle: int) -> list[Delta]:
        request, at = self.requests[handle], self.tokens[handle]
        self.tokens[handle] += 1
        last = at + 1 == request.max_new_tokens
        deltas = [
            Delta(handle, sample, [at], f"{at} ", [-float(at)], "length" if last else None)
            for sample in range(request.params.n)
        ]
        if last:
            ids = list(range(request.max_new_tokens))
            samples = [
                Sample(ids, "".join(f"{id} " for id in ids), [-float(id) for id in ids], "length") for _ in deltas
            ]
            deltas[-1].output = Output(handle, list(request.prompt.ids), samples, 0)
            del self.requests[handle]
        return deltas
