"""From the engine's deltas to the events of an answer, as the deltas come.

    answer = AnswerEvents(request, tok, prompt_ids)
    send(answer.began())
    async for delta in handle:
        send(answer.push(delta))             # text, thoughts, calls of tools, tokens, the end of each choice
        if answer.is_complete: break         # maybe before the engine is: then abort the handle
    send([Ended(answer.usage)])

One for each prompt of a request. The events of a choice add up to what `parse_text` says of the whole text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from qwenkit.chat.parse_parts import CallArguments, CallBegin, CallEnd, CallsRevoked, Part, Text, ThoughtText
from qwenkit.chat.parse_stream import MessageStream
from qwenkit.chat.thoughts import OPEN, thought_tokens
from qwenkit.inference import Delta
from qwenkit.inference.sequence import TopLogprobs
from qwenkit.inference.thinking import Thought
from qwenkit.serving.prompts import react_form
from qwenkit.serving.refusals import refusal_of
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Event,
    Failed,
    GenerationRequest,
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
from qwenkit.tokenizer.core import UNKNOWN

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer

_TAIL = 32
"""How many tokens at the end of a prompt may write the tag that opens a thought, where that is not one token."""


class AnswerEvents:
    """The answers to one prompt, while they are generated."""

    def __init__(
        self,
        request: GenerationRequest,
        tok: ChatTokenizer,
        prompt_ids: Sequence[int],
        prompt: int = 0,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        """Begin the answers to the request's prompt of this number. `new_id` gives each tool call its id."""
        self._request, self._tok, self._prompt_ids, self._prompt = request, tok, tuple(prompt_ids), prompt
        self._new_id = new_id
        self._tags = thought_tokens(tok)
        self._cached = 0
        self._token_bytes: dict[int, bytes] = {}
        """The bytes of tokens whose log-probabilities are shown: the likeliest are the same ones again and again."""
        first = prompt * request.params.n
        self._choices = [_Choice(first + sample, self._new_stream(), self._new_thought())
                         for sample in range(request.params.n)]  # fmt: skip

    def began(self) -> list[Event]:
        """Return the first event."""
        text = self._tok.decode(self._prompt_ids) if self._request.echo else None
        return [Began(self._prompt_ids, self._prompt, text)]

    @property
    def is_complete(self) -> bool:
        """Return whether nothing will come any more, although the engine may still compute."""
        return all(choice.ended for choice in self._choices)

    @property
    def usage(self) -> Usage:
        """Return how many tokens were read and written so far. Cached ones are known at the end."""
        written, thoughts = (sum(getattr(c, name) for c in self._choices) for name in ("written", "thoughts"))
        return Usage(len(self._prompt_ids), written, self._cached, thoughts)

    def push(self, delta: Delta) -> list[Event]:
        """Return the events of what one answer has got; `Failed` where the request has an error."""
        if delta.error is not None:
            return [Failed(refusal_of(delta.error))]
        choice = self._choices[delta.sample]
        events = [] if choice.ended else list(self._events(choice, delta))
        if delta.output is not None:
            self._cached = delta.output.num_cached_tokens
            if self._request.echo and delta.output.prompt_logprobs is not None:
                top = delta.output.prompt_top_logprobs or [None] * len(self._prompt_ids)
                tokens = self._logprobs(self._prompt_ids, delta.output.prompt_logprobs, top)
                events.append(PromptLogprobs(self._prompt, tokens))
        return events

    def _events(self, choice: _Choice, delta: Delta) -> Iterator[Event]:
        choice.count(delta.ids, bool(self._request.params.stop))
        if delta.ids and (self._request.return_token_ids or self._request.top_logprobs is not None):
            yield self._tokens(choice, delta)
        ended = delta.finish_reason in ("stop", "length")
        for event in self._parsed(choice, delta.text or "", ended):
            if choice.ended:
                return
            yield event
        if ended and not choice.ended:
            choice.ended = True
            called = delta.finish_reason == "stop" and choice.calls
            reason = "tool_calls" if called else "length" if delta.finish_reason == "length" else "stop"
            stop = None if reason == "length" else self._stop_sequence(choice)
            yield ChoiceEnd(choice.number, reason, stop)

    def _parsed(self, choice: _Choice, text: str, ended: bool) -> Iterator[Event]:
        if choice.stream is None:
            if text:
                yield TextDelta(choice.number, text)
            return
        for part in [*choice.stream.push(text), *(choice.stream.finish() if ended else ())]:
            yield from self._event(choice, part)

    def _event(self, choice: _Choice, part: Part) -> Iterator[Event]:
        """Yield the event of a part, and the end of an answer that may have one call only and has it."""
        match part:
            case Text(text):
                yield TextDelta(choice.number, text)
            case ThoughtText(text):
                if self._request.show_reasoning:
                    yield ReasoningDelta(choice.number, text)
            case CallBegin(index, name):
                choice.calls.add(index)
                yield ToolCallBegin(choice.number, index, self._new_id(), name)
            case CallArguments(index, text):
                yield ToolCallArguments(choice.number, index, text)
            case CallsRevoked(indices):
                choice.calls.difference_update(indices)
                yield ToolCallsRevoked(choice.number, indices)
            case CallEnd():
                if not self._request.parallel_tool_calls:
                    yield ChoiceEnd(choice.number, "tool_calls")
                    choice.ended = True

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def _tokens(self, choice: _Choice, delta: Delta) -> TokenDelta:
        if self._request.top_logprobs is None or delta.logprobs is None:
            return TokenDelta(choice.number, tuple(delta.ids))
        top = delta.top_logprobs or [None] * len(delta.ids)
        return TokenDelta(choice.number, tuple(delta.ids), self._logprobs(delta.ids, delta.logprobs, top))

    def _logprobs(
        self, ids: Sequence[int], logprobs: Sequence[float | None], top: Sequence[TopLogprobs | None]
    ) -> tuple[TokenLogprob, ...]:
        """Return tokens with their log-probabilities, and those of as many of the likeliest as were asked for."""
        most = self._request.top_logprobs or 0
        return tuple(
            TokenLogprob(id, self._bytes(id), logprob,
                         tuple(TokenLogprob(i, self._bytes(i), p) for i, p in (best or ())[:most]))
            for id, logprob, best in zip(ids, logprobs, top)
        )  # fmt: skip

    def _bytes(self, id: int) -> bytes:
        known = self._token_bytes.get(id)
        if known is None:
            known = self._token_bytes[id] = self._tok.decode_bytes([id], unknown=UNKNOWN)
        return known

    def _stop_sequence(self, choice: _Choice) -> str | None:
        """Return the stop string of the request that comes first in the answer; None where it ended by itself."""
        if not self._request.params.stop:
            return None
        text = self._tok.decode_bytes(choice.ids, unknown=UNKNOWN).decode("utf-8", "replace")
        matches = [(text.find(stop), -len(stop), stop) for stop in self._request.params.stop if stop in text]
        return min(matches)[2] if matches else None

    # ---- thoughts ---------------------------------------------------------------------------------------------------

    def _new_stream(self) -> MessageStream | None:
        """Return what reads a chat's answer; a completion is text and nothing else."""
        if self._request.face == "completions":
            return None
        react = bool(self._request.tools) and react_form(self._tok) is not None
        return MessageStream(self._request.tools, opened=self._opens_thought(), react=react)

    def _opens_thought(self) -> bool:
        """Return whether the prompt ends inside a thought."""
        if self._tags is not None:
            return self._tags.state(self._prompt_ids) == "inside"
        return self._tok.decode(self._prompt_ids[-_TAIL:]).rstrip().endswith(OPEN)

    def _new_thought(self) -> Thought | None:
        if self._tags is None or self._request.face == "completions":
            return None
        return Thought(self._tags, self._prompt_ids, None, blank_line=False)


class _Choice:
    """One answer."""

    def __init__(self, number: int, stream: MessageStream | None, thought: Thought | None) -> None:
        self.number, self.stream, self.thought = number, stream, thought
        self.ended = False
        self.written = self.thoughts = 0
        self.ids: list[int] = []
        """The tokens, where stop strings are looked for in them."""
        self.calls: set[int] = set()

    def count(self, ids: Sequence[int], keep: bool) -> None:
        """Count new tokens, and those of them that belong to thoughts."""
        self.written += len(ids)
        if keep:
            self.ids += ids
        if self.thought is not None:
            self.thoughts += sum(map(self.thought.push, ids))
