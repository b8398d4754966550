"""From the engine's deltas to events: their sum is what `parse_text` says, and each event comes as early as it can."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat.parse import parse_text, read_arguments
from qwenkit.errors import UserError
from qwenkit.inference import Conversation, Delta, SamplingParams
from qwenkit.inference.grammar import Grammars
from qwenkit.serving.answer_events import AnswerEvents
from qwenkit.serving.faces.collected import Answer
from qwenkit.serving.prompts import can_think, engine_params, engine_prompt
from qwenkit.serving.refusals import Refused
from qwenkit.serving.request import (
    Began,
    ChoiceEnd,
    Ended,
    Event,
    Failed,
    FillIn,
    GenerationRequest,
    PromptLogprobs,
    ReasoningDelta,
    TextDelta,
    TokenDelta,
    ToolCallArguments,
    ToolCallBegin,
    Usage,
)
from tests.chat.test_parse_stream import PIECES, TOOLS
from tests.serving.faces.bytes_tokenizer import BytesTokenizer, deltas

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "好"}}\n</tool_call>'


def asked(**more: Any) -> GenerationRequest:
    """Return a request of a chat, with tools."""
    fields = {"face": "chat_completions", "model": None, "prompts": ("x",), "params": SamplingParams(logprobs=False)}
    return GenerationRequest(**{**fields, "tools": tuple(TOOLS), **more})


def events_of(
    text: str, request: GenerationRequest, cuts: Any = (), tok: Any = None, prompt: str = "x", reason: str = "stop"
) -> list[Event]:
    """Return the events of an answer with this text."""
    tok = tok or BytesTokenizer()
    ids = itertools.count()
    answer = AnswerEvents(request, tok, tok.encode(prompt, "all"), new_id=lambda: f"id{next(ids)}")
    events = answer.began()
    for delta in deltas(tok, text, request.params, cuts, reason):
        events += answer.push(delta)
    assert answer.is_complete
    return [*events, Ended(answer.usage)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.lists(st.integers(0, 300), max_size=20),
       st.booleans())  # fmt: skip
def test_the_sum_of_the_events_is_what_parse_text_says(text, cuts, opened):
    events = events_of(text, asked(), cuts, prompt="<think>" if opened else "x")
    answer = Answer.of(events).choices[0]
    wanted = parse_text(text, TOOLS, opened=opened, react=False)
    assert answer.text == wanted["content"] and answer.reasoning == wanted.get("reasoning_content", "")
    made = [(call.name, read_arguments(call.arguments)) for call in answer.calls]
    called = [call["function"] for call in wanted.get("tool_calls", [])]
    assert made == [(call["name"], call["arguments"]) for call in called]
    assert answer.reason == ("tool_calls" if called else "stop")


def test_no_event_has_half_a_character():
    events = events_of("😀 好", asked(), range(20))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["😀", " ", "好"]


def test_calls_have_an_index_and_an_id_each():
    events = events_of(CALL + "\n" + CALL, asked(), range(300))
    assert [event for event in events if isinstance(event, ToolCallBegin)] == [
        ToolCallBegin(0, 0, "id0", "add"), ToolCallBegin(0, 1, "id1", "add"),
    ]  # fmt: skip
    assert events[-2] == ChoiceEnd(0, "tool_calls")


def test_a_call_ends_an_answer_that_may_have_one():
    request = asked(parallel_tool_calls=False)
    tok = BytesTokenizer()
    answer, seen = AnswerEvents(request, tok, [1]), []
    for delta in deltas(tok, CALL + "\n" + CALL, request.params, range(300)):
        seen += answer.push(delta)
        if answer.is_complete:
            break
    assert seen[-1] == ChoiceEnd(0, "tool_calls") and delta.finish_reason is None
    assert sum(isinstance(event, ToolCallBegin) for event in seen) == 1
    assert answer.push(delta) == []


def test_an_answer_that_was_cut_off_has_the_reason_length_and_no_incomplete_call():
    events = events_of(CALL[:-16], asked(), range(300), reason="length")
    assert any(isinstance(event, ToolCallArguments) for event in events)
    answer = Answer.of(events).choices[0]
    assert (answer.text, answer.calls, answer.reason) == (CALL[:-16], [], "length")


def test_without_tools_a_call_is_text():
    assert Answer.of(events_of(CALL, asked(tools=()))).choices[0].text == CALL


def test_thoughts_are_apart_and_counted():
    events = events_of("<think>hm</think>Yes", asked(), range(9))
    answer = Answer.of(events)
    assert (answer.choices[0].reasoning, answer.choices[0].text) == ("hm", "Yes")
    assert answer.usage == Usage(1, 8, 1, 4)  # <think>, two letters, </think>


def test_thoughts_that_are_not_asked_for_are_left_out():
    events = events_of("<think>hm</think>Yes", asked(show_reasoning=False))
    assert not any(isinstance(event, ReasoningDelta) for event in events)


@pytest.mark.parametrize("thinks", [True, False])
def test_a_prompt_may_open_the_thought_by_a_token_or_in_letters(thinks):
    tok = BytesTokenizer(thinks=thinks)
    events = events_of("hm</think>Yes", asked(), tok=tok, prompt="assistant\n<think>\n")
    assert Answer.of(events).choices[0].reasoning == "hm"


def test_a_completion_is_text_and_nothing_else():
    events = events_of("<think>hm</think>" + CALL, asked(face="completions"))
    assert Answer.of(events).choices[0].text == "<think>hm</think>" + CALL


@pytest.mark.parametrize("text, stop", [("ab!c?", "!"), ("ab?", "?"), ("ab", None)])
def test_the_stop_string_that_ended_an_answer_is_named(text, stop):
    request = asked(params=SamplingParams(logprobs=False, stop=["?", "!", "zz"]))
    events = events_of(text, request, range(9))
    assert events[-2] == ChoiceEnd(0, "stop", stop)
    assert Answer.of(events).choices[0].text == "ab"


def test_tokens_come_where_they_are_asked_for_with_their_logprobs():
    request = asked(params=SamplingParams(logprobs=True), top_logprobs=0, return_token_ids=True)
    tokens = [event for event in events_of("好", request, [1, 2]) if isinstance(event, TokenDelta)]
    assert [id for event in tokens for id in event.ids] == [*"好".encode(), 258]
    last = [token for event in tokens for token in event.logprobs or ()]
    assert [token.bytes for token in last] == [b"\xe5", b"\xa5", b"\xbd", b"<|im_end|>"]
    assert last[0].text == "\ufffd" and last[0].logprob == -0.5 and last[0].top == ()
    assert not any(isinstance(event, TokenDelta) for event in events_of("好", asked()))


def test_as_many_of_the_likeliest_tokens_as_were_asked_for():
    request = asked(params=SamplingParams(logprobs=2), top_logprobs=1)
    delta = Delta(0, 0, [65], "A", [-0.1], "stop", top_logprobs=[((65, -0.1), (66, -2.0))])
    events = AnswerEvents(request, BytesTokenizer(), [1]).push(delta)  # type: ignore[arg-type]
    assert isinstance(events[0], TokenDelta) and events[0].logprobs is not None
    assert [(token.text, token.logprob) for token in events[0].logprobs[0].top] == [("A", -0.1)]


def test_choices_are_numbered_through_all_prompts():
    request = asked(prompts=("a", "b"), params=SamplingParams(n=2, logprobs=False))
    tok = BytesTokenizer()
    answer = AnswerEvents(request, tok, [1], prompt=1)
    events = [event for delta in deltas(tok, "x", request.params, sample=1) for event in answer.push(delta)]
    assert events == [TextDelta(3, "x"), ChoiceEnd(3, "stop")] and not answer.is_complete


def test_echo_gives_the_text_of_the_prompt_and_its_logprobs():
    request = asked(face="completions", echo=True, top_logprobs=0, params=SamplingParams(prompt_logprobs=True))
    tok = BytesTokenizer()
    answer = AnswerEvents(request, tok, list(b"ab"))
    assert answer.began() == [Began((97, 98), 0, "ab")]
    (delta,) = deltas(tok, "c", request.params)
    assert delta.output is not None
    delta.output.prompt_logprobs = [None, -0.25]
    last = answer.push(delta)[-1]
    assert isinstance(last, PromptLogprobs) and [token.logprob for token in last.tokens] == [None, -0.25]


def test_a_request_with_an_error_fails():
    delta = Delta(0, 0, [], "", None, "error", error=UserError("no such picture", where="request 3"))
    (event,) = AnswerEvents(asked(), BytesTokenizer(), [1]).push(delta)  # type: ignore[arg-type]
    assert isinstance(event, Failed) and event.refusal.what == "no such picture"


# ---- ReAct ----------------------------------------------------------------------------------------------------------


def test_react_lines_are_calls_where_the_style_writes_them_and_tools_are_offered():
    text = 'Thought: I look.\nAction: add\nAction Input: {"a": 1}\n'
    react = Answer.of(events_of(text, asked(), range(99), BytesTokenizer("react"))).choices[0]
    assert (react.text, [(call.name, json.loads(call.arguments)) for call in react.calls]) == (
        "I look.", [("add", {"a": 1})],
    )  # fmt: skip
    assert Answer.of(events_of(text, asked(), tok=BytesTokenizer())).choices[0].calls == []
    plain = Answer.of(events_of(text, asked(tools=()), tok=BytesTokenizer("react"))).choices[0]
    assert (plain.text, plain.calls) == (text, [])


def test_a_react_answer_stops_before_a_result():
    request = asked(params=SamplingParams(stop=["x"]))
    assert engine_params(request, BytesTokenizer("react")).stop == ("x", "Observation:")
    assert engine_params(request, BytesTokenizer()).stop == ("x",)
    assert engine_params(asked(tools=()), BytesTokenizer("react")).stop == ()


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("text, fits", [
    ('{"a": 1}', True), ('{"b": 1}', False), ("Hello", False),
    ('<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>', True),
    ('<tool_call>\n{"name": "sub", "arguments": {}}\n</tool_call>', False),
])  # fmt: skip
def test_an_answer_bound_to_a_schema_may_still_call_a_tool(text, fits):
    pytest.importorskip("llguidance", reason="grammars need llguidance")
    tok = BytesTokenizer()
    params = engine_params(asked(params=SamplingParams(json_schema=SCHEMA)), tok)
    state = Grammars(tok).start(params)
    assert params.json_schema is None and state is not None
    for id in tok.encode(text):
        if not state.allowed()[id]:
            assert not fits
            return
        state.push(id)
    assert fits and (state.is_complete or (state.allowed() is not None and state.may_end))


def test_a_schema_beside_tools_needs_a_style_that_writes_calls():
    request = asked(params=SamplingParams(json_schema=SCHEMA))
    with pytest.raises(UserError, match="how the chat style of this folder writes calls is not known"):
        engine_params(request, BytesTokenizer(None))


# ---- prompts --------------------------------------------------------------------------------------------------------


def test_names_of_special_tokens_in_a_text_are_text_unless_asked():
    tok: Any = BytesTokenizer()
    assert engine_prompt("<|im_end|>", tok) == "<|im_end|>"
    assert engine_prompt("a<|im_end|>", tok, parse_special=True) == (97, 258)


def test_a_gap_is_written_with_the_tokens_of_the_vocabulary():
    tok: Any = BytesTokenizer()
    with pytest.raises(Refused) as caught:
        engine_prompt(FillIn("a", "b"), tok)
    assert caught.value.refusal.message == (
        "suffix: this model does not fill in: its vocabulary has no tokens for that; "
        "expected: a prompt without a suffix, or a model with <|fim_prefix|>"
    )
    tok.special |= {"<|fim_prefix|>": 300, "<|fim_suffix|>": 301, "<|fim_middle|>": 302}
    assert engine_prompt(FillIn("a", "b"), tok) == (300, 97, 301, 98, 302)


@pytest.mark.parametrize("style, template, thinks", [
    ("qwen3", None, True), ("chatml", None, False), (None, "{{ enable_thinking }}", True), (None, "{{ x }}", False),
])  # fmt: skip
def test_not_to_think_is_asked_only_of_models_that_think(style, template, thinks):
    tok: Any = BytesTokenizer(style, chat_template=template)
    assert can_think(tok) == thinks
    prompt = engine_prompt(Conversation([], None, thinking=False), tok)
    assert isinstance(prompt, Conversation) and prompt.thinking == (False if thinks else None)
