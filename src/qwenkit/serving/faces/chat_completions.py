"""`/v1/chat/completions`: OpenAI's form, with the fields that vLLM and Qwen's own services add.

    request = parse(body);  whole(request, reply, events);  Stream(request, reply).push(events);  error(refusal)

Thoughts are sent as `reasoning` and as `reasoning_content`, and read under either name. `max_tokens` and
`max_completion_tokens` are one. `reasoning_effort` bounds the thoughts; `chat_template_kwargs` go to the folder's
template, of which `enable_thinking` is understood for every model that can be asked. With `return_token_ids` a response
has the ids of the prompt and of each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qwenkit.inference import Conversation
from qwenkit.serving.faces.collected import Answer, ChoiceAnswer
from qwenkit.serving.faces.conversation import conversation, fields_without_effect
from qwenkit.serving.faces.frames import DONE, TextFrame, frame, openai_error, usage
from qwenkit.serving.faces.generation import (
    FORMS,
    IGNORED,
    SAMPLING,
    ToolChoice,
    answer_form,
    bound_answer,
    check_tools,
    choose,
    engine_logprobs,
    read_stream,
    sampling_params,
    thinking_of,
)
from qwenkit.serving.fields import (
    BOOLEAN,
    INTEGER,
    LIST,
    OBJECT,
    TEXT,
    TEXT_OR_OBJECT,
    Table,
    Values,
    refused,
    wrong,
)
from qwenkit.serving.json_body import read_body
from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    Failed,
    GenerationRequest,
    PromptLogprobs,
    ReasoningDelta,
    Reply,
    TextDelta,
    TokenDelta,
    TokenLogprob,
    Tool,
    ToolCallArguments,
    ToolCallBegin,
    ToolCallsRevoked,
)

FIELDS = Table(
    {
        **SAMPLING, "messages": LIST, "model": TEXT, "max_completion_tokens": INTEGER, "stream": BOOLEAN,
        "stream_options": OBJECT, "logprobs": BOOLEAN, "top_logprobs": INTEGER, "tools": LIST,
        "tool_choice": TEXT_OR_OBJECT, "parallel_tool_calls": BOOLEAN, "response_format": OBJECT,
        "structured_outputs": OBJECT, "reasoning_effort": TEXT, "enable_thinking": BOOLEAN,
        "include_reasoning": BOOLEAN, "chat_template_kwargs": OBJECT, "priority": INTEGER, "return_token_ids": BOOLEAN,
        "user": TEXT, "modalities": LIST, "add_generation_prompt": BOOLEAN,
    },
    required=("messages",),
    ignored=IGNORED,
    unsupported={
        "functions": "use tools", "function_call": "use tool_choice", "audio": "answers are text",
        "web_search_options": "offer a tool of your own", "best_of": "use n", "use_beam_search": "use sampling",
        "logits_processors": "use logit_bias or bad_words", "chat_template": "use the model's own",
        "continue_final_message": "end with the user's turn, or use /v1/completions",
        "documents": "put their text into a message", "echo": "use /v1/completions", "suffix": "use /v1/completions",
        "cache_salt": "keys do not share prompts", "guided_json": "use response_format",
        "guided_regex": "use structured_outputs", "guided_grammar": "use structured_outputs",
        "guided_choice": "use structured_outputs", "prompt_logprobs": "use /v1/completions with echo and logprobs",
        "mm_processor_kwargs": "",
    },
)  # fmt: skip
TOOL = Table({"type": TEXT, "function": OBJECT}, required=("function",))
_SHOWN = ("name", "description", "parameters", "name_for_human", "name_for_model", "description_for_model")
FUNCTION = Table({**dict.fromkeys(_SHOWN, TEXT), "parameters": OBJECT, "strict": BOOLEAN}, required=("name",))
"""A function; the last names are those of the first Qwen's server, which its own instruction to use tools shows."""
CHOICE = Table({"type": TEXT, "function": OBJECT}, required=("type", "function"))
_THOUGHTS = ("reasoning", "reasoning_content")
"""The names under which thoughts are sent: the present one, and the one that most servers still use."""


# ---- the request ----------------------------------------------------------------------------------------------------


