"""`/v1/responses`: OpenAI's newer form, without state: the whole conversation comes with each request.

    request = parse(body);  whole(request, reply, events);  Stream(request, reply).push(events);  error(refusal)

Text, function tools and reasoning items, in and out. What would need a store (`previous_response_id`, `conversation`,
`background`) is refused; `store` has no effect. `response_items.py` makes the items of the output and the events of the
stream, whose last one holds the response that is sent without streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenkit.inference import Conversation
from qwenkit.serving.faces.conversation import conversation
from qwenkit.serving.faces.frames import frame, openai_error
from qwenkit.serving.faces.generation import (
    IGNORED,
    SAMPLING,
    ToolChoice,
    bound_answer,
    check_tools,
    choose,
    engine_logprobs,
    sampling_params,
    thinking_of,
)
from qwenkit.serving.faces.response_input import read_input
from qwenkit.serving.faces.response_items import ResponseItems
from qwenkit.serving.fields import (
    BOOLEAN,
    INTEGER,
    LIST,
    OBJECT,
    TEXT,
    TEXT_OR_LIST,
    TEXT_OR_OBJECT,
    Table,
    Values,
    refused,
    wrong,
)
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal, Refused
from qwenkit.serving.request import Event, Failed, GenerationRequest, Reply, Tool

FIELDS = Table(
    {
        **{name: kind for name, kind in SAMPLING.items() if name not in ("n", "max_tokens")},
        "input": TEXT_OR_LIST, "instructions": TEXT, "model": TEXT, "max_output_tokens": INTEGER, "stream": BOOLEAN,
        "tools": LIST, "tool_choice": TEXT_OR_OBJECT, "parallel_tool_calls": BOOLEAN, "text": OBJECT,
        "reasoning": OBJECT, "include": LIST, "top_logprobs": INTEGER, "metadata": OBJECT, "truncation": TEXT,
        "user": TEXT, "priority": INTEGER, "chat_template_kwargs": OBJECT, "enable_thinking": BOOLEAN,
    },
    required=("input",),
    ignored=(*(name for name in IGNORED if name != "metadata"), "max_tool_calls", "stream_options"),
    unsupported={
        "previous_response_id": "nothing is stored: send the whole conversation as input",
        "conversation": "nothing is stored: send the whole conversation as input",
        "background": "stream the response", "prompt": "use instructions and input",
        "context_management": "send a shorter input", "cache_salt": "keys do not share prompts",
        "n": "use /v1/chat/completions", "max_tokens": "use max_output_tokens",
    },
)  # fmt: skip
TEXT_FIELDS = Table({"format": OBJECT}, ignored=("verbosity",))
FORMAT = Table({"type": TEXT, "name": TEXT, "description": TEXT, "schema": OBJECT, "strict": BOOLEAN}, ("type",))
REASONING = Table({"effort": TEXT}, ignored=("summary", "generate_summary", "context", "mode"))
TOOL = Table(
    {"type": TEXT, "name": TEXT, "description": TEXT, "parameters": OBJECT, "strict": BOOLEAN},
    required=("type", "name"),
    ignored=("allowed_callers", "defer_loading", "output_schema"),
)
LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (LOGPROBS, "reasoning.encrypted_content")


# ---- the request ----------------------------------------------------------------------------------------------------


def parse(body: bytes | str | Mapping[str, Any]) -> GenerationRequest:
    """Return what a body asks; raises `Refused` for what cannot be asked."""
    given = read_body(body)
    values = FIELDS.read(given)
    if values.get("truncation", "disabled") != "disabled":
        raise wrong("truncation", values["truncation"], "disabled: an input that does not fit is refused")
    ignored = [*values.ignored]
    tools, unused = _tools(values)
    form, more = _form(values)
    thinking, budget, effort = _thinking(values)
    top = _top_logprobs(values)
    params = sampling_params(
        values, {"max_tokens": "max_output_tokens"}, logprobs=engine_logprobs(top),
        thinking_budget=None if "thinking_budget" in values else budget,
        **bound_answer(form, tools, "text.format"),
    )  # fmt: skip
    messages, places, unread = read_input(values.get("instructions"), values["input"])
    kwargs = dict(values.get("chat_template_kwargs", {}))
    return GenerationRequest(
        face="responses", model=values.get("model"), params=params,
        prompts=(Conversation(conversation(messages, places), [*tools.tools] or None, thinking, kwargs or None),),
        tools=tools.tools, tool_choice=tools.choice, named=tools.named,
        parallel_tool_calls=values.get("parallel_tool_calls", True), stream=values.get("stream", False),
        top_logprobs=top, priority=values.get("priority", 0), user=values.get("user"),
        ignored=(*ignored, *unused, *more, *effort, *unread), body=given,
    )  # fmt: skip


def _top_logprobs(values: Values) -> int | None:
    """Return how many of the likeliest tokens are asked for; None for no log-probabilities."""
    for number, name in enumerate(values.get("include", [])):
        if name not in _INCLUDED:
            raise wrong(f"include[{number}]", name, ", ".join(_INCLUDED))
    top = values.get("top_logprobs")
    if top is not None and not 0 <= top <= 20:
        raise wrong("top_logprobs", top, "0 to 20")
    return (top or 0) if top or LOGPROBS in values.get("include", []) else None


def _form(values: Values) -> tuple[dict[str, Any], list[str]]:
    """Return the grammar of the form that an answer must have, and fields without effect."""
    text = TEXT_FIELDS.read(values.get("text", {}), "text")
    ignored = [f"text.{name}" for name in text.ignored]
    wanted = FORMAT.read(text.get("format", {"type": "text"}), "text.format")
    if wanted["type"] == "text":
        return {}, ignored
    if wanted["type"] == "json_object":
        return {"json_schema": True}, ignored
    if wanted["type"] != "json_schema":
        raise wrong("text.format.type", wanted["type"], "text, json_object, json_schema")
    if "schema" not in wanted:
        raise refused("text.format.schema", "is missing", "a JSON schema", "missing_field")
    return {"json_schema": wanted["schema"]}, ignored


def _thinking(values: Values) -> tuple[bool | None, int | None, list[str]]:
    """Return whether to think, the tokens for it, and fields without effect."""
    reasoning = REASONING.read(values.get("reasoning", {}), "reasoning")
    thinking, budget = thinking_of(reasoning.get("effort"), "reasoning.effort")
    return values.get("enable_thinking", thinking), budget, [f"reasoning.{name}" for name in reasoning.ignored]


def _tools(values: Values) -> tuple[ToolChoice, list[str]]:
    """Return the tools and the choice among them, and fields without effect."""
    tools: list[Tool] = []
    ignored: set[str] = set()
    strict = False
    for number, tool in enumerate(values.get("tools", [])):
        place = f"tools[{number}]"
        if isinstance(tool, Mapping) and tool.get("type") != "function":
            raise wrong(f"{place}.type", tool.get("type"), "function: other tools are not run here")
        read = TOOL.read(tool, place)
        ignored.update(f"tools[].{name}" for name in read.ignored)
        strict = strict or read.get("strict", False)
        kept = {name: read[name] for name in ("name", "description", "parameters") if name in read}
        tools.append({"type": "function", "function": kept})
    checked = check_tools(tools, [f"tools[{number}]" for number in range(len(tools))])
    choice = _choose(values, checked)
    return choice, sorted(ignored | ({"tools[].strict"} if strict and choice.forced is None else set()))


def _choose(values: Values, tools: tuple[Tool, ...]) -> ToolChoice:
    choice = values.get("tool_choice", "auto")
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong("tool_choice", choice, 'auto, none, required, or {"type": "function", "name": ...}')
        return choose(tools, choice, named=False)
    if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise wrong("tool_choice", choice, '{"type": "function", "name": ...}')
    return choose(tools, choice["name"], named=True)


# ---- the response ---------------------------------------------------------------------------------------------------


def whole(request: GenerationRequest, reply: Reply, events: Sequence[Event]) -> dict[str, Any]:
    """Return the response; raises `Refused` where the events end with `Failed`."""
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if failed is not None:
        raise Refused(failed.refusal)
    items = ResponseItems(request, reply)
    for event in events:
        for _ in items.push(event):
            pass
    return items.response()


class Stream:
    """A response as server-sent events, which have a type and a number each."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        """Begin a stream."""
        self._items = ResponseItems(request, reply)
        self._number = 0

    def push(self, events: Iterable[Event]) -> list[str]:
        """Return the frames of events; the last one comes with `Ended` or `Failed`."""
        return [self._frame(shown) for event in events for shown in self._items.push(event)]

    def _frame(self, shown: Mapping[str, Any]) -> str:
        numbered = {"type": shown["type"], "sequence_number": self._number, **shown}
        self._number += 1
        return frame(numbered, numbered["type"])


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal."""
    return openai_error(refusal)
