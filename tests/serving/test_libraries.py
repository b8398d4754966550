"""OpenAI's and Anthropic's own libraries over a real socket, with a model that calls tools, thinks and keeps to forms:
their helpers for tools, for streams and for parsed answers, at once and asynchronous."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from tests.serving.asgi import LIMIT
from tests.serving.installed import client_module
from tests.serving.scripted_server import CITY, PROSE, THOUGHT, WEATHER, Script, serving

QUESTION: list[Any] = [{"role": "user", "content": "How is the weather?"}]
PARAMETERS = {name: value for name, value in WEATHER.items() if name not in ("title", "description")}
TOOL = {"type": "function", "function": {"name": "weather", "description": "W", "parameters": PARAMETERS}}
FLAT = {"type": "function", "name": "weather", "description": "W", "parameters": PARAMETERS, "strict": False}
CLAUDES = {"name": "weather", "description": "W", "input_schema": PARAMETERS}


class City(pydantic.BaseModel):
    """The form of an answer."""

    city: str


def openai_client(url: str, kind: str = "OpenAI") -> Any:
    return getattr(client_module("openai"), kind)(base_url=url, api_key="k", timeout=LIMIT, max_retries=0)


def anthropic_client(url: str, kind: str = "Anthropic") -> Any:
    module = client_module("anthropic")
    return getattr(module, kind)(base_url=url.removesuffix("/v1"), api_key="k", timeout=LIMIT, max_retries=0)


# ---- OpenAI: chat completions ---------------------------------------------------------------------------------------


def test_a_call_its_result_and_the_answer(long: Path) -> None:
    with serving(long, Script(CITY)) as (desk, url), openai_client(url) as client:
        asked = {"model": "tiny", "tools": [TOOL], "temperature": 0}
        choice = client.chat.completions.create(messages=QUESTION, **asked).choices[0]
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", CITY)
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        history = [*QUESTION, choice.message, result]  # the message as the library has it
        again = client.chat.completions.create(messages=history, **asked).choices[0]
        assert (again.message.content, again.finish_reason) == (PROSE, "stop")
        assert "<tool_response>\nsunny\n</tool_response>" in desk.prompts[-1]


def test_the_stream_helper_sees_a_call_grow(long: Path) -> None:
    with serving(long, Script(CITY)) as (_, url), openai_client(url) as client:
        with client.chat.completions.stream(model="tiny", messages=QUESTION, tools=[TOOL]) as stream:
            events = list(stream)
            final = stream.get_final_completion()
        grown = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
        assert json.loads("".join(grown)) == CITY
        (call,) = final.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == CITY and final.choices[0].finish_reason == "tool_calls"


def test_answers_of_a_form_are_parsed(long: Path) -> None:
    openai = client_module("openai")
    with serving(long, Script(CITY, json.dumps(CITY))) as (desk, url), openai_client(url) as client:
        asked = {"model": "tiny", "messages": QUESTION}
        answer = client.chat.completions.parse(**asked, response_format=City)
        assert answer.choices[0].message.parsed == City(**CITY)
        assert json.loads(desk.requests[-1].params.json_schema)["required"] == ["city"]
        with client.chat.completions.stream(**asked, response_format=City) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == City(**CITY)
        with_tool = client.chat.completions.parse(**asked, tools=[openai.pydantic_function_tool(City)])
        (call,) = with_tool.choices[0].message.tool_calls
        assert call.function.parsed_arguments == City(**CITY)
        response = client.responses.parse(model="tiny", input="How is the weather?", text_format=City)
        assert response.output_parsed == City(**CITY)


def test_thoughts_several_answers_and_log_probabilities(long: Path) -> None:
    with serving(long, Script(CITY, thought=THOUGHT), style="qwen3") as (_, url), openai_client(url) as client:
        asked = {"model": "tiny", "messages": QUESTION, "reasoning_effort": "low", "n": 2}
        answer = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
        assert [choice.message.content for choice in answer.choices] == [PROSE] * 2
        assert {choice.message.reasoning for choice in answer.choices} == {THOUGHT}
        assert {len(token.top_logprobs) for token in answer.choices[0].logprobs.content} == {2}
        assert answer.usage.completion_tokens_details.reasoning_tokens > 2 * len(THOUGHT.split())
        texts, thoughts = ["", ""], ["", ""]
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                thoughts[choice.index] += getattr(choice.delta, "reasoning", None) or ""
        assert texts == [PROSE] * 2 and thoughts == [THOUGHT] * 2


def test_what_has_no_effect_and_the_id_are_told(long: Path) -> None:
    with serving(long, Script(CITY)) as (_, url), openai_client(url) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=QUESTION, store=True, extra_headers={"X-Request-Id": "mine-1"}
        )
        assert raw.headers["x-ignored-fields"] == "store" and raw.headers["x-request-id"] == "mine-1"
        assert raw.parse().choices[0].message.content == PROSE and raw.parse()._request_id == "mine-1"


# ---- OpenAI: responses ----------------------------------------------------------------------------------------------


def test_a_response_calls_and_goes_on(long: Path) -> None:
    with serving(long, Script(CITY, thought=THOUGHT), style="qwen3") as (desk, url), openai_client(url) as client:
        asked = {"model": "tiny", "tools": [FLAT], "reasoning": {"effort": "low"}}
        first = client.responses.create(input=QUESTION, **asked)
        thoughts, call = first.output
        assert (thoughts.type, thoughts.content[0].text) == ("reasoning", THOUGHT)
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", CITY)
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        history = [*QUESTION, *first.output, result]  # the items as the library has them
        second = client.responses.create(input=history, **asked)
        assert second.output_text == PROSE and second.status == "completed"
        assert "<tool_response>\nsunny\n</tool_response>" in desk.prompts[-1]


def test_the_events_of_a_response(long: Path) -> None:
    with serving(long, Script(CITY)) as (_, url), openai_client(url) as client:
        with client.responses.stream(model="tiny", input=QUESTION, tools=[FLAT]) as stream:
            events = list(stream)
            (call,) = stream.get_final_response().output
        kinds = [event.type for event in events]
        assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
        grown = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
        assert json.loads(grown) == json.loads(call.arguments) == CITY
        assert [event.sequence_number for event in events] == list(range(len(events)))


def test_many_at_once_of_the_asynchronous_client(long: Path) -> None:
    async def ask(url: str) -> list[str]:
        async with openai_client(url, "AsyncOpenAI") as client:

            async def one(number: int) -> str:
                if number % 2:
                    async with client.responses.stream(model="tiny", input=QUESTION) as stream:
                        return (await stream.get_final_response()).output_text
                chunks = await client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

            return await asyncio.gather(*map(one, range(8)))

    with serving(long, Script(CITY)) as (_, url):
        assert asyncio.run(ask(url)) == [PROSE] * 8


# ---- Anthropic ------------------------------------------------------------------------------------------------------


def test_a_tool_use_its_result_and_the_answer(long: Path) -> None:
    with serving(long, Script(CITY)) as (desk, url), anthropic_client(url) as client:
        asked = {"model": "tiny", "max_tokens": 500, "tools": [CLAUDES]}
        first = client.messages.create(messages=QUESTION, **asked)
        (use,) = first.content
        assert (first.stop_reason, use.type, use.name, use.input) == ("tool_use", "tool_use", "weather", CITY)
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        history = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = client.messages.create(messages=history, **asked)
        assert (second.stop_reason, second.content[0].text) == ("end_turn", PROSE)
        assert "<tool_response>\nsunny\n</tool_response>" in desk.prompts[-1]
        more = client.messages.count_tokens(model="tiny", messages=history, tools=[CLAUDES]).input_tokens
        assert more == second.usage.input_tokens > first.usage.input_tokens


def test_the_stream_of_a_message(long: Path) -> None:
    with serving(long, Script(CITY, thought=THOUGHT), style="qwen3") as (_, url), anthropic_client(url) as client:
        asked = {"model": "tiny", "max_tokens": 500, "messages": QUESTION,
                 "thinking": {"type": "enabled", "budget_tokens": 200}}  # fmt: skip
        with client.messages.stream(**asked, tools=[CLAUDES]) as stream:
            grown = "".join(event.partial_json for event in stream if event.type == "input_json")
            thoughts, use = stream.get_final_message().content
        assert (thoughts.type, thoughts.thinking) == ("thinking", THOUGHT)
        assert use.input == CITY and json.loads(grown) == CITY
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == PROSE


def test_answers_of_a_form_are_parsed_by_anthropics_library(long: Path) -> None:
    with serving(long, Script(CITY, json.dumps(CITY))) as (desk, url), anthropic_client(url) as client:
        answer = client.messages.parse(model="tiny", max_tokens=500, messages=QUESTION, output_format=City)
        assert answer.parsed_output == City(**CITY) and desk.requests[-1].params.json_schema is not None


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_runner_of_tools(long: Path, stream: bool) -> None:
    anthropic, asked = client_module("anthropic"), []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Return the weather of a city."""
        asked.append(city)
        return "sunny"

    with serving(long, Script(CITY)) as (_, url), anthropic_client(url) as client:
        runner = client.beta.messages.tool_runner(
            model="tiny", max_tokens=500, messages=QUESTION, tools=[weather], stream=stream
        )
        if stream:
            messages = [part.get_final_message() for part in runner]
        else:
            messages = list(runner)
        assert asked == ["北京"] and [message.stop_reason for message in messages] == ["tool_use", "end_turn"]
        assert messages[-1].content[0].text == PROSE


def test_anthropics_asynchronous_client(long: Path) -> None:
    async def ask(url: str) -> list[str]:
        async with anthropic_client(url, "AsyncAnthropic") as client:

            async def one(number: int) -> str:
                async with client.messages.stream(model="tiny", max_tokens=500, messages=QUESTION) as stream:
                    return "".join([text async for text in stream.text_stream])

            return await asyncio.gather(*map(one, range(8)))

    with serving(long, Script(CITY)) as (_, url):
        assert asyncio.run(ask(url)) == [PROSE] * 8