def parse(body: bytes | str | Mapping[str, Any]) -> GenerationRequest:
    """Return what a body asks; raises `Refused` for what cannot be asked."""
    given = read_body(body)
    values = FIELDS.read(given)
    if values.get("modalities", ["text"]) != ["text"]:
        raise refused("modalities", "is not supported", '["text"]', "unsupported_field")
    if values.get("add_generation_prompt") is False:
        raise refused("add_generation_prompt", "is false", "true, or /v1/completions", "unsupported_field")
    tools, loose = read_tools(values)
    thinking, budget, kwargs = _thinking(values)
    form = answer_form(values)
    top = read_top_logprobs(values)
    max_tokens = values.pop("max_completion_tokens", None)
    if max_tokens is not None and values.get("max_tokens", max_tokens) != max_tokens:
        raise refused("max_completion_tokens", "differs from max_tokens", "one of the two")
    names = {"max_tokens": "max_completion_tokens"} if max_tokens is not None else {}
    grammar = bound_answer(form, tools, next(name for name in FORMS if name in values) if form else "")
    params = sampling_params(
        Values({**values, "max_completion_tokens": max_tokens} if names else values, "", ()),
        names, logprobs=engine_logprobs(top), **_budget(values, budget), **grammar,
    )  # fmt: skip
    places = [f"messages[{i}]" for i in range(len(values["messages"]))]
    unread = fields_without_effect(values["messages"])
    messages = conversation(values["messages"], places)
    stream, include_usage, ignored = read_stream(values)
    return GenerationRequest(
        face="chat_completions", model=values.get("model"), params=params,
        prompts=(Conversation(messages, [*tools.tools] or None, thinking, kwargs or None),), tools=tools.tools,
        tool_choice=tools.choice, named=tools.named, parallel_tool_calls=values.get("parallel_tool_calls", True),
        stream=stream, include_usage=include_usage, top_logprobs=top, priority=values.get("priority", 0),
        return_token_ids=values.get("return_token_ids", False), user=values.get("user"),
        show_reasoning=values.get("include_reasoning", True),
        ignored=(*values.ignored, *ignored, *loose, *unread), body=given,
    )  # fmt: skip


def read_top_logprobs(values: Values) -> int | None:
    """Return how many of the likeliest tokens are asked for, 0 for the tokens alone, None for no log-probabilities."""
    top = values.get("top_logprobs")
    if not values.get("logprobs", False):
        if top:
            raise refused("top_logprobs", "is given without logprobs", "logprobs = true")
        return None
    if top is not None and not 0 <= top <= 20:
        raise wrong("top_logprobs", top, "0 to 20")
    return top or 0


def read_tools(values: Values) -> tuple[ToolChoice, tuple[str, ...]]:
    """Return the tools and the choice among them, as the model is shown them, and fields without effect."""
    tools: list[Tool] = []
    strict = False
    places = [f"tools[{i}].function" for i in range(len(values.get("tools", [])))]
    for tool, place in zip(values.get("tools", []), places):
        outer = TOOL.read(tool, place.removesuffix(".function"))
        if outer.get("type", "function") != "function":
            raise wrong(place.replace(".function", ".type"), outer["type"], "function")
        function = FUNCTION.read(outer["function"], place)
        strict = strict or function.get("strict", False)
        tools.append({"type": "function", "function": {key: function[key] for key in function if key in _SHOWN}})
    choice = _choose(values, check_tools(tools, places))
    return choice, ("tools[].function.strict",) if strict and choice.forced is None else ()


def _choose(values: Values, tools: tuple[Tool, ...]) -> ToolChoice:
    choice = values.get("tool_choice", "auto")
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong("tool_choice", choice, 'auto, none, required, or {"type": "function", "function": {...}}')
        return choose(tools, choice, named=False)
    named = CHOICE.read(choice, "tool_choice")
    name = named["function"].get("name")
    if named["type"] != "function" or not isinstance(name, str):
        raise wrong("tool_choice", choice, '{"type": "function", "function": {"name": ...}}')
    return choose(tools, name, named=True)


def _thinking(values: Values) -> tuple[bool | None, int | None, dict[str, Any]]:
    """Return whether to think, the tokens for it, and the other variables of the chat template."""
    thinking, budget = thinking_of(values.get("reasoning_effort"), "reasoning_effort")
    kwargs = dict(values.get("chat_template_kwargs", {}))
    for name, place, given in (
        ("enable_thinking", "chat_template_kwargs.enable_thinking", kwargs.pop("enable_thinking", None)),
        ("enable_thinking", "enable_thinking", values.get("enable_thinking")),
    ):
        if given is None:
            continue
        if not isinstance(given, bool):
            raise wrong(place, given, "true or false")
        if thinking not in (None, given):
            raise refused(place, f"{name} = {str(given).lower()} contradicts another field", "one of them")
        thinking = given
    return thinking, budget, kwargs


def _budget(values: Values, budget: int | None) -> dict[str, int]:
    """Return the bound on thoughts that an effort sets, where none is given as a number."""
    given = {"thinking_budget", "thinking_token_budget"} & set(values)
    return {} if budget is None or given else {"thinking_budget": budget}


# ---- the response ---------------------------------------------------------------------------------------------------


