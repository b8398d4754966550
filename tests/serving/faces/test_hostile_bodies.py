"""Whatever a body holds, a codec returns a request or a refusal in words; never another error, never for long."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.serving.faces import chat_completions, completions, embeddings, messages, responses, tokenize
from qwenkit.serving.refusals import Refused
from qwenkit.serving.request import EmbeddingRequest, GenerationRequest, TextRequest

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "x"}'}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat": (chat_completions, {
        "model": "m", "max_completion_tokens": 5, "n": 2, "stop": ["a"], "logit_bias": {"5": 1}, "logprobs": True,
        "top_logprobs": 2, "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "stream": True,
        "stream_options": {"include_usage": True}, "chat_template_kwargs": {"enable_thinking": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}, PICTURE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ],
    }),
    "completions": (completions, {
        "model": "m", "prompt": ["a", [1, 2]], "max_tokens": 5, "logprobs": 2, "echo": True, "suffix": None,
        "structured_outputs": {"choice": ["a", "b"]}, "stream_options": None, "seed": 3,
    }),
    "responses": (responses, {
        "model": "m", "instructions": "s", "max_output_tokens": 5, "include": ["message.output_text.logprobs"],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"}, "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}], "tool_choice": "none",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "t"},
                                         {"type": "input_image", "image_url": "https://x/y.png"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "3"},
        ],
    }),
    "messages": (messages, {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s", "cache_control": {}}],
        "thinking": {"type": "enabled", "budget_tokens": 3}, "output_config": {"effort": "low"},
        "metadata": {"user_id": "u"}, "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "stop_sequences": ["a"],
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                                      "data": "AA=="}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                              {"type": "tool_use", "id": "c", "name": "weather", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "3"}]},
                {"type": "text", "text": "now?"},
            ]},
        ],
    }),
    "embeddings": (embeddings, {"model": "m", "input": ["a", [1]], "encoding_format": "base64", "dimensions": 3}),
    "tokenize": (tokenize, {"model": "m", "messages": [{"role": "user", "content": "t"}], "return_token_strs": True}),
}  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6), st.sampled_from(["auto", "none", "required", "type", "user", "\ud83d", "a" * 300, "", -1, 0]),
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.text(max_size=4) | st.sampled_from(["type", "role", "content", "name", "function", "text"]), inner, max_size=3
), max_leaves=8)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, item in inner for place in places(item, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body in which some values are others, are gone, or have a field more."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(places(body)))
        place: Any = body
        for key in path:
            place = place[key]
        if draw(st.booleans()):
            place[last] = draw(VALUES)
        elif isinstance(place, dict) and draw(st.booleans()):
            place[draw(st.text(max_size=5))] = draw(VALUES)
        else:
            del place[last]
        if not body:
            break
    return body


def refused_in_words(codec: Any, body: Any) -> None:
    """Parse a body; where it is refused, the error can be sent and names what is wrong."""
    try:
        request = codec.parse(body)
    except Refused as error:
        status, shown = codec.error(error.refusal)
        assert status == 400 and error.refusal.what and len(json.dumps(shown)) < 5000
        json.dumps(shown, ensure_ascii=False).encode()
    else:
        assert isinstance(request, (GenerationRequest, TextRequest, EmbeddingRequest))
        assert len(set(request.ignored)) == len(request.ignored)  # these go into a header: names of ours, each once
        assert all(re.fullmatch(r"[a-z_.\[\]]+", name) for name in request.ignored)


@pytest.mark.parametrize("name", BODIES)
def test_the_body_without_changes_is_taken(name):
    codec, body = BODIES[name]
    codec.parse(json.dumps(body).encode())


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_changed_body_is_taken_or_refused_in_words(name, data):
    codec, body = BODIES[name]
    refused_in_words(codec, json.dumps(data.draw(changed(body))).encode())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_in_words(body):
    for codec, _ in BODIES.values():
        refused_in_words(codec, body)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("body", [
    b'{"messages": ' + b"[" * 100_000, b'{"a": ' * 2000 + b"1" + b"}" * 2000, b'{"n": 1' + b"0" * 100_000 + b"}",
    b'{"temperature": 1e999}', b'{"temperature": NaN}', b'{"model": "a", "model": "b"}', b'{"model": "\xff"}',
    b"\xff\xfe{\x00}\x00", b"", b"null", b"[]", b'"', b"{" * 5, b'{"prompt": [' + b"1," * 600_000 + b"1]}",
], ids=lambda body: repr(body[:24]))  # fmt: skip
def test_absurd_bodies_are_refused_in_words(name, body):
    with pytest.raises(Refused) as caught:
        BODIES[name][0].parse(body)
    assert len(caught.value.refusal.message) < 600
