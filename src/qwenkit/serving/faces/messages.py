"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's form.

    request = parse(body);  whole(request, reply, events);  Stream(request, reply).push(events);  error(refusal)
    count = parse_count(body);  counted(tokens)

Thinking blocks, tool use and tool results, in and out. A thinking block has an empty signature. `input_tokens` are
those that were read, without the cached ones; a stream knows them at its end, and says so in `message_delta`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qwenkit.inference import Conversation
from qwenkit.serving.faces.collected import Answer, CallItem, ChoiceAnswer, Item, ReasoningItem
from qwenkit.serving.faces.conversation import conversation
from qwenkit.serving.faces.frames import TextFrame, frame
from qwenkit.serving.faces.generation import (
    ToolChoice,
    bound_answer,
    check_tools,
    choose,
    sampling_params,
    thinking_of,
)
from qwenkit.serving.faces.message_blocks import read_messages
from qwenkit.serving.fields import (
    BOOLEAN,
    INTEGER,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_LIST,
    Table,
    Values,
    refused,
    wrong,
)
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Kind, Refusal
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
    TextRequest,
    Tool,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)

_COUNTED = {
    "messages": LIST, "model": TEXT, "system": TEXT_OR_LIST, "tools": LIST, "tool_choice": OBJECT, "thinking": OBJECT,
    "output_config": OBJECT,
}  # fmt: skip
_IGNORED = (
    "service_tier", "cache_control", "speed", "inference_geo", "diagnostics", "user_profile_id", "workspace_id",
    "betas", "context_management",
)  # fmt: skip
_UNSUPPORTED = {
    "mcp_servers": "offer tools of your own", "container": "offer tools of your own",
    "n": "use /v1/chat/completions",
    "stop": "use stop_sequences", "max_completion_tokens": "use max_tokens", "prefill": "",
    "thread": "nothing is stored: send the whole conversation as messages",
}  # fmt: skip
FIELDS = Table(
    {
        **_COUNTED, "max_tokens": INTEGER, "stop_sequences": LIST, "stream": BOOLEAN, "temperature": NUMBER,
        "top_p": NUMBER, "top_k": INTEGER, "metadata": OBJECT, "seed": INTEGER, "priority": INTEGER,
    },
    required=("messages", "max_tokens"),
    ignored=_IGNORED,
    unsupported=_UNSUPPORTED,
)  # fmt: skip
COUNT_FIELDS = Table(_COUNTED, required=("messages",), ignored=_IGNORED, unsupported=_UNSUPPORTED)
TOOL = Table(
    {"name": TEXT, "description": TEXT, "input_schema": OBJECT, "type": TEXT},
    required=("name", "input_schema"),
    ignored=("cache_control", "strict", "input_examples", "eager_input_streaming", "defer_loading", "allowed_callers"),
)
CHOICE = Table({"type": TEXT, "name": TEXT, "disable_parallel_tool_use": BOOLEAN}, required=("type",))
THINKING = Table({"type": TEXT, "budget_tokens": INTEGER, "display": TEXT}, required=("type",))
OUTPUT = Table({"effort": TEXT, "format": OBJECT})
FORMAT = Table({"type": TEXT, "schema": OBJECT}, required=("type", "schema"))
METADATA = Table({"user_id": TEXT})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


# ---- the request ----------------------------------------------------------------------------------------------------


def parse(body: bytes | str | Mapping[str, Any]) -> GenerationRequest:
    """Return what a body asks; raises `Refused` for what cannot be asked."""
    given = read_body(body)
    values = FIELDS.read(given)
    tools, parallel, unused = _tools(values)
    output = OUTPUT.read(values.get("output_config", {}), "output_config")
    thinking, budget, shown = _thinking(values, output.get("effort"))
    params = sampling_params(
        values, {"stop": "stop_sequences"}, thinking_budget=budget,
        **bound_answer(_form(output), tools, "output_config.format"),
    )  # fmt: skip
    prompt, ignored = _conversation(values, tools, thinking)
    ignored += _unused_effort(values, output)
    return GenerationRequest(
        face="messages", model=values.get("model"), prompts=(prompt,), params=params, tools=tools.tools,
        tool_choice=tools.choice, named=tools.named, parallel_tool_calls=parallel, stream=values.get("stream", False),
        priority=values.get("priority", 0), show_reasoning=shown, ignored=(*values.ignored, *unused, *ignored),
        user=METADATA.read(values.get("metadata", {}), "metadata").get("user_id"), body=given,
    )  # fmt: skip


