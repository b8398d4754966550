"""The requests that an engine still owes something: a token, an output, or a delta.

    pending = PendingRequests(tok)
    pending.add(requests)                                # they get their handles
    pending.collect(scheduler.running, version)          # after a step: outputs and errors of what is complete
    deltas = pending.take_deltas(scheduler.running)      # of submitted requests; complete ones are then forgotten

Whatever a request holds (its prompt, ids, text) is referred to from here and from the scheduler only. So it is gone
when the last delta is handed out, when the call that waits for it ends, and when it is aborted.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.outputs import Delta
from qwenkit.inference.sampling import not_finite
from qwenkit.inference.sequence import Request, Sequence


class PendingRequests:
    """Requests by handle, and the finished answers of submitted ones that were in no last delta."""

    def __init__(self, tok: TextTokenizer | None) -> None:
        """Start without requests; `tok` makes the texts of outputs."""
        self.tok, self.next_handle = tok, 0
        self._requests: dict[int, Request] = {}
        self._undelivered: dict[Sequence, None] = {}

    @property
    def are_unfinished(self) -> bool:
        """Return whether a request has neither an output nor an error."""
        return any(request.is_pending for request in self._requests.values())

    @property
    def have_deltas(self) -> bool:
        """Return whether a finished answer waits to be handed out."""
        return bool(self._undelivered)

    def get(self, handle: int) -> Request | None:
        """Return the request of a handle; None for one that is unknown or done."""
        return self._requests.get(handle)

    def add(self, request: Request, version: int) -> None:
        """Give a request its handle. It may be complete at once, where there is nothing to generate."""
        request.handle, self.next_handle = self.next_handle, self.next_handle + 1
        self._requests[request.handle] = request
        self.collect(request.sequences, version)

    def remove(self, request: Request) -> None:
        """Forget a request, and abort what is not finished of it."""
        self._requests.pop(request.handle, None)
        for sequence in request.sequences:
            self._undelivered.pop(sequence, None)
        request.cancel()

    def collect(self, sequences: Iterable[Sequence], version: int) -> None:
        """Set the output or the error of each request that some of these sequences complete."""
        finished = [s for s in sequences if s.status == "finished" and s.request.handle in self._requests]
        for request in dict.fromkeys(sequence.request for sequence in finished):
            if request.is_pending:
                self._complete(request, version)
        self._undelivered.update(dict.fromkeys(sequence for sequence in finished if sequence.request.submitted))

    def take_deltas(self, running: Iterable[Sequence]) -> list[Delta]:
        """Return what submitted requests have got since their last deltas, in the order of their handles.

        The last delta of a request holds its output or its error, and the request is forgotten."""
        sequences = [*self._undelivered, *(sequence for sequence in running if sequence.request.submitted)]
        sequences = [sequence for sequence in sequences if sequence.has_delta]
        sequences.sort(key=lambda s: (s.request.handle, s.finish_reason in ("not finite", "error"), s.sample))
        deltas = [sequence.delta() for sequence in sequences]
        last = {sequence.request: delta for sequence, delta in zip(sequences, deltas)}
        for request, delta in last.items():
            if not request.is_pending:
                delta.output, delta.error = request.output, request.error
                self._requests.pop(request.handle, None)
        self._undelivered = {}
        return deltas

    def _complete(self, request: Request, version: int) -> None:
        """Set the output when all samples are finished; the error, as soon as one has no next token."""
        if broken := next((s for s in request.sequences if s.finish_reason == "not finite"), None):
            request.error = not_finite(f"{request.label}, sample {broken.sample}", broken.length)
            request.cancel()
        elif all(s.status == "finished" for s in request.sequences):
            request.output = request.to_output(self.tok, version)
