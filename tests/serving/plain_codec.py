"""The plainest codec: fields as they are asked, text as it comes. The real ones have golden files of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwenkit.inference import Conversation, SamplingParams
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.request import Began, Ended, Event, Failed, GenerationRequest, Reply, TextDelta

NAMES = ("model", "prompt", "messages", "stream", "n", "max_tokens", "temperature", "seed", "priority")


def parse(body: bytes) -> GenerationRequest:
    """A prompt or several, or messages."""
    given = read_body(body)
    for name in given:
        if name not in NAMES:
            raise Refused(Refusal("invalid", f"unknown field {name!r}", name, code="unknown_field"))
    if "messages" in given:
        prompts: tuple[Any, ...] = (Conversation(given["messages"]),)
    else:
        prompt = given.get("prompt", "")
        prompts = tuple(prompt) if isinstance(prompt, list) else (prompt,)
    params = {name: given[name] for name in ("n", "max_tokens", "temperature", "seed") if name in given}
    more = {name: given[name] for name in ("model", "priority", "stream") if name in given}
    return GenerationRequest(
        **{"face": "completions", "model": None, "prompts": prompts, "params": SamplingParams(**params), **more}
    )


def whole(request: GenerationRequest, reply: Reply, events: Sequence[Event]) -> dict[str, Any]:
    """All texts, and what the request took."""
    texts = [""] * request.number_of_choices
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.choice] += event.text
    assert isinstance(events[0], Began) and isinstance(events[-1], Ended)
    return {"id": reply.id, "model": reply.model, "texts": texts, "usage": vars(events[-1].usage)}


class Stream:
    """One frame for each event."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        self.reply = reply

    def push(self, events: Sequence[Event]) -> list[str]:
        return [f"data: {json.dumps(self._row(event))}\n\n" for event in events]

    def _row(self, event: Event) -> dict[str, Any]:
        match event:
            case TextDelta(choice, text):
                return {"choice": choice, "text": text}
            case Ended(usage):
                return {"usage": vars(usage)}
            case Failed(refusal):
                return error(refusal)[1]
            case _:
                return {"event": type(event).__name__}


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """What is wrong, by its parts."""
    return refusal.status, {"code": refusal.code, "message": refusal.message, "param": refusal.param}
