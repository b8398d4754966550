"""The official clients read what the codecs send: their types, and their own streams over a transport in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenkit.serving.refusals import Refusal
from qwenkit.serving.request import Failed, ToolCallsRevoked
from tests.serving.faces.cases import CASES, Case
from tests.serving.installed import client_module


def named(face: str, failed: bool = False) -> list[Any]:
    """Return the cases of one API, those that fail or the others."""
    return [
        pytest.param(case, id=name)
        for name, case in CASES.items()
        if case.face == face and isinstance(case.events[-1], Failed) == failed and (case.streamed or failed)
    ]


def data(case: Case) -> list[dict[str, Any]]:
    """Return the objects of a stream."""
    lines = [line for frame in case.frames() for line in frame.split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def answering(case: Case) -> Any:
    """Return a transport that answers with the case's response, or with its stream."""
    httpx2 = client_module("httpx2")

    def handler(request: Any) -> Any:
        if json.loads(request.content).get("stream"):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="".join(case.frames()))
        return httpx2.Response(200, json=case.whole())

    return httpx2.Client(transport=httpx2.MockTransport(handler))


def openai_client(case: Case) -> Any:
    openai = client_module("openai")
    return openai.OpenAI(api_key="k", base_url="http://test/v1", http_client=answering(case), max_retries=0)


def anthropic_client(case: Case) -> Any:
    anthropic = client_module("anthropic")
    return anthropic.Anthropic(api_key="k", base_url="http://test", http_client=answering(case), max_retries=0)


def asked(case: Case, *extra: str) -> dict[str, Any]:
    """Return the fields of a body, those that OpenAI's client does not name apart."""
    body = {name: value for name, value in case.body.items() if name not in ("stream", "stream_options", *extra)}
    more = {name: case.body[name] for name in extra if name in case.body}
    return {"model": "chat", **body, **({"extra_body": more} if more else {})}


# ---- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named("chat_completions"))
def test_chat_completions_have_openais_types(case):
    types = client_module("openai.types.chat")
    types.ChatCompletion.model_validate(case.whole(), strict=True)
    for chunk in data(case):
        types.ChatCompletionChunk.model_validate(chunk, strict=True)


@pytest.mark.parametrize("case", named("responses"))
def test_responses_have_openais_types(case):
    pydantic, types = client_module("pydantic"), client_module("openai.types.responses")
    types.Response.model_validate(case.whole())
    events = pydantic.TypeAdapter(types.ResponseStreamEvent)
    shown = data(case)
    names = [type(events.validate_python(event)).__name__ for event in shown]
    assert len(names) == len(shown) and [event["sequence_number"] for event in shown] == list(range(len(shown)))


@pytest.mark.parametrize("case", named("messages"))
def test_messages_have_anthropics_types(case):
    pydantic, types = client_module("pydantic"), client_module("anthropic.types")
    types.Message.model_validate(case.whole())
    events = pydantic.TypeAdapter(types.RawMessageStreamEvent)
    for event in data(case):
        events.validate_python(event)


# ---- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named("chat_completions"))
def test_openais_stream_of_a_chat_adds_up_to_the_response(case):
    client, fields = openai_client(case), asked(case, "return_token_ids")
    whole = client.chat.completions.create(**fields)
    text: dict[int, str] = {}
    thoughts: dict[int, str] = {}
    calls: dict[tuple[int, int], list[str]] = {}
    reasons: dict[int, str] = {}
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            text[choice.index] = text.get(choice.index, "") + (choice.delta.content or "")
            thoughts[choice.index] = thoughts.get(choice.index, "") + (getattr(choice.delta, "reasoning", None) or "")
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault((choice.index, call.index), ["", "", ""])
                known[0] += call.id or ""
                known[1] += call.function.name or ""
                known[2] += call.function.arguments or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index, "")
    for choice in whole.choices:
        message = choice.message
        assert (message.content or "") == text[choice.index] and choice.finish_reason == reasons[choice.index]
        assert getattr(message, "reasoning", "") == thoughts[choice.index]
        assert getattr(message, "reasoning_content", "") == thoughts[choice.index]
        for number, call in enumerate(message.tool_calls or ()):
            assert calls[choice.index, number] == [call.id, call.function.name, call.function.arguments]


