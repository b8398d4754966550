"""A request, its answers in the making, and what is handed back when they are done."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from qwenkit.errors import Stopped
from qwenkit.inference.params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "not finite"]
"""The last two end a request that has no output."""


@dataclass
class Sample:
    """One answer. `ids` include the token that stopped it, `text` does not."""

    ids: list[int]
    text: str | None
    logprobs: list[float] | None
    finish_reason: FinishReason


@dataclass
class Output:
    """A request's answers; the first one's fields are the output's own."""

    request: int
    prompt_ids: list[int]
    samples: list[Sample]
    version: int
    """Counts the engine's weight updates: which model wrote this."""

    @property
    def ids(self) -> list[int]:
        return self.samples[0].ids

    @property
    def text(self) -> str | None:
        return self.samples[0].text

    @property
    def logprobs(self) -> list[float] | None:
        return self.samples[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        return self.samples[0].finish_reason


@dataclass(eq=False)
class Request:
    """What is asked, the same for all its samples."""

    number: int
    """The number that draws are made from."""
    where: str
    """How messages call it."""
    prompt: tuple[int, ...]
    params: SamplingParams
    limit: int
    """New tokens at most."""
    stops: frozenset[int]
    eos_id: int | None = None
    """What follows a stop sequence; None: nothing does, the answer ends with it."""
    sequences: list[Sequence] = field(default_factory=list)
    handle: int = -1
    """The engine's own number of the request, from when it is queued."""
    submitted: bool = False
    """Whether `step` hands out its output; otherwise the call that waits for it does."""
    output: Output | None = None
    fault: Stopped | None = None
    """Why there is no output and never will be."""

    @property
    def under_way(self) -> bool:
        return self.output is None and self.fault is None

    def result(self) -> Output:
        """The output, or the fault raised."""
        if self.fault is not None:
            raise self.fault
        assert self.output is not None, "the request is under way"
        return self.output


@dataclass(eq=False)
class Sequence:
    """State of one sample of a request while it is written."""

    request: Request
    sample: int
    seen_V: Tensor | None
    """Tokens so far, for the repetition penalty."""
    writer: Writer | None
    """Turns tokens into text as they come, where stop texts or a stream need it."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.request.prompt

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer; also the position of the next one."""
        return len(self.prompt) + len(self.ids)

    @property
    def stored(self) -> int:
        """Tokens whose keys and values are in the cache: all but the newest one."""
        return self.length - 1

    @property
    def edits(self) -> list[tuple[int, float]]:
        """(token, what is added to its logit): the bias, and -inf while it is too early to end."""
        ends = self.request.stops if self.early else ()
        return [*dict(self.params.logit_bias or ()).items(), *((id, float("-inf")) for id in ends)]

    @property
    def early(self) -> bool:
        """Whether nothing may end the answer yet."""
        return len(self.ids) < (self.params.min_tokens or 0)

    @property
    def at_stop(self) -> bool:
        """Whether the text so far, prompt included, ends with a stop sequence."""
        return not self.early and any(self._tail(len(stop)) == stop for stop in self.params.stop_words_ids or ())

    def _tail(self, count: int) -> tuple[int, ...]:
        """The last tokens of prompt and answer."""
        return (*self.prompt[max(0, len(self.prompt) + len(self.ids) - count) :], *self.ids[-count:])

    def append(self, id: int, logprob: float) -> None:
        """Take one new token and see whether it is the last."""
        self.ids.append(id)
        if self.params.logprobs:
            self.logprobs.append(logprob)
        if self.seen_V is not None:
            self.seen_V[id] = True
        stopped = id in self.request.stops
        if self.writer is not None and (not stopped or self.params.include_stop_str_in_output):
            stopped |= self.writer.push(id, early=len(self.ids) <= (self.params.min_tokens or 0))
        if stopped:
            self.finish_reason = "stop"
        else:
            self.settle()

    def settle(self) -> None:
        """Finish where nothing can follow: after a stop sequence that no token stands for, and at the limit."""
        if self.request.eos_id is None and self.at_stop:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.request.limit:
            self.finish_reason = "length"

    def finished(self, tok: Any) -> Sample:
        """The answer, with its text where there is a tokenizer."""
        assert self.finish_reason is not None
        logprobs = self.logprobs if self.params.logprobs else None
        return Sample(self.ids, self._text(tok), logprobs, self.finish_reason)

    def _text(self, tok: Any) -> str | None:
        if tok is None:
            return None
        if self.writer is not None:
            return self.writer.finish()
        stopped = self.finish_reason == "stop" and self.request.stops.issuperset(self.ids[-1:])
        ids = self.ids[:-1] if stopped and not self.params.include_stop_str_in_output else self.ids
        stream = tok.stream(self.params.skip_special_tokens)  # an id that means nothing is no reason to stop the others
        return "".join([*map(stream.push, ids), stream.flush()])


class Writer:
    """The text of an answer while it grows: whole characters only, cut at the first stop text.

    Stop texts are looked for in what was written: where special tokens are left out of the text, also in the text with
    them, so that a stop text may be a special token's or lie across one.
    """

    def __init__(self, tok: Any, params: SamplingParams) -> None:
        self.stream = tok.stream(params.skip_special_tokens)
        self.stop, self.inclusive = params.stop or (), params.include_stop_str_in_output
        self.text, self.emitted = "", 0
        self.held = max((len(text) for text in self.stop), default=1) - 1
        self.full = tok.stream(False) if params.skip_special_tokens and self.stop else None
        self.written = ""
        self.places: list[tuple[int, int]] = [(0, 0)]
        """How long `written` and `text` were after each token."""

    def push(self, id: int, early: bool = False) -> bool:
        """Add a token's text; true when it completes a stop text, which an early one cannot."""
        return self._add(self.stream.push(id), self.full.push(id) if self.full is not None else "", early)

    def finish(self) -> str:
        """The whole text, with what half a character has become."""
        if not self._add(self.stream.flush(), self.full.flush() if self.full is not None else ""):
            self.held = 0
        return self.text

    def piece(self) -> str:
        """The new text that no stop text can take back any more."""
        end = max(self.emitted, len(self.text) - self.held)
        piece, self.emitted = self.text[self.emitted : end], end
        return piece

    def _add(self, text: str, written: str, early: bool = False) -> bool:
        old, self.text = (len(self.text), len(self.written)), self.text + text
        self.written += written
        if self.full is not None:
            self.places.append((len(self.written), len(self.text)))
        if early or not (text or written):
            return False
        cuts = [*self._found(self.text, old[0], lambda place: place),
                *self._found(self.written, old[1], self._shown_at)]  # fmt: skip
        if not cuts:
            return False
        place, _, stop = min(cuts)
        self.text, self.held = self.text[:place] + stop * self.inclusive, 0
        self.stop = ()
        return True

    def _found(self, text: str, old: int, shown: Callable[[int], int]) -> list[tuple[int, int, str]]:
        """Stop texts that the newest token completes: where the shown text ends before each, how long it is, and it."""
        found = [(text.find(stop, max(0, old - len(stop) + 1)), stop) for stop in self.stop if len(text) > old]
        return [(shown(place), len(stop), stop) for place, stop in found if place >= 0]

    def _shown_at(self, place: int) -> int:
        """The place in the shown text of a place in what was written; a token that is left out has one place only."""
        after = bisect_right(self.places, (place, len(self.text)))
        written, shown = self.places[after - 1]
        return min(shown + place - written, self.places[after][1])
