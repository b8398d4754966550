"""The output of a response as items that grow, and the events of its stream.

    items = ResponseItems(request, reply)
    for event in events:
        for shown in items.push(event): ...  # objects with a `type`, without their number
    items.response()

An item is opened by its first event and closed before the next: a reasoning item, a message with one text, a function
call. White space alone makes no message: models write newlines between calls. A call that was revoked is closed as
incomplete, and is not in the response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    Failed,
    GenerationRequest,
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

Shown = dict[str, Any]
_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


class ResponseItems:
    """The items of one response."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        """Begin an empty output."""
        self._request, self._reply = request, reply
        self._items: list[Shown] = []
        self._calls: dict[int, Shown] = {}
        self._open: Shown | None = None
        self._pieces: dict[str, list[str]] = {}
        """The texts of the items by their ids, as they came: joined where they are shown, not at every token."""
        self._blank = ""
        """White space that is text if more text follows."""
        self._tokens: list[TokenLogprob] = []
        """Tokens that no text has shown yet."""
        self._status, self._reason = "in_progress", "stop"
        self._usage: Usage | None = None
        self._error: Refusal | None = None

    def push(self, event: Event) -> Iterator[Shown]:
        """Yield what the stream shows of an event."""
        match event:
            case Began():
                yield {"type": "response.created", "response": self.response()}
                yield {"type": "response.in_progress", "response": self.response()}
            case TextDelta(_, text):
                yield from self._text(text)
            case ReasoningDelta(_, text):
                yield from self._reasoning(text)
            case ToolCallBegin(_, index, id, name):
                yield from self._call(index, id, name)
            case ToolCallArguments(_, index, text):
                yield from self._arguments(index, text)
            case ToolCallsRevoked(_, indices):
                yield from self._revoke(indices)
            case TokenDelta(_, _, tokens):
                self._tokens += tokens or ()
            case ChoiceEnd(_, reason):
                self._reason = reason
                yield from self._close("incomplete" if reason == "length" else "completed")
            case Ended(usage):
                self._usage = usage
                self._status = "incomplete" if self._reason == "length" else "completed"
                yield {"type": f"response.{self._status}", "response": self.response()}
            case Failed(refusal):
                yield from self._close("incomplete")
                self._status, self._error = "failed", refusal
                yield {"type": "response.failed", "response": self.response()}
            case _:
                pass

    # ---- items ------------------------------------------------------------------------------------------------------

    def _text(self, text: str) -> Iterator[Shown]:
        if self._open is None or self._open["type"] != "message":
            self._blank += text
            if not self._blank.strip():
                return
            text, self._blank = self._blank, ""
            yield from self._begin("message", role="assistant", content=[])
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield from self._begin_part(part)
        part = self._part()
        self._grow(self._open, text)
        tokens, self._tokens = [_logprob(token) for token in self._tokens], []
        part["logprobs"] += tokens
        yield {"type": "response.output_text.delta", **self._place(), "delta": text, "logprobs": tokens}

    def _reasoning(self, text: str) -> Iterator[Shown]:
        if self._open is None or self._open["type"] != "reasoning":
            yield from self._begin("reasoning", summary=[], content=[])
            yield from self._begin_part({"type": "reasoning_text", "text": ""})
        self._grow(self._open, text)
        self._tokens.clear()
        yield {"type": "response.reasoning_text.delta", **self._place(), "delta": text}

    def _call(self, index: int, id: str, name: str) -> Iterator[Shown]:
        yield from self._begin("function_call", call_id=f"call_{id}", name=name, arguments="")
        assert self._open is not None
        self._calls[index] = self._open

    def _arguments(self, index: int, text: str) -> Iterator[Shown]:
        item = self._calls[index]
        self._grow(item, text)
        self._tokens.clear()
        yield {"type": "response.function_call_arguments.delta", **self._item_place(item), "delta": text}

    def _revoke(self, indices: tuple[int, ...]) -> Iterator[Shown]:
        if self._open is not None and self._open["type"] == "function_call":
            yield from self._close("incomplete")
        for index in indices:
            self._calls[index]["status"] = "revoked"

    def _grow(self, item: Shown | None, text: str) -> None:
        assert item is not None
        self._pieces.setdefault(item["id"], []).append(text)

    def _settle(self, item: Shown) -> None:
        """Write what an item has got so far into it."""
        if pieces := self._pieces.get(item["id"]):
            pieces[:] = ["".join(pieces)]
            where, name = (item, "arguments") if item["type"] == "function_call" else (item["content"][0], "text")
            where[name] = pieces[0]

    def _begin(self, kind: str, **fields: Any) -> Iterator[Shown]:
        """Open an item of this kind, after closing the last one."""
        yield from self._close("completed")
        self._blank = ""
        id = f"{_PREFIXES[kind]}_{self._reply.id}_{len(self._items)}"
        self._open = {"id": id, "type": kind, "status": "in_progress", **fields}
        self._items.append(self._open)
        yield {"type": "response.output_item.added", "output_index": len(self._items) - 1, "item": _copy(self._open)}

    def _begin_part(self, part: Shown) -> Iterator[Shown]:
        assert self._open is not None
        self._open["content"].append(part)
        yield {"type": "response.content_part.added", **self._place(), "part": _copy(part)}

    def _close(self, status: str) -> Iterator[Shown]:
        """Close the open item."""
        item = self._open
        if item is None:
            return
        item["status"] = status
        self._settle(item)
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._item_place(item), **done}
        else:
            part, place = self._part(), self._place()
            kind = part["type"]
            more = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
            yield {"type": f"response.{kind}.done", **place, "text": part["text"], **more}
            yield {"type": "response.content_part.done", **place, "part": _copy(part)}
        index = self._item_place(item)["output_index"]
        yield {"type": "response.output_item.done", "output_index": index, "item": _copy(item)}
        self._open = None

    def _part(self) -> Shown:
        assert self._open is not None
        return self._open["content"][0]

    def _item_place(self, item: Shown) -> Shown:
        index = next(index for index, known in enumerate(self._items) if known is item)
        return {"item_id": item["id"], "output_index": index}

    def _place(self) -> Shown:
        assert self._open is not None
        return {**self._item_place(self._open), "content_index": 0}

    # ---- the response -----------------------------------------------------------------------------------------------

    def response(self) -> Shown:
        """Return the response as it is now."""
        body = self._request.body
        for item in self._items:
            self._settle(item)
        return {
            "id": f"resp_{self._reply.id}",
            "object": "response",
            "created_at": self._reply.created,
            "status": self._status,
            "background": False,
            "error": self._shown_error(),
            "incomplete_details": {"reason": "max_output_tokens"} if self._status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": self._reply.model,
            "output": [_copy(item) for item in self._items if item["status"] != "revoked"],
            "parallel_tool_calls": self._request.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
            "store": False,
            "temperature": body.get("temperature"),
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [_tool(tool) for tool in body.get("tools") or []],
            "top_p": body.get("top_p"),
            "truncation": "disabled",
            "usage": None if self._usage is None else _usage(self._usage),
            "user": self._request.user,
        }

    def _shown_error(self) -> Shown | None:
        if self._error is None:
            return None
        code = "rate_limit_exceeded" if self._error.status == 429 else "server_error"
        return {"code": "invalid_prompt" if self._error.kind == "invalid" else code, "message": self._error.message}


def _copy(item: Shown) -> Shown:
    """Return an item as it is now: the original goes on growing."""
    if "content" in item:
        return {**item, "content": [dict(part) for part in item["content"]]}
    return dict(item)


def _tool(tool: Shown) -> Shown:
    """Return a tool with the fields that clients expect of it."""
    return {"strict": None, "description": None, "parameters": None, **tool}


def _logprob(token: TokenLogprob) -> Shown:
    shown = {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}
    return {**shown, "top_logprobs": [{"token": top.text, "logprob": top.logprob, "bytes": list(top.bytes)}
                                      for top in token.top]}  # fmt: skip


def _usage(usage: Usage) -> Shown:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
