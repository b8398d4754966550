"""What the APIs that generate have in common: sampling, tools, forms of answers, thoughts, in the fields' own names.

`SamplingParams` checks the values; here its errors get the names of the client's fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenkit.errors import UserError, nearest
from qwenkit.inference import SamplingParams
from qwenkit.inference.sampling_params import VALIDATORS
from qwenkit.serving.fields import (
    BOOLEAN,
    INTEGER,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_LIST,
    Kind,
    Table,
    Values,
    refused,
    texts,
    wrong,
)
from qwenkit.serving.refusals import Refusal, Refused, in_json
from qwenkit.serving.request import Tool

SAMPLING: dict[str, Kind] = {
    "temperature": NUMBER, "top_p": NUMBER, "top_k": INTEGER, "min_p": NUMBER, "repetition_penalty": NUMBER,
    "frequency_penalty": NUMBER, "presence_penalty": NUMBER, "logit_bias": OBJECT, "n": INTEGER, "seed": INTEGER,
    "max_tokens": INTEGER, "min_tokens": INTEGER, "stop": TEXT_OR_LIST, "stop_token_ids": LIST, "ignore_eos": BOOLEAN,
    "include_stop_str_in_output": BOOLEAN, "skip_special_tokens": BOOLEAN, "allowed_token_ids": LIST,
    "bad_words": TEXT_OR_LIST, "truncate_prompt_tokens": INTEGER, "thinking_budget": INTEGER,
    "thinking_token_budget": INTEGER,
}  # fmt: skip
"""OpenAI's fields for sampling and vLLM's, which are those of `SamplingParams`."""
MAX_STOPS, MAX_STOP_CHARACTERS = 64, 1000
"""The most stop strings of a request, and the longest."""
MAX_TOOLS = 512

IGNORED = (
    "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "verbosity", "prediction", "request_id", "moderation",
)  # fmt: skip
"""Fields of OpenAI's that no answer here depends on."""

STREAM_OPTIONS = Table({"include_usage": BOOLEAN}, ignored=("include_obfuscation", "continuous_usage_stats"))
RESPONSE_FORMAT = Table({"type": TEXT, "json_schema": OBJECT}, required=("type",))
JSON_SCHEMA = Table({"name": TEXT, "description": TEXT, "schema": OBJECT, "strict": BOOLEAN}, required=("schema",))
FORMS = ("structured_outputs", "response_format")
"""Fields that bind an answer to a form."""
STRUCTURED = Table({"json": Kind("a schema", lambda value: isinstance(value, (str, dict))), "json_object": BOOLEAN,
                    "regex": TEXT, "grammar": TEXT, "choice": LIST})  # fmt: skip
"""vLLM's `structured_outputs`."""

EFFORTS: dict[str, int | None] = {
    "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": None, "max": None,
}  # fmt: skip
"""Tokens that thoughts may have for each effort, as Google's OpenAI-compatible API counts them; None: no bound."""


def sampling_params(values: Values, names: Mapping[str, str] | None = None, **more: Any) -> SamplingParams:
    """Return the sampling parameters that fields ask for, and `more`; raises `Refused` with the client's name of a
    field. `names` are the client's names where they differ from those of `SamplingParams`."""
    names = names or {}
    given = {name: values[names.get(name, name)] for name in SAMPLING if names.get(name, name) in values}
    if "logit_bias" in given:
        given["logit_bias"] = {
            _token_id(id, values.place("logit_bias")): bias for id, bias in given["logit_bias"].items()
        }
    if "stop" in given:
        given["stop"] = stops(given["stop"], values.place(names.get("stop", "stop")))
    more = {name: value for name, value in more.items() if value is not None}
    try:
        return SamplingParams(**{"logprobs": False, **given, **more})
    except UserError as error:
        raise Refused(_renamed(error, names)) from None


def read_stream(values: Values) -> tuple[bool, bool, tuple[str, ...]]:
    """Return whether to stream, whether the stream ends with usage, and options without effect."""
    stream = values.get("stream", False)
    if "stream_options" not in values:
        return stream, not stream, ()
    if not stream:
        raise refused("stream_options", "is given without stream", "stream = true")
    options = STREAM_OPTIONS.read(values["stream_options"], "stream_options")
    return stream, options.get("include_usage", False), tuple(f"stream_options.{name}" for name in options.ignored)


def engine_logprobs(top: int | None) -> bool | int | None:
    """Return what the engine is asked for where `top` of the likeliest tokens are wanted: its 1 is true, and gives no
    list."""
    return None if top is None else True if top == 0 else max(2, top)