def parse_count(body: bytes | str | Mapping[str, Any]) -> TextRequest:
    """Return what a body of `count_tokens` asks; raises `Refused` for what cannot be asked."""
    values = COUNT_FIELDS.read(read_body(body))
    tools, _, unused = _tools(values)
    output = OUTPUT.read(values.get("output_config", {}), "output_config")
    thinking, _, _ = _thinking(values, output.get("effort"))
    prompt, ignored = _conversation(values, tools, thinking)
    return TextRequest(model=values.get("model"), prompt=prompt, ignored=(*values.ignored, *unused, *ignored))


def counted(tokens: int) -> dict[str, Any]:
    """Return the response of `count_tokens`."""
    return {"input_tokens": tokens}


def _conversation(values: Values, tools: ToolChoice, thinking: bool | None) -> tuple[Conversation, list[str]]:
    messages, places, ignored = read_messages(values.get("system"), values["messages"])
    return Conversation(conversation(messages, places), [*tools.tools] or None, thinking), ignored


def _tools(values: Values) -> tuple[ToolChoice, bool, list[str]]:
    """Return the tools and the choice among them, whether several may be called, and fields without effect."""
    tools: list[Tool] = []
    names: set[str] = set()
    for number, tool in enumerate(values.get("tools", [])):
        place = f"tools[{number}]"
        if isinstance(tool, Mapping) and tool.get("type") not in (None, "custom"):
            raise wrong(f"{place}.type", tool["type"], "custom: other tools are not run here")
        read = TOOL.read(tool, place)
        names.update(f"tools[].{name}" for name in read.ignored)
        function = {"name": read["name"], "description": read.get("description"), "parameters": read["input_schema"]}
        tools.append({"type": "function", "function": {k: v for k, v in function.items() if v is not None}})
    checked = check_tools(tools, [f"tools[{number}]" for number in range(len(tools))])
    ignored = sorted(names)
    choice = CHOICE.read(values.get("tool_choice", {"type": "auto"}), "tool_choice")
    parallel = not choice.get("disable_parallel_tool_use", False)
    if choice["type"] == "tool":
        if "name" not in choice:
            raise refused("tool_choice.name", "is missing", "the name of a tool", "missing_field")
        return choose(checked, choice["name"], named=True), parallel, ignored
    if choice["type"] not in _CHOICES:
        raise wrong("tool_choice.type", choice["type"], "auto, any, tool, none")
    return choose(checked, _CHOICES[choice["type"]], named=False), parallel, ignored


def _form(output: Values) -> dict[str, Any]:
    """Return the grammar of the form that an answer must have."""
    if "format" not in output:
        return {}
    wanted = FORMAT.read(output["format"], "output_config.format")
    if wanted["type"] != "json_schema":
        raise wrong("output_config.format.type", wanted["type"], "json_schema")
    return {"json_schema": wanted["schema"]}


def _thinking(values: Values, effort: Any) -> tuple[bool | None, int | None, bool]:
    """Return whether to think, the tokens for it, and whether the response shows the thoughts."""
    _, budget = thinking_of(effort, "output_config.effort")
    if "thinking" not in values:
        return None, None, True
    given = THINKING.read(values["thinking"], "thinking")
    shown = given.get("display", "summarized") != "omitted"
    if given["type"] == "adaptive":
        return None, budget, shown
    if given["type"] == "disabled":
        return False, None, shown
    if given["type"] != "enabled":
        raise wrong("thinking.type", given["type"], "enabled, disabled, adaptive")
    if given.get("budget_tokens", 0) < 1:
        raise wrong("thinking.budget_tokens", given.get("budget_tokens"), "1 or more")
    return True, given["budget_tokens"], shown


def _unused_effort(values: Values, output: Values) -> list[str]:
    """Return the effort as a field without effect, where nothing says that thoughts are bounded by it."""
    adaptive = values.get("thinking", {}).get("type") == "adaptive"
    return ["output_config.effort"] if "effort" in output and not adaptive else []


# ---- the response ---------------------------------------------------------------------------------------------------


def whole(request: GenerationRequest, reply: Reply, events: Iterable[Event]) -> dict[str, Any]:
    """Return the response; raises `Refused` where the events end with `Failed`."""
    answer = Answer.of(events, 1)
    choice = answer.choices[0]
    return {
        **_head(reply),
        "content": [block for item in choice.items if (block := _block(item)) is not None],
        "stop_reason": _stop_reason(choice),
        "stop_sequence": choice.stop_sequence,
        "usage": _usage(answer.usage),
    }


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.id}", "type": "message", "role": "assistant", "model": reply.model}


