"""The requests that an engine still owes something: a token, an output, or a delta.

    pending = PendingRequests(tok)
    pending.add(requests)                                # they get their handles
    pending.collect(scheduler.running, version)          # after a step: outputs and errors of what is complete
    deltas = pending.take_deltas(scheduler.running)      # of submitted requests; complete ones are then forgotten

Whatever a request holds (its prompt, ids, text) is referred to from here and from the scheduler only. So it is gone
when the last delta is handed out, when the call that waits for it ends, and when it is aborted.

An interrupt (Ctrl-C) in the middle loses no delta and leaves no request that nobody computes: what was handed out is
noted in one assignment, right before it is, and a request that is not in here any more is aborted at the next step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat

from qwenkit.inference.adapters import EngineAdapter
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.outputs import Delta
from qwenkit.inference.sampling import not_finite
from qwenkit.inference.sequence import Delivered, Request, Sequence


class PendingRequests:
    """Requests by handle, and the finished answers of submitted ones that were in no last delta."""

    def __init__(self, tok: TextTokenizer | None) -> None:
        """Start without requests; `tok` makes the texts of outputs."""
        self.tok, self.next_handle = tok, 0
        self._requests: dict[int, Request] = {}
        self._undelivered: dict[Sequence, None] = {}
        self._delivered: dict[Sequence, Delivered] = {}

    @property
    def are_unfinished(self) -> bool:
        """Return whether a request has neither an output nor an error."""
        return any(request.is_pending for request in list(self._requests.values()))

    @property
    def have_deltas(self) -> bool:
        """Return whether a finished answer waits to be handed out."""
        return bool(self._undelivered)

    def adapters(self) -> set[EngineAdapter]:
        """Return the adapters that requests still have which have neither an output nor an error."""
        requests = list(self._requests.values())
        return {request.adapter for request in requests if request.adapter is not None and request.is_pending}

    def get(self, handle: int) -> Request | None:
        """Return the request of a handle; None for one that is unknown or done."""
        return self._requests.get(handle)

    def add(self, request: Request, version: int) -> None:
        """Give a request its handle. It may be complete at once, where there is nothing to generate."""
        request.handle, self.next_handle = self.next_handle, self.next_handle + 1
        request.take_names(request.handle)
        self._requests[request.handle] = request
        self.collect(request.sequences, version)

    def remove(self, request: Request) -> None:
        """Forget a request, and abort what is not finished of it."""
        self._requests.pop(request.handle, None)
        for sequence in request.sequences:
            self._undelivered.pop(sequence, None)
            self._delivered.pop(sequence, None)
        request.cancel()

    def remove_all(self, requests: Iterable[Request]) -> None:
        """Forget requests, all at once where this is interrupted. A call that was refused since another thread works
        comes here too: nothing of the others' is touched, so entries are taken out of the table, which stays."""
        gone = [request for request in requests if request.handle in self._requests]
        handles = [request.handle for request in gone]
        deque(map(self._requests.pop, handles, repeat(None)), maxlen=0)  # no line of Python, so no interrupt, between
        for request in gone:
            self.remove(request)

    def collect(self, sequences: Iterable[Sequence], version: int) -> None:
        """Set the output or the error of each request that some of these sequences complete; abort those that are owed
        to nobody."""
        finished: list[Sequence] = []
        for sequence in sequences:
            if sequence.request.handle not in self._requests:
                sequence.request.cancel()
            elif sequence.status == "finished":
                finished.append(sequence)
        for request in dict.fromkeys(sequence.request for sequence in finished):
            if request.is_pending:
                self._complete(request, version)
        self._undelivered.update(dict.fromkeys(sequence for sequence in finished if sequence.request.submitted))

    def take_deltas(self, running: Iterable[Sequence]) -> list[Delta]:
        """Return what submitted requests have got since their last deltas, in the order of their handles.

        The last delta of a request holds its output or its error, and the request is forgotten."""
        sequences = dict.fromkeys([*self._undelivered, *(s for s in running if s.request.submitted)])
        delivered, deltas, last = dict(self._delivered), list[Delta](), dict[Request, Delta]()
        for sequence in sorted(sequences, key=_order):
            start = delivered.get(sequence, Delivered())
            if sequence.has_delta(start):
                delta, delivered[sequence] = sequence.delta(start)
                deltas.append(delta)
                last[sequence.request] = delta
        for request, delta in last.items():
            if not request.is_pending:
                delta.output, delta.error = request.output, request.error
                self._requests.pop(request.handle, None)
        delivered = {sequence: count for sequence, count in delivered.items() if sequence.finish_reason is None}
        # Python looks for signals where a call or a round of a loop ends: not from here on.
        self._undelivered, self._delivered = {}, delivered
        return deltas

    def _complete(self, request: Request, version: int) -> None:
        """Set the output when all samples are finished; the error, as soon as one has no next token."""
        if broken := next((s for s in request.sequences if s.finish_reason == "not finite"), None):
            request.error = not_finite(f"{request.label}, sample {broken.sample}", broken.length)
            request.cancel()
        elif all(s.status == "finished" for s in request.sequences):
            request.output = request.to_output(self.tok, version)


def _order(sequence: Sequence) -> tuple[int, bool, int]:
    """Return what deltas are sorted by: the handle, then the sample; the end of a request without an output is last."""
    return sequence.request.handle, sequence.finish_reason in ("not finite", "error"), sequence.sample
