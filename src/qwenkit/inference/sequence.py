"""A request, its answers in the making, and what is handed back when they are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from qwenkit.errors import Stopped
from qwenkit.inference.sampling_params import SamplingParams

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
    detokenizer: IncrementalDetokenizer | None
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
        if self.detokenizer is not None and (not stopped or self.params.include_stop_str_in_output):
            stopped |= self.detokenizer.push(id, early=len(self.ids) <= (self.params.min_tokens or 0))
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
        if self.detokenizer is not None:
            return self.detokenizer.finish()
        stopped = self.finish_reason == "stop" and self.request.stops.issuperset(self.ids[-1:])
        ids = self.ids[:-1] if stopped and not self.params.include_stop_str_in_output else self.ids
        stream = tok.stream(self.params.skip_special_tokens)  # an id that means nothing is no reason to stop the others
        return "".join([*map(stream.push, ids), stream.flush()])


class IncrementalDetokenizer:
    """The text of an answer while it grows: whole characters only, cut at the first stop text.

    Stop texts are looked for in what was written: where special tokens are left out of the text, also in the text with
    them, so that a stop text may be a special token's or lie across one. A token that is left out counts as a whole: no
    stop text begins or ends within its name.
    """

    def __init__(self, tok: Any, params: SamplingParams) -> None:
        self.stream = tok.stream(params.skip_special_tokens)
        self.stop, self.inclusive = params.stop or (), params.include_stop_str_in_output
        self.text, self.emitted, self.ended = "", 0, False
        self.held = max((len(text) for text in self.stop), default=1) - 1
        self.tok = tok
        self.full = tok.stream(False) if params.skip_special_tokens and self.stop else None
        self.written = ""
        self.left_out: list[tuple[int, int]] = []
        """Where the names of tokens that the text leaves out begin and end in `written`."""

    def push(self, id: int, early: bool = False) -> bool:
        """Add a token's text; true when it completes a stop text, which an early one cannot."""
        old, text = len(self.text), self.stream.push(id)
        self.text += text
        found = self._in_text(old)
        if self.full is not None:
            old, more = len(self.written), self.full.push(id)
            self.written += more
            if more and not text:
                name = self.tok.decode([id])
                self.left_out.append((len(self.written) - len(name), len(self.written)))
            found += self._in_written(old)
        return not early and self._cut(found)

    def finish(self) -> str:
        """The whole text, with what half a character has become."""
        if not self.ended:
            old, rest = len(self.text), self.stream.flush()
            self.text += rest
            if not self._cut(self._in_text(old)):
                self.held = 0
        return self.text

    def piece(self) -> str:
        """The new text that no stop text can take back any more."""
        end = max(self.emitted, len(self.text) - self.held)
        piece, self.emitted = self.text[self.emitted : end], end
        return piece

    def _cut(self, found: list[tuple[int, int, str]]) -> bool:
        """End the text before the first stop text, if there is one."""
        if not found:
            return False
        place, _, stop = min(found)
        begun = self.stream.flush() if place > len(self.text) else ""  # half a character before a name
        self.text, self.held, self.ended = self.text[:place] + begun + stop * self.inclusive, 0, True
        return True

    def _in_text(self, old: int) -> list[tuple[int, int, str]]:
        """Stop texts that what is new in the text completes: where each begins, how long it is, and it."""
        return [(place, len(stop), stop) for stop in self.stop for place in _places(self.text, stop, old)]

    def _in_written(self, old: int) -> list[tuple[int, int, str]]:
        """The same in what was written, by the places where the text would be cut."""
        places = ((place, stop) for stop in self.stop for place in _places(self.written, stop, old))
        return [(shown, len(stop), stop) for place, stop in places if (shown := self._shown(place, stop)) is not None]

    def _shown(self, place: int, stop: str) -> int | None:
        """Where in the text a stop text of what was written begins; None where it begins or ends within a name."""
        end, hidden = place + len(stop), 0
        for start, after in self.left_out:
            if start < place < after or start < end < after:
                return None
            hidden += (after - start) * (after <= place)
        return place - hidden


def _places(text: str, stop: str, old: int) -> Iterator[int]:
    """Where a stop text begins in a text, of those that end in what is new."""
    place = text.find(stop, max(0, old - len(stop) + 1))
    while place >= 0:
        yield place
        place = text.find(stop, place + 1)
