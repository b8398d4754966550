"""One answer in the making, and what is handed back when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from qwenkit.inference.params import SamplingParams

FinishReason = Literal["stop", "length", "abort"]


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
class Sequence:
    """State of one sample of one request while it is written."""

    handle: int
    """The engine's own number of the request."""
    request: int
    """The number that draws are made from."""
    sample: int
    prompt: tuple[int, ...]
    params: SamplingParams
    limit: int
    """New tokens at most."""
    stops: frozenset[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    seen_V: Tensor | None = None
    """Tokens so far, for the repetition penalty."""
    writer: Writer | None = None
    """Turns tokens into text as they come, where stop texts or a stream need it."""

    @property
    def stored(self) -> int:
        """Tokens whose keys and values are in the cache: all but the newest one."""
        return len(self.prompt) + len(self.ids) - 1

    def append(self, id: int, logprob: float) -> None:
        """Take one new token and see whether it is the last."""
        self.ids.append(id)
        if self.params.logprobs:
            self.logprobs.append(logprob)
        if self.seen_V is not None:
            self.seen_V[id] = True
        if id in self.stops or (self.writer is not None and self.writer.push(id)):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"


class Writer:
    """The text of an answer while it grows: whole characters only, cut at the first stop text."""

    def __init__(self, tok: Any, stop: Iterable[str]) -> None:
        self.stream, self.special, self.stop = tok.stream(), frozenset(tok.special.values()), tuple(stop)
        self.text, self.emitted = "", 0
        self.held = max((len(text) for text in self.stop), default=1) - 1

    def push(self, id: int) -> bool:
        """Add a token's text; true when a stop text is complete."""
        return id not in self.special and self._add(self.stream.push(id))

    def finish(self) -> str:
        """The whole text, with what half a character has become."""
        if not self._add(self.stream.flush()):
            self.held = 0
        return self.text

    def piece(self) -> str:
        """The new text that no stop text can take back any more."""
        end = max(self.emitted, len(self.text) - self.held)
        piece, self.emitted = self.text[self.emitted : end], end
        return piece

    def _add(self, text: str) -> bool:
        start = max(0, len(self.text) - self.held)
        self.text += text
        cuts = [cut for cut in (self.text.find(stop, start) for stop in self.stop) if cut >= 0]
        if cuts:
            self.text, self.held = self.text[: min(cuts)], 0
            self.stop = ()
        return bool(cuts)
