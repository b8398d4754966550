"""LangChain, OpenAI's agents, smolagents and Qwen-Agent over a real socket: what they send is taken, and they read the
answers of a model that calls the tools that it is offered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving.asgi import LIMIT
from tests.serving.installed import client_module
from tests.serving.scripted_server import CITY, PROSE, WEATHER, Script, serving

# ---- LangChain ------------------------------------------------------------------------------------------------------


def langchain(url: str, **more: Any) -> Any:
    model = client_module("langchain_openai").ChatOpenAI
    return model(model="tiny", base_url=url, api_key="k", max_retries=0, timeout=LIMIT, **more)


@pytest.mark.parametrize("responses_api", [False, True])
def test_langchain_asks_streams_and_calls_tools(long: Path, responses_api: bool) -> None:
    messages = client_module("langchain_core.messages")
    with serving(long, Script(CITY)) as (desk, url):
        model = langchain(url, use_responses_api=responses_api, temperature=0, stream_usage=True)
        answer = model.invoke("How is the weather?")
        used = answer.usage_metadata
        assert answer.text == PROSE and used["total_tokens"] == used["input_tokens"] + used["output_tokens"] > 9
        assert "".join(chunk.text for chunk in model.stream("How is the weather?")) == PROSE
        assert asyncio.run(model.ainvoke("How?")).text == PROSE
        tools = model.bind_tools([WEATHER])
        called = tools.invoke("How is the weather?")
        assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", CITY)]
        total = None
        for chunk in tools.stream("How is the weather?"):
            total = chunk if total is None else total + chunk
        assert total is not None and total.tool_calls[0]["args"] == CITY
        history = [messages.SystemMessage("Be brief."), messages.HumanMessage("How is the weather?"), called,
                   messages.ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])]  # fmt: skip
        assert tools.invoke(history).text == PROSE
        assert "<tool_response>\nsunny\n</tool_response>" in desk.prompts[-1] and "Be brief." in desk.prompts[-1]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_asks_for_a_form(long: Path, method: str) -> None:
    with serving(long, Script(CITY, json.dumps(CITY))) as (desk, url):
        model = langchain(url).with_structured_output(WEATHER, method=method)
        assert model.invoke("How?") == CITY
        params = desk.requests[-1].params
        assert (params.json_schema if method == "json_schema" else params.tools) is not None


# ---- OpenAI's agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_of_openai_calls_a_tool_and_answers(long: Path, face: str, stream: bool) -> None:
    agents, openai = client_module("agents"), client_module("openai")
    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool
    def weather(city: str) -> str:
        """Return the weather of a city."""
        asked.append(city)
        return "sunny"

    async def run(url: str) -> Any:
        client = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0, timeout=LIMIT)
        agent = agents.Agent(name="A", instructions="Be brief.", tools=[weather],
                             model=getattr(agents, face)(model="tiny", openai_client=client),
                             model_settings=agents.ModelSettings(temperature=0, parallel_tool_calls=False))  # fmt: skip
        if not stream:
            return await agents.Runner.run(agent, "How is the weather?")
        result = agents.Runner.run_streamed(agent, "How is the weather?")
        async for _ in result.stream_events():
            pass
        return result

    with serving(long, Script(CITY)) as (desk, url):
        assert asyncio.run(run(url)).final_output == PROSE
        assert asked == ["北京"] and len(desk.prompts) == 2
        assert "<tool_response>\nsunny\n</tool_response>" in desk.prompts[1]


# ---- smolagents -----------------------------------------------------------------------------------------------------


def test_smolagents_call_their_final_answer(long: Path) -> None:
    smolagents = client_module("smolagents")
    with serving(long, Script({"answer": PROSE})) as (desk, url):
        model = smolagents.OpenAIServerModel("tiny", api_base=url, api_key="k", client_kwargs={"max_retries": 0})
        agent = smolagents.ToolCallingAgent(tools=[], model=model, max_steps=2, verbosity_level=0)
        assert agent.run("How is the weather?") == PROSE
        assert '"name": "final_answer"' in desk.prompts[0]


def test_smolagents_run_the_code_of_an_answer(long: Path) -> None:
    smolagents = client_module("smolagents")
    with serving(long, Script({}, "Thought: add.\n<code>\nfinal_answer(6 * 7)\n</code>")) as (_, url):
        model = smolagents.OpenAIServerModel("tiny", api_base=url, api_key="k", client_kwargs={"max_retries": 0})
        agent = smolagents.CodeAgent(tools=[], model=model, max_steps=2, verbosity_level=0, stream_outputs=True)
        assert agent.run("What is six times seven?") == 42


# ---- Qwen-Agent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
def test_an_assistant_of_qwen_agent_calls_a_tool_and_answers(long: Path, raw: bool) -> None:
    """With `use_raw_api` the server reads the calls; without it Qwen-Agent writes the tools into the prompt, and reads
    the calls in the answer itself."""
    client_module("qwen_agent")
    agents, tools = client_module("qwen_agent.agents"), client_module("qwen_agent.tools.base")
    asked = []

    class Weather(tools.BaseTool):
        name, description = "weather", "Tells the weather."
        parameters = {key: WEATHER[key] for key in ("type", "properties", "required")}  # noqa: RUF012

        def call(self, params: str, **more: Any) -> str:
            asked.append(json.loads(params))
            return "sunny"

    with serving(long, Script(CITY)) as (desk, url):
        config = {"model": "tiny", "model_server": url, "api_key": "k", "model_type": "oai",
                  "generate_cfg": {"use_raw_api": raw, "top_k": 5, "max_retries": 0}}  # fmt: skip
        bot = agents.Assistant(llm=config, function_list=[Weather()], system_message="Be brief.")
        *_, answer = bot.run([{"role": "user", "content": "How is the weather?"}])
        assert answer[-1]["content"] == PROSE and asked == [CITY]
        assert "sunny" in desk.prompts[-1] and desk.requests[0].params.top_k == 5
