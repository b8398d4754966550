"""An answer as a whole, from its events: what a response without streaming shows.

    answer = Answer.of(events)
    answer.choices[0].text, answer.choices[0].calls, answer.usage

Events of different choices may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from qwenkit.serving.refusals import Refused
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    EndReason,
    Event,
    Failed,
    PromptLogprobs,
    ReasoningDelta,
    TextDelta,
    TokenDelta,
    TokenLogprob,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallsRevoked,
    Usage,
)


@dataclass
class TextItem:
    """A stretch of text of an answer, in the pieces that came: joined once, not at every token."""

    pieces: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """Return the text."""
        return "".join(self.pieces)


@dataclass
class ReasoningItem(TextItem):
    """A stretch of thoughts."""


@dataclass
class CallItem:
    """A call of a tool; the arguments are JSON text as the model wrote it."""

    index: int
    id: str
    name: str
    pieces: list[str] = field(default_factory=list[str])

    @property
    def arguments(self) -> str:
        """Return the arguments."""
        return "".join(self.pieces)


Item = TextItem | ReasoningItem | CallItem
_Growing = TypeVar("_Growing", TextItem, ReasoningItem)


@dataclass
class ChoiceAnswer:
    """One answer: what it consists of, in order."""

    items: list[Item] = field(default_factory=list[Item])
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    reason: EndReason = "stop"
    stop_sequence: str | None = None

    @property
    def text(self) -> str:
        """Return the text, without thoughts and calls."""
        return "".join(item.text for item in self.items if type(item) is TextItem)

    @property
    def reasoning(self) -> str:
        """Return the thoughts."""
        return "".join(item.text for item in self.items if isinstance(item, ReasoningItem))

    @property
    def calls(self) -> list[CallItem]:
        """Return the calls of tools."""
        return [item for item in self.items if isinstance(item, CallItem)]

    def take(self, event: Event) -> None:
        """Add an event of this choice."""
        match event:
            case TextDelta(_, text):
                self._last(TextItem).pieces.append(text)
            case ReasoningDelta(_, text):
                self._last(ReasoningItem).pieces.append(text)
            case ToolCallBegin(_, index, id, name):
                self.items.append(CallItem(index, id, name))
            case ToolCallArguments(_, index, text):
                next(call for call in self.calls if call.index == index).pieces.append(text)
            case ToolCallsRevoked(_, indices):
                self.items = [item for item in self.items if not (isinstance(item, CallItem) and item.index in indices)]
            case TokenDelta(_, ids, logprobs):
                self.ids += ids
                self.logprobs += logprobs or ()
            case ChoiceEnd(_, reason, stop_sequence):
                self.reason, self.stop_sequence = reason, stop_sequence
            case _:
                pass

    def _last(self, kind: type[_Growing]) -> _Growing:
        """Return the last item if it is of this kind, else a new one."""
        if not self.items or type(self.items[-1]) is not kind:
            self.items.append(kind())
        last = self.items[-1]
        assert isinstance(last, kind)
        return last


@dataclass
class Answer:
    """All answers of a request, by the numbers of their choices."""

    choices: dict[int, ChoiceAnswer] = field(default_factory=dict[int, ChoiceAnswer])
    prompts: dict[int, Began] = field(default_factory=dict[int, Began])
    prompt_logprobs: dict[int, tuple[TokenLogprob, ...]] = field(default_factory=dict[int, tuple[TokenLogprob, ...]])
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def of(cls, events: Iterable[Event], choices: int = 1) -> Answer:
        """Return what events add up to, with this many choices; raises `Refused` where the request failed."""
        answer = cls({number: ChoiceAnswer() for number in range(choices)})
        for event in events:
            match event:
                case Began(_, prompt):
                    answer.prompts[prompt] = event
                case PromptLogprobs(prompt, tokens):
                    answer.prompt_logprobs[prompt] = tokens
                case Ended(usage):
                    answer.usage = usage
                case Failed(refusal):
                    raise Refused(refusal)
                case _:
                    answer.choices[event.choice].take(event)
        return answer
