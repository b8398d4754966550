"""What a response without streaming costs: each piece of an answer is touched a bounded number of times."""

from __future__ import annotations

from typing import Any

import pytest

from qwenkit.serving.faces import chat_completions, completions, messages, responses
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)

COUNT = 100


class Piece(str):
    """A text that counts how often something is put in front of it by `+`: each time copies all that came before."""

    added = 0

    def __radd__(self, before: str) -> str:
        Piece.added += 1
        return str(before) + str(self)


def events(piece: str) -> list[Event]:
    return [
        Began((1,)), *[ReasoningDelta(0, piece)] * COUNT, *[TextDelta(0, piece)] * COUNT, ToolCallBegin(0, 0, "a", "f"),
        *[ToolCallArguments(0, 0, piece)] * COUNT, ChoiceEnd(0, "tool_calls"), Ended(Usage(1, 3 * COUNT)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("face", "body"),
    [(chat_completions, {"messages": [{"role": "user", "content": "x"}]}), (completions, {"prompt": "x"}),
     (responses, {"input": "x"}), (messages, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1})],
)  # fmt: skip
def test_growing_texts_are_joined_once(face: Any, body: dict[str, Any]) -> None:
    request, reply = face.parse(body), Reply(id="1", created=0, model="m")
    Piece.added = 0
    shown = face.whole(request, reply, events(Piece("ab")))
    assert Piece.added <= 3
    assert shown == face.whole(request, reply, events("ab")) and "ab" * COUNT in str(shown)