def _block(item: Item) -> dict[str, Any] | None:
    """Return an item as a content block; None for white space alone, which models write between calls."""
    if isinstance(item, CallItem):
        return {"type": "tool_use", "id": f"toolu_{item.id}", "name": item.name, "input": _input(item.arguments)}
    if isinstance(item, ReasoningItem):
        return {"type": "thinking", "thinking": item.text, "signature": ""}
    return {"type": "text", "text": item.text} if item.text.strip() else None


def _input(arguments: str) -> dict[str, Any]:
    """Return arguments as the object that they must be; ReAct's may be any text, which becomes `input`."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = arguments
    return value if isinstance(value, dict) else {"input": value}


def _stop_reason(choice: ChoiceAnswer | ChoiceEnd) -> str:
    if choice.stop_sequence is not None:
        return "stop_sequence"
    return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[choice.reason]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }


Shown = dict[str, Any] | str
"""An event of the stream, as an object or written already."""


class Stream:
    """A response as server-sent events of Anthropic's types: blocks that begin, grow and stop."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        """Begin a stream."""
        self._head = _head(reply)
        self._index = -1
        self._open: str | None = None
        self._blank = ""
        self._growing: TextFrame | None = None
        self._end = ChoiceEnd(0, "stop")

    def push(self, events: Iterable[Event]) -> list[str]:
        """Return the frames of events; the last one comes with `Ended` or `Failed`."""
        return [
            shown if isinstance(shown, str) else frame(shown, shown["type"])
            for event in events
            for shown in self._shown(event)
        ]

    def _shown(self, event: Event) -> list[Shown]:
        match event:
            case Began(ids):
                begun = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(Usage(len(ids)))}
                return [{"type": "message_start", "message": {**self._head, **begun}}]
            case TextDelta(_, text):
                return self._text(text)
            case ReasoningDelta(_, text):
                begun = self._begin("thinking", thinking="", signature="") if self._open != "thinking" else []
                return [*begun, self._delta("thinking_delta", "thinking", text)]
            case ToolCallBegin(_, _, id, name):
                return self._begin("tool_use", id=f"toolu_{id}", name=name, input={})
            case ToolCallArguments(_, _, text):
                return [self._delta("input_json_delta", "partial_json", text)]
            case ChoiceEnd():
                self._end = event
                return self._close()
            case Ended(usage):
                delta = {"stop_reason": _stop_reason(self._end), "stop_sequence": self._end.stop_sequence}
                return [{"type": "message_delta", "delta": delta, "usage": _usage(usage)}, {"type": "message_stop"}]
            case Failed(refusal):
                return [error(refusal)[1]]
            case _:
                return []

    def _text(self, text: str) -> list[Shown]:
        """Return more text; white space waits until other text follows it."""
        if self._open == "text":
            return [self._delta("text_delta", "text", text)]
        self._blank += text
        if not self._blank.strip():
            return []
        text = self._blank
        return [*self._begin("text", text=""), self._delta("text_delta", "text", text)]

    def _begin(self, kind: str, **fields: Any) -> list[Shown]:
        closed = self._close()
        self._blank, self._open = "", kind
        self._index += 1
        block = {"type": kind, **fields}
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _delta(self, kind: str, name: str, text: str) -> str:
        """Return the frame in which the open block grows; most frames differ in their text alone."""
        if self._growing is None:
            delta = {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, name: TextFrame.MARK}}
            self._growing = TextFrame(frame(delta, "content_block_delta"))
        return self._growing.filled(text)

    def _close(self) -> list[Shown]:
        if self._open is None:
            return []
        self._open = self._growing = None
        return [{"type": "content_block_stop", "index": self._index}]


_ERRORS: dict[Kind, str] = {
    "invalid": "invalid_request_error",
    "unauthenticated": "authentication_error",
    "forbidden": "permission_error",
    "not_found": "not_found_error",
    "method": "invalid_request_error",
    "conflict": "invalid_request_error",
    "too_large": "request_too_large",
    "media_type": "invalid_request_error",
    "busy": "rate_limit_error",
    "rate_limited": "rate_limit_error",
    "slow": "invalid_request_error",
    "timeout": "timeout_error",
    "unavailable": "overloaded_error",
    "internal": "api_error",
}


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal in Anthropic's form. Its library runs tools on a conversation
    that the server keeps, and goes on without one where a refusal names that in its details."""
    body: dict[str, Any] = {"type": _ERRORS[refusal.kind], "message": refusal.message}
    if (refusal.param, refusal.code) == ("thread", "unsupported_field"):
        body["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return refusal.status, {"type": "error", "error": body}
