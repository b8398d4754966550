"""What LangChain, OpenAI's agents and smolagents send is taken, and they read the answers."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

import pytest

from qwenkit.inference import Conversation
from qwenkit.serving.faces import chat_completions, responses
from qwenkit.serving.refusals import Refused
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    GenerationRequest,
    TextDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from tests.serving.faces.cases import REPLY

CODECS: dict[str, Any] = {"/v1/chat/completions": chat_completions, "/v1/responses": responses}
PROSE = "It is sunny."


def framework(name: str) -> Any:
    """Return a module, or skip in words."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name.partition('.')[0]} is not installed ({error})")


class Server:
    """Answers requests by the codecs: a tool that is offered is called once, then there is text."""

    def __init__(self, arguments: dict[str, Any], text: str = PROSE) -> None:
        self.arguments, self.text = arguments, text
        self.requests: list[GenerationRequest] = []

    def events(self, request: GenerationRequest) -> list[list[Event]]:
        """Return what the model answers, in groups."""
        prompt = request.prompts[0]
        assert isinstance(prompt, Conversation)
        last: list[Event] = [Ended(Usage(5, 4))]
        if request.tools and prompt.messages[-1]["role"] == "user":
            name, written = request.tools[0]["function"]["name"], json.dumps(self.arguments)
            calls: list[Event] = [ToolCallBegin(0, 0, "aaaa", name), ToolCallArguments(0, 0, written[:5])]
            return [[Began((1,))], calls, [ToolCallArguments(0, 0, written[5:]), ChoiceEnd(0, "tool_calls")], last]
        return [[Began((1,))], [TextDelta(0, self.text[:4])], [TextDelta(0, self.text[4:]), ChoiceEnd(0, "stop")], last]

    def answer(self, request: Any) -> Any:
        """Return the response to a request of the transport."""
        httpx2 = framework("httpx2")
        codec = CODECS[request.url.path]
        try:
            asked = codec.parse(request.content)
        except Refused as refused:
            status, body = codec.error(refused.refusal)
            return httpx2.Response(status, json=body)
        self.requests.append(asked)
        groups = self.events(asked)
        if not asked.stream:
            return httpx2.Response(200, json=codec.whole(asked, REPLY, [event for group in groups for event in group]))
        stream = codec.Stream(asked, REPLY)
        text = "".join(frame for group in groups for frame in stream.push(group))
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    async def aanswer(self, request: Any) -> Any:
        """Return the same to an asynchronous transport."""
        return self.answer(request)

    def clients(self) -> dict[str, Any]:
        """Return the two HTTP clients that reach this server."""
        httpx2 = framework("httpx2")
        return {
            "http_client": httpx2.Client(transport=httpx2.MockTransport(self.answer)),
            "http_async_client": httpx2.AsyncClient(transport=httpx2.MockTransport(self.aanswer)),
        }


# ---- LangChain ------------------------------------------------------------------------------------------------------


def langchain(server: Server, **more: Any) -> Any:
    model = framework("langchain_openai").ChatOpenAI
    return model(model="chat", base_url="http://test/v1", api_key="k", max_retries=0, **server.clients(), **more)


WEATHER = {"title": "weather", "description": "W", "type": "object", "properties": {"city": {"type": "string"}},
           "required": ["city"]}  # fmt: skip


@pytest.mark.parametrize("responses_api", [False, True])
def test_langchain_asks_streams_and_calls_tools(responses_api):
    server = Server({"city": "北京"})
    model = langchain(server, use_responses_api=responses_api, temperature=0, stream_usage=True)
    answer = model.invoke("How is the weather?")
    assert answer.text == PROSE and answer.usage_metadata["total_tokens"] == 9
    chunks = list(model.stream("How is the weather?"))
    assert "".join(chunk.text for chunk in chunks) == PROSE
    assert asyncio.run(model.ainvoke("How?")).text == PROSE
    tools = model.bind_tools([WEATHER])
    called = tools.invoke("How is the weather?")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "北京"})]
    total = None
    for chunk in tools.stream("How is the weather?"):
        total = chunk if total is None else total + chunk
    assert total is not None and total.tool_calls[0]["args"] == {"city": "北京"}
    messages = framework("langchain_core.messages")
    history = [messages.SystemMessage("Be brief."), messages.HumanMessage("How is the weather?"), called,
               messages.ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])]  # fmt: skip
    assert tools.invoke(history).text == PROSE


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_asks_for_a_form(method):
    text = json.dumps({"city": "北京"})
    server = Server({"city": "北京"}, text)
    model = langchain(server).with_structured_output(WEATHER, method=method)
    assert model.invoke("How?") == {"city": "北京"}
    params = server.requests[-1].params
    assert (params.json_schema if method == "json_schema" else params.tools) is not None


# ---- OpenAI's agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_of_openai_calls_a_tool_and_answers(face, stream):
    agents, openai = framework("agents"), framework("openai")
    agents.set_tracing_disabled(True)
    server = Server({"city": "北京"})
    client = openai.AsyncOpenAI(api_key="k", base_url="http://test/v1", max_retries=0,
                                http_client=server.clients()["http_async_client"])  # fmt: skip
    asked = []

    @agents.function_tool
    def weather(city: str) -> str:
        """Return the weather of a city."""
        asked.append(city)
        return "sunny"

    model = getattr(agents, face)(model="chat", openai_client=client)
    agent = agents.Agent(name="A", instructions="Be brief.", model=model, tools=[weather],
                         model_settings=agents.ModelSettings(temperature=0, parallel_tool_calls=False))  # fmt: skip

    async def run() -> Any:
        if not stream:
            return await agents.Runner.run(agent, "How is the weather?")
        result = agents.Runner.run_streamed(agent, "How is the weather?")
        async for _ in result.stream_events():
            pass
        return result

    assert asyncio.run(run()).final_output == PROSE
    assert asked == ["北京"] and len(server.requests) == 2
    assert server.requests[1].prompts[0].messages[-1]["role"] == "tool"


# ---- smolagents -----------------------------------------------------------------------------------------------------


def test_smolagents_call_their_final_answer():
    smolagents = framework("smolagents")
    server = Server({"answer": PROSE})
    model = smolagents.OpenAIServerModel(
        "chat", api_base="http://test/v1", api_key="k", client_kwargs={"http_client": server.clients()["http_client"]}
    )
    agent = smolagents.ToolCallingAgent(tools=[], model=model, max_steps=2, verbosity_level=0)
    assert agent.run("How is the weather?") == PROSE
    assert [tool["function"]["name"] for tool in server.requests[0].tools] == ["final_answer"]
