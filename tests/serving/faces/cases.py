"""Requests with the events of their answers, for each API, and what the codecs make of them.

python -m tests.serving.faces.cases      # writes tests/serving/golden/*.json; read the difference before you keep it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from qwenkit.serving.faces import chat_completions, completions, messages, responses
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    Failed,
    PromptLogprobs,
    ReasoningDelta,
    Reply,
    TextDelta,
    TokenDelta,
    TokenLogprob,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallsRevoked,
    Usage,
)

GOLDEN = Path(__file__).parent.parent / "golden"
REPLY = Reply(id="0123456789abcdef", created=1700000000, model="chat")
FACES = {"chat_completions": chat_completions, "completions": completions, "messages": messages,
         "responses": responses}  # fmt: skip
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "W", "parameters": WEATHER}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
MESSAGES_TOOL = {"name": "weather", "description": "W", "input_schema": WEATHER}
HELLO = [{"role": "user", "content": "你好"}]
BUSY = Refusal("busy", "too many requests wait", hint="try again later", code="queue_full", retry_after=1.0)


def token(id: int, text: str, logprob: float, top: Sequence[tuple[int, str, float]] = ()) -> TokenLogprob:
    """Return a token with its log-probability and the likeliest ones."""
    return TokenLogprob(id, text.encode(), logprob, tuple(TokenLogprob(i, t.encode(), p) for i, t, p in top))


@dataclass(frozen=True)
class Case:
    """A body, and the events of its answer as they come: in groups."""

    face: str
    body: dict[str, Any]
    groups: list[list[Event]]
    streamed: bool = True
    """Whether it can be asked as a stream."""

    @property
    def codec(self) -> ModuleType:
        """Return the codec of the API."""
        return FACES[self.face]

    @property
    def events(self) -> list[Event]:
        """Return the events of all groups."""
        return [event for group in self.groups for event in group]

    def whole(self) -> dict[str, Any]:
        """Return the response without streaming, or the error."""
        try:
            return self.codec.whole(self.codec.parse(self.body), REPLY, self.events)
        except Refused as error:
            return self.codec.error(error.refusal)[1]

    def frames(self) -> list[str]:
        """Return the stream."""
        if not self.streamed:
            return []
        stream = self.codec.Stream(self.codec.parse({**self.body, "stream": True}), REPLY)
        return [frame for group in self.groups for frame in stream.push(group)]

    def golden(self) -> dict[str, Any]:
        """Return what is compared with the golden file."""
        return {"body": self.body, "whole": self.whole(), "frames": [frame.split("\n")[:-2] for frame in self.frames()]}


BEGAN = Began((1, 2, 3, 4, 5))
TEXT: list[list[Event]] = [
    [BEGAN],
    [TextDelta(0, "Hello"), TextDelta(0, " 你好\u2028😀")],
    [TextDelta(0, "!\n"), ChoiceEnd(0, "stop")],
    [Ended(Usage(5, 4, 2))],
]
THOUGHTS: list[list[Event]] = [
    [BEGAN],
    [ReasoningDelta(0, "hm")],
    [ReasoningDelta(0, ", well")],
    [TextDelta(0, "Yes")],
    [TextDelta(0, "."), ChoiceEnd(0, "length")],
    [Ended(Usage(5, 9, 0, 6))],
]
CALLS: list[list[Event]] = [
    [BEGAN],
    [TextDelta(0, "I look.")],
    [ToolCallBegin(0, 0, "aaaa", "weather")],
    [ToolCallArguments(0, 0, '{"city": ')],
    [ToolCallArguments(0, 0, '"北京"}')],
    [TextDelta(0, "\n"), ToolCallBegin(0, 1, "bbbb", "weather"), ToolCallArguments(0, 1, "{}")],
    [ChoiceEnd(0, "tool_calls")],
    [Ended(Usage(5, 30))],
]
REVOKED: list[list[Event]] = [
    [BEGAN],
    [ToolCallBegin(0, 0, "aaaa", "weather"), ToolCallArguments(0, 0, '{"city')],
    [ToolCallsRevoked(0, (0,)), TextDelta(0, '<tool_call>{"city'), ChoiceEnd(0, "length")],
    [Ended(Usage(5, 8))],
]
FAILED: list[list[Event]] = [[BEGAN], [TextDelta(0, "Hel")], [Failed(BUSY)]]
TOKENS: list[list[Event]] = [
    [BEGAN],
    [
        TokenDelta(0, (7,), (token(7, "He", -0.5, [(7, "He", -0.5), (8, "Hi", -1.5)]),)),
        TextDelta(0, "He"),
    ],
    [TokenDelta(0, (9,), (token(9, "y", -0.25, [(9, "y", -0.25)]),))],
    [
        TokenDelta(0, (10, 151645), (token(10, "!", -1.0), token(151645, "<|im_end|>", -0.125))),
        TextDelta(0, "y!"),
        ChoiceEnd(0, "stop"),
    ],
    [Ended(Usage(5, 4))],
]
TWO: list[list[Event]] = [
    [BEGAN],
    [TextDelta(1, "b")],
    [TextDelta(0, "a"), ChoiceEnd(0, "stop")],
    [ChoiceEnd(1, "length")],
    [Ended(Usage(5, 2))],
]

_PROMPTS: list[list[Event]] = [
    [Began((1, 2), 0, "Once"), Began((3,), 1, "Up")],
    [TextDelta(1, "on")],
    [TextDelta(0, " upon"), ChoiceEnd(0, "length")],
    [ChoiceEnd(1, "stop")],
    [Ended(Usage(3, 3))],
]
_ECHOED: list[list[Event]] = [
    [Began((1, 2), 0, "Once upon")],
    [TokenDelta(0, (5,), (token(5, " a", -0.75, [(5, " a", -0.75)]),)), TextDelta(0, " a"), ChoiceEnd(0, "length")],
    [PromptLogprobs(0, (TokenLogprob(1, b"Once", None), token(2, " upon", -0.5, [(2, " upon", -0.5)])))],
    [Ended(Usage(2, 1))],
]
_CHAT = {"model": "chat", "messages": HELLO}
_MESSAGES = {"model": "chat", "messages": HELLO, "max_tokens": 64}
_RESPONSES = {"model": "chat", "input": "你好"}
USAGE = {"stream_options": {"include_usage": True}, "stream": True}

CASES = {
    "chat_text": Case("chat_completions", {**_CHAT, **USAGE}, TEXT),
    "chat_thoughts": Case("chat_completions", {**_CHAT, "reasoning_effort": "low"}, THOUGHTS),
    "chat_calls": Case("chat_completions", {**_CHAT, "tools": [CHAT_TOOL]}, CALLS),
    "chat_revoked": Case("chat_completions", {**_CHAT, "tools": [CHAT_TOOL]}, REVOKED),
    "chat_failed": Case("chat_completions", _CHAT, FAILED),
    "chat_tokens": Case(
        "chat_completions", {**_CHAT, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}, TOKENS
    ),
    "chat_two": Case("chat_completions", {**_CHAT, "n": 2}, TWO),
    "completions_prompts": Case("completions", {"prompt": ["Once", "Up"], "echo": True}, _PROMPTS),
    "completions_echo": Case("completions", {"prompt": "Once upon", "echo": True, "logprobs": 1}, _ECHOED, False),
    "completions_tokens": Case("completions", {"prompt": "x", "logprobs": 2, "return_token_ids": True}, TOKENS),
    "completions_failed": Case("completions", {"prompt": "x", **USAGE}, FAILED),
    "responses_text": Case("responses", {**_RESPONSES, "metadata": {"a": "b"}}, TEXT),
    "responses_thoughts": Case("responses", {**_RESPONSES, "reasoning": {"effort": "low"}}, THOUGHTS),
    "responses_calls": Case("responses", {**_RESPONSES, "tools": [RESPONSES_TOOL]}, CALLS),
    "responses_revoked": Case("responses", {**_RESPONSES, "tools": [RESPONSES_TOOL]}, REVOKED),
    "responses_failed": Case("responses", _RESPONSES, FAILED),
    "responses_tokens": Case(
        "responses", {**_RESPONSES, "include": ["message.output_text.logprobs"], "top_logprobs": 2}, TOKENS
    ),
    "messages_text": Case("messages", _MESSAGES, TEXT),
    "messages_stop": Case(
        "messages", {**_MESSAGES, "stop_sequences": ["!"]},
        [[BEGAN], [TextDelta(0, "a"), ChoiceEnd(0, "stop", "!")], [Ended(Usage(5, 2))]],
    ),
    "messages_thoughts": Case("messages", {**_MESSAGES, "thinking": {"type": "adaptive"}}, THOUGHTS),
    "messages_calls": Case("messages", {**_MESSAGES, "tools": [MESSAGES_TOOL]}, CALLS),
    "messages_revoked": Case("messages", {**_MESSAGES, "tools": [MESSAGES_TOOL]}, REVOKED),
    "messages_failed": Case("messages", _MESSAGES, FAILED),
}  # fmt: skip


def main() -> None:
    """Write the golden files."""
    for name, case in CASES.items():
        text = json.dumps(case.golden(), ensure_ascii=False, indent=1)
        (GOLDEN / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