def whole(request: GenerationRequest, reply: Reply, events: Iterable[Event]) -> dict[str, Any]:
    """Return the response; raises `Refused` where the events end with `Failed`."""
    answer = Answer.of(events, request.number_of_choices)
    choices = [_choice(request, number, choice) for number, choice in sorted(answer.choices.items())]
    response = {**_head(reply, "chat.completion"), "choices": choices, "usage": usage(answer.usage)}
    if request.return_token_ids:
        response["prompt_token_ids"] = list(answer.prompts[0].prompt_ids)
    return response


def _choice(request: GenerationRequest, number: int, choice: ChoiceAnswer) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text if choice.text or not choice.calls else None,
        "refusal": None,
    }
    if choice.reasoning:
        message |= {name: choice.reasoning for name in _THOUGHTS}
    if choice.calls:
        message["tool_calls"] = [
            {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    shown = {"index": number, "message": message, "finish_reason": choice.reason}
    shown["logprobs"] = None if request.top_logprobs is None else logprobs(choice.logprobs)
    return {**shown, "token_ids": choice.ids} if request.return_token_ids else shown


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": reply.created, "model": reply.model}


def logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities as chat completions show them."""
    content = [{**_logprob(token), "top_logprobs": [_logprob(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}


class Stream:
    """A response as server-sent events."""

    def __init__(self, request: GenerationRequest, reply: Reply) -> None:
        """Begin a stream."""
        self._request = request
        self._head = _head(reply, "chat.completion.chunk")
        self._frames_of: dict[tuple[int, str | int], TextFrame] = {}
        self._waiting: dict[int, dict[str, Any]] = {}
        """What the next chunk of a choice shows of its tokens."""

    def push(self, events: Iterable[Event]) -> list[str]:
        """Return the frames of events; the last ones come with `Ended` or `Failed`."""
        frames = [shown for event in events for shown in self._frames(event)]
        return [*frames, *(self._chunk(number, {}) for number in list(self._waiting))]

    def _frames(self, event: Event) -> Iterable[str]:
        match event:
            case Began():
                return self._began(event)
            case TokenDelta():
                self._keep(event)
                return []
            case TextDelta(number, text):
                return [self._growing(number, "text", text, lambda text: {"content": text})]
            case ReasoningDelta(number, text):
                return [self._growing(number, "thoughts", text, lambda text: {name: text for name in _THOUGHTS})]
            case ToolCallBegin(number, index, id, name):
                call = {"id": f"call_{id}", "type": "function", "function": {"name": name, "arguments": ""}}
                return [self._chunk(number, {"tool_calls": [{"index": index, **call}]})]
            case ToolCallArguments(number, index, text):
                return [self._growing(number, index, text, lambda text: {
                    "tool_calls": [{"index": index, "function": {"arguments": text}}]
                })]  # fmt: skip
            case ChoiceEnd(number, reason):
                return [self._chunk(number, {}, reason)]
            case Ended(used):
                last = {**self._head, "choices": [], "usage": usage(used)}
                return [*([frame(last)] if self._request.include_usage else ()), DONE]
            case Failed(refusal):
                self._waiting.clear()
                return [frame(error(refusal)[1]), DONE]
            case ToolCallsRevoked() | PromptLogprobs():
                return []

    def _growing(self, number: int, what: str | int, text: str, delta: Callable[[str], dict[str, Any]]) -> str:
        """Return the chunk in which a choice has more of something; most chunks differ in their text alone."""
        if number in self._waiting:
            return self._chunk(number, delta(text))
        known = self._frames_of.get((number, what))
        if known is None:
            known = self._frames_of[number, what] = TextFrame(self._chunk(number, delta(TextFrame.MARK)))
        return known.filled(text)

    def _began(self, event: Began) -> list[str]:
        more = {"prompt_token_ids": list(event.prompt_ids)} if self._request.return_token_ids else {}
        begun = {"role": "assistant", "content": ""}
        return [self._chunk(number, begun, more=more) for number in range(self._request.number_of_choices)]

    def _keep(self, event: TokenDelta) -> None:
        """Keep the tokens of a choice for its next chunk."""
        shown = self._waiting.setdefault(event.choice, {})
        if event.logprobs is not None:
            content = logprobs(event.logprobs)["content"]
            shown["logprobs"] = {"content": [*shown.get("logprobs", {}).get("content", ()), *content], "refusal": None}
        if self._request.return_token_ids:
            shown["token_ids"] = [*shown.get("token_ids", ()), *event.ids]

    def _chunk(
        self, number: int, delta: Mapping[str, Any], reason: str | None = None, more: Mapping[str, Any] | None = None
    ) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        choice |= self._waiting.pop(number, {})
        used = {"usage": None} if self._request.include_usage else {}
        return frame({**self._head, "choices": [choice], **(more or {}), **used})


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of a refusal."""
    return openai_error(refusal)