def _token_id(text: str, place: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise refused(place, f"the key {text[:40]!r} is not a token id", "token ids as keys, numbers as values")
    return int(text)


def stops(value: Any, place: str) -> tuple[str, ...]:
    """Return stop strings; raises `Refused` for others, and for too many or too long ones."""
    given = texts(value, place)
    if not all(given):
        raise refused(place, "has an empty string", "strings of at least one character")
    if len(given) > MAX_STOPS or any(len(text) > MAX_STOP_CHARACTERS for text in given):
        raise refused(place, "too many stop strings, or too long ones",
                      f"at most {MAX_STOPS}, of at most {MAX_STOP_CHARACTERS:,} characters")  # fmt: skip
    return given


def _renamed(error: UserError, names: Mapping[str, str]) -> Refusal:
    """Return the refusal of a sampling parameter, by the client's name of it."""
    name, _, rest = error.what.partition(" ")
    if name not in VALIDATORS:
        return Refusal("invalid", error.what, None, in_json(error.expected), error.hint, "invalid_value")
    client = names.get(name, name)
    return Refusal("invalid", f"{client} {rest}", client, in_json(error.expected), error.hint, "invalid_value")


# ---- tools ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolChoice:
    """Which tools an answer may call, and which it must."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    named: bool = False

    @property
    def forced(self) -> list[Tool] | None:
        """Return the tools of which one must be called, or None where none must."""
        if self.named:
            return [tool for tool in self.tools if tool["function"]["name"] == self.choice]
        return list(self.tools) if self.choice == "required" else None


def check_tools(tools: Sequence[Tool], places: Sequence[str]) -> tuple[Tool, ...]:
    """Return functions in OpenAI's form as they are; raises `Refused` where one cannot be offered."""
    if len(tools) > MAX_TOOLS:
        raise refused("tools", f"has {len(tools):,} tools", f"at most {MAX_TOOLS}")
    names: set[str] = set()
    for tool, place in zip(tools, places):
        name, parameters = tool["function"].get("name"), tool["function"].get("parameters")
        if not isinstance(name, str) or not name.strip() or len(name) > 128 or not name.isprintable():
            raise wrong(f"{place}.name", name, "a name of 1 to 128 characters")
        if name in names:
            raise refused(f"{place}.name", f"the second tool that is called {name!r}", "a name for each tool")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise wrong(f"{place}.parameters", parameters, "a JSON schema, an object")
        if not isinstance(tool["function"].get("description", ""), str | None):
            raise wrong(f"{place}.description", tool["function"]["description"], "a string")
        names.add(name)
    return tuple(tools)


def choose(tools: tuple[Tool, ...], choice: str, named: bool, place: str = "tool_choice") -> ToolChoice:
    """Return a choice among tools; raises `Refused` for one that cannot be made."""
    names = [tool["function"]["name"] for tool in tools]
    if named and choice not in names:
        close = nearest(choice[:200], names)
        raise Refused(Refusal("invalid", f"no tool is called {choice[:200]!r}", place,
                              ", ".join(names[:20]) or "tools", close and f"did you mean {close}?",
                              "unknown_tool"))  # fmt: skip
    if choice == "required" and not tools:
        raise refused(place, "a call is required, and there are no tools", "tools", "missing_field")
    return ToolChoice() if choice == "none" and not named else ToolChoice(tools, choice, named)


# ---- forms of answers -----------------------------------------------------------------------------------------------


def answer_form(values: Values) -> dict[str, Any]:
    """Return the grammar of the form that an answer must have, as sampling parameters."""
    form = structured(values["structured_outputs"]) if "structured_outputs" in values else {}
    if "response_format" not in values:
        return form
    wanted = RESPONSE_FORMAT.read(values["response_format"], "response_format")
    if wanted["type"] == "text":
        return form
    if form:
        raise refused("structured_outputs", "is given beside response_format", "one of the two")
    if wanted["type"] == "json_object":
        return {"json_schema": True}
    if wanted["type"] != "json_schema":
        raise wrong("response_format.type", wanted["type"], "text, json_object, json_schema")
    if "json_schema" not in wanted:
        raise refused("response_format.json_schema", "is missing", '{"name": ..., "schema": {...}}', "missing_field")
    return {"json_schema": JSON_SCHEMA.read(wanted["json_schema"], "response_format.json_schema")["schema"]}


def structured(value: Any) -> dict[str, Any]:
    """Return the grammar that vLLM's `structured_outputs` asks for, as sampling parameters."""
    values = STRUCTURED.read(value, "structured_outputs")
    if len(values) > 1:
        raise refused("structured_outputs", f"has {' and '.join(values)}", "one of them")
    if "choice" in values:
        options = texts(values["choice"], "structured_outputs.choice", "a list of strings")
        if not options:
            raise refused("structured_outputs.choice", "is empty", "strings to choose from")
        return {"regex": "|".join(f"({re.escape(option)})" for option in options)}
    if "json_object" in values:
        return {"json_schema": True} if values["json_object"] else {}
    return {"json_schema" if name == "json" else name: given for name, given in values.items()}


def bound_answer(form: Mapping[str, Any], tools: ToolChoice, place: str) -> dict[str, Any]:
    """Return the grammar of an answer: of the call that must come, or else the form that was asked for. Beside tools
    that may be called a form is a JSON schema, which `engine_params` joins with their grammar. Raises `Refused` for
    another one: bound to it, no answer could call them."""
    if tools.forced is not None:
        return {"tools": tools.forced}
    if form and tools.tools and "json_schema" not in form:
        raise refused(place, "binds the answer, so that no tool could be called",
                      'a JSON schema, tool_choice of "none" or "required", or no tools',
                      "unsupported_combination")  # fmt: skip
    return dict(form)


# ---- thoughts -------------------------------------------------------------------------------------------------------


def thinking_of(effort: Any, place: str) -> tuple[bool | None, int | None]:
    """Return whether an answer begins with thoughts (None: as the model does), and how many tokens they may have."""
    if effort is None:
        return None, None
    if effort == "none":
        return False, None
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise wrong(place, effort, f"none, {', '.join(EFFORTS)}")
    return True, EFFORTS[effort]
