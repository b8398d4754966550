"""ReAct tools: the released server's prompts, reading back what is written, masks, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import STYLES, ChatTokenizer
from qwenkit.chat.styles import REACT
from qwenkit.errors import UserError

from .test_render import Messages, talk

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "城市天气", "parameters": {"type": "object"}},
}


def called(content: str, arguments: Any, name: str = "weather") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


ASKED: Messages = [
    *talk("Paris?"),
    called("I look it up.", {"city": "Paris"}),
    {"role": "tool", "content": "sunny"},
]


def text(tok: ChatTokenizer, messages: Messages, **options: Any) -> str:
    return tok.decode(tok.render(messages, [TOOL], style="react", **options).ids)


def trained(tok: ChatTokenizer, messages: Messages, tools: Any = (TOOL,)) -> str:
    got = tok.render(messages, list(tools), style="react", mask="assistant")
    return tok.decode([i for i, weight in zip(got.ids, got.weights, strict=True) if weight])


def test_the_released_prompts(qwen: ChatTokenizer, real_data: Path) -> None:
    path = real_data.parent / "reference" / "golden" / "tokenizer" / "react_parse_messages.jsonl"
    if not path.is_file():
        pytest.skip(f"no prompts of the released server at {path}: they lie beside the data of QWENKIT_TEST_DATA")
    checked = 0
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        if not row["functions"]:
            continue
        messages = row["messages"]
        system = {"role": "system", "content": row["system"]}
        got = qwen.render([system, *messages], row["functions"], add_generation_prompt=True, style="react")
        assert qwen.decode(got.ids) == row["raw_text"] and got.ids == row["ids"]
        checked += 1
    assert checked == 4


def test_calls_results_and_the_final_answer_share_a_turn(tiny: ChatTokenizer) -> None:
    begun = text(tiny, ASKED, add_generation_prompt=True)
    assert begun.endswith(
        "Begin!\n\nQuestion: Paris?<|im_end|>\n<|im_start|>assistant\nThought: I look it up.\nAction: weather\n"
        'Action Input: {"city": "Paris"}\nObservation: sunny\nThought:'
    )
    whole = text(tiny, [*ASKED, *talk("", "Sunny.")[1:]])
    assert whole == f"{begun} I now know the final answer.\nFinal Answer: Sunny.<|im_end|>\n"
    assert "weather: Call this tool to interact with the weather API." in whole and "one of [weather]" in whole
    assert text(tiny, [*ASKED, *talk("", "Sunny.", "Thanks", "Bye.")[1:]]).count("Begin!") == 1


def test_the_model_learns_its_own_lines(tiny: ChatTokenizer) -> None:
    """Not the result, not the thought's label after it, and no answer that stands before the list of tools."""
    messages = [*ASKED, *talk("", "Sunny.")[1:]]
    assert trained(tiny, messages) == (
        'Thought: I look it up.\nAction: weather\nAction Input: {"city": "Paris"}\nObservation:'
        " I now know the final answer.\nFinal Answer: Sunny.<|im_end|>"
    )
    later = [*messages, *talk("And you?", "Fine.")]
    assert trained(tiny, later) == "Thought: I now know the final answer.\nFinal Answer: Fine.<|im_end|>"
    assert tiny.render(later, [TOOL], style="react").untrained == (1, 3)
    weighted = [*ASKED, {"role": "assistant", "content": "Sunny.", "train": False}]
    assert trained(tiny, weighted).endswith("\nObservation:")


def test_without_tools_it_is_the_first_qwens_style(tiny: ChatTokenizer) -> None:
    chat = talk(" a\n", "\n\nb ", "c", system="\ns")
    assert tiny.render(chat, style="react") == tiny.render(chat, style="qwen1")


def test_other_styles_may_have_these_lines(tiny: ChatTokenizer) -> None:
    joined = replace(STYLES["qwen2"], tools=REACT)
    got = tiny.decode(tiny.render(ASKED, [TOOL], True, style=joined).ids)
    assert got == tiny.decode(tiny.render(ASKED, [TOOL], True, style="react").ids)


words = st.text(st.sampled_from("ab 你😀\n:{}\"'"), max_size=12).map(lambda said: said.strip())
values = st.none() | st.booleans() | st.integers() | words
arguments = st.dictionaries(words, values | st.lists(values, max_size=2), max_size=2)


@settings(max_examples=150, deadline=None)
@given(said=words, given=st.none() | arguments, name=st.sampled_from(["weather", "天气"]))
def test_parsing_inverts_rendering(tiny: ChatTokenizer, said: str, given: Any, name: str) -> None:
    message = {"role": "assistant", "content": said} if given is None else called(said, given, name)
    tools = [{"name": name}]
    prompt = tiny.render(talk("q"), tools, add_generation_prompt=True, style="react").ids
    whole = tiny.render([*talk("q"), message], tools, style="react").ids
    assert whole[: len(prompt)] == prompt
    assert tiny.parse(whole[len(prompt) :], tools) == message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {**called("x", {}), "tool_calls": called("x", {})["tool_calls"] * 2},
            "message 1: 2 tool calls in one answer, in ReAct's lines\n"
            "  expected: one call, its result, and the next call",
        ),
        (
            talk("", "one\nAction: weather\nAction Input: {}")[1],
            "message 1: an answer whose ReAct lines would be read as another one\n"
            "  expected: no line of its content that begins with Action:, Observation: or Final Answer:",
        ),
        (
            talk("", "one\nFinal Answer: two")[1],
            "message 1: an answer whose ReAct lines would be read as another one\n"
            "  expected: no line of its content that begins with Action:, Observation: or Final Answer:",
        ),
        (
            called("", "{}\nObservation: rain"),
            "message 1: an answer whose ReAct lines would be read as another one\n"
            "  expected: no line of its content that begins with Action:, Observation: or Final Answer:",
        ),
    ],
)
def test_an_answer_that_would_be_read_otherwise_is_refused(
    tiny: ChatTokenizer, answer: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        tiny.render([*talk("q"), answer], [TOOL], style="react")
    assert str(refused.value) == message