@pytest.mark.parametrize("case", named("completions"))
def test_openais_stream_of_a_completion_adds_up_to_the_response(case):
    client, fields = openai_client(case), asked(case, "return_token_ids")
    whole = client.completions.create(**fields)
    text: dict[int, str] = {}
    tokens: dict[int, list[str]] = {}
    offsets: dict[int, list[int]] = {}
    for chunk in client.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            text[choice.index] = text.get(choice.index, "") + choice.text
            if choice.logprobs is not None:
                tokens.setdefault(choice.index, []).extend(choice.logprobs.tokens)
                offsets.setdefault(choice.index, []).extend(choice.logprobs.text_offset)
    for choice in whole.choices:
        assert choice.text == text[choice.index]
        if choice.logprobs is not None:
            assert (choice.logprobs.tokens, choice.logprobs.text_offset) == (
                tokens[choice.index],
                offsets[choice.index],
            )


@pytest.mark.parametrize("case", named("responses"))
def test_openais_stream_of_a_response_ends_with_the_response(case):
    client, fields = openai_client(case), asked(case)
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response() if whole.status == "completed" else None
    assert text == whole.output_text
    if final is not None:
        assert [item.id for item in final.output] == [item.id for item in whole.output]
        assert final.usage == whole.usage


@pytest.mark.parametrize("case", named("messages"))
def test_anthropics_stream_adds_up_to_the_message(case):
    client, fields = anthropic_client(case), asked(case)
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        final = stream.get_final_message()
    revoked = any(isinstance(event, ToolCallsRevoked) for event in case.events)
    blocks = [block for block in final.content if not (revoked and block.type == "tool_use")]
    assert [block.model_dump(exclude_none=True) for block in blocks] == [
        block.model_dump(exclude_none=True) for block in whole.content
    ]
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert final.usage.output_tokens == whole.usage.output_tokens


# ---- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*named("chat_completions", True), *named("completions", True)])
def test_a_failure_in_the_middle_of_a_stream_is_openais_error(case):
    openai, client = client_module("openai"), openai_client(case)
    create = client.chat.completions.create if case.face == "chat_completions" else client.completions.create
    with pytest.raises(openai.APIError, match="too many requests wait"):
        for _ in create(**asked(case), stream=True):
            pass


@pytest.mark.parametrize("case", named("responses", True))
def test_a_failure_in_the_middle_of_a_response_is_its_last_event(case):
    events = list(openai_client(case).responses.create(**asked(case), stream=True))
    assert events[-1].type == "response.failed" and events[-1].response.error.code == "rate_limit_exceeded"


@pytest.mark.parametrize("case", named("messages", True))
def test_a_failure_in_the_middle_of_a_message_is_anthropics_error(case):
    anthropic, client = client_module("anthropic"), anthropic_client(case)
    with pytest.raises(anthropic.APIStatusError, match="too many requests wait"):
        with client.messages.stream(**asked(case)) as stream:
            stream.get_final_message()


@pytest.mark.parametrize("kind", ["invalid", "unauthenticated", "forbidden", "not_found", "too_large", "rate_limited",
                                  "internal", "unavailable", "timeout"])  # fmt: skip
@pytest.mark.parametrize("face", ["chat_completions", "completions", "responses", "messages"])
def test_a_refusal_is_the_clients_error_of_its_status(face, kind):
    httpx2 = client_module("httpx2")
    case = next(case for case in CASES.values() if case.face == face and case.streamed)
    status, body = case.codec.error(Refusal(kind, "is wrong", "field", "something else"))
    transport = httpx2.MockTransport(lambda request: httpx2.Response(status, json=body))
    name = "anthropic" if face == "messages" else "openai"
    module = client_module(name)
    make = module.Anthropic if name == "anthropic" else module.OpenAI
    client = make(api_key="k", base_url="http://test/v1", http_client=httpx2.Client(transport=transport), max_retries=0)
    create = {"chat_completions": "chat.completions", "completions": "completions", "responses": "responses",
              "messages": "messages"}[face]  # fmt: skip
    place = client
    for part in create.split("."):
        place = getattr(place, part)
    with pytest.raises(module.APIStatusError, match="field: is wrong; expected: something else") as caught:
        place.create(**asked(case, "return_token_ids"))
    assert caught.value.status_code == status
