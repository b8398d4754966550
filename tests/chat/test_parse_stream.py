"""An answer that is parsed while it is written is the message that `parse_text` returns of the whole text."""

import itertools
import json

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qwenkit.chat.parse import parse_text, read_arguments
from qwenkit.chat.parse_parts import CallArguments, CallBegin, CallEnd, CallsRevoked, Text, ThoughtText, collect
from qwenkit.chat.parse_stream import MessageStream

TOOLS = [{"type": "function", "function": {"name": "add"}}, {"name": "天气"}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": [1, {"b": "}"}], "c": "</tool_call>"}}\n</tool_call>'
PIECES = [
    "<tool_call>", "</tool_call>", "<think>", "</think>", "\n", " ", "{", "}", "[", "]", '"', "\\", ",", ":", "name",
    '{"name": "add", "arguments": {}}', '{"name": "add", "arguments": {"a": "x\\"y"}}',
    '{"name": "sub", "arguments": {}}',
    '{"name":"天气","parameters":{"城市":"北京\\n"}}', '{"arguments": {"a": 1}, "name": "add"}', '"arguments": ', "add",
    '{"name": "add", "arguments": "{\\"a\\": 1}"}', '{"function": {"name": "add", "arguments": {"x": null}}}',
    '{"name": "add", "arguments": {"a": 1}, "arguments": {"a": 2}}', '{"name": "add", "arguments": {"a": NaN}}',
    '{"name": "add", "arguments": {"a": 1e999}, "name": "天气"}', "1", "-0.5e3", "true", "Hello", "好", "😀", CALL, "<",
    '{"name": "add", "arguments": {"a": 1}, "function": {"name": "天气", "arguments": {}}}', "\u3000", "\r", "\x00",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def cut(text: str, cuts: list[int]) -> list[str]:
    """Return the text in pieces, cut at these places."""
    places = sorted({place % (len(text) + 1) for place in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


def streamed(text: str, cuts: list[int], tools=TOOLS, **options):
    stream = MessageStream(tools, **options)
    parts = [part for piece in cut(text, cuts) for part in stream.push(piece)]
    return [*parts, *stream.finish()]


def expected(text: str, tools=TOOLS, **options):
    """Return what `parse_text` says, without empty thoughts: nobody sees them."""
    message = parse_text(text, tools, **options)
    if not message.get("reasoning_content"):
        message.pop("reasoning_content", None)
    return message


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 500), max_size=20), st.booleans(), st.sampled_from([TOOLS, [], None]))
@example("<tool_call></tool_call>", [], False, TOOLS)
@example("a\n<tool_call>" + CALL, [3, 20], False, TOOLS)
@example(CALL + "\n" + CALL + "\n", [*range(300)], False, TOOLS)
@example("\n<think>\n\nhm</think></think>\n\n" + CALL + "x", [*range(300)], False, TOOLS)
@example("hm\n</think>\n" + CALL, [*range(300)], True, TOOLS)
@example('<tool_call>{"name": "add", "arguments": {}}{"name": "sub", "arguments": {}}</tool_call>', [9], False, TOOLS)
def test_however_it_is_cut_the_sum_is_what_parse_text_says(text, cuts, opened, tools):
    parts = streamed(text, cuts, tools, opened=opened)
    assert collect(parts) == expected(text, tools, opened=opened, react=False)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.booleans())
def test_one_character_at_a_time_gives_the_same_as_all_at_once(text, opened):
    assert collect(streamed(text, list(range(len(text))), opened=opened)) == collect(streamed(text, [], opened=opened))


REACT = [
    "Thought: ", "I look.", "\n", "\nAction:", " add", "\nAction Input:", ' {"a": 1}', "\nObservation:", " 3", "好",
    "\nFinal Answer: ", "It is 3.", "Action:", " sub",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(REACT), max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=20))
@example('Thought: I look.\nAction: add\nAction Input: {"a": 1}\nObservation:', [5, 30, 60])
@example("Thought: I know.\nFinal Answer: It is\n3.", [*range(60)])
@example("Thought: I know.\nFinal Answer:", [*range(60)])
def test_react_lines_with_one_action_or_one_final_answer(text, cuts):
    assume(text.count("\nAction:") <= 1 and text.count("\nAction Input:") <= 1 and text.count("\nFinal Answer:") <= 1)
    final, given_at = text.find("\nFinal Answer: "), text.find("\nAction Input:")
    assume(not (final >= 0 and given_at >= 0 and 0 <= text.find("\nAction:") < given_at) or final > given_at)
    assume("Thought: " not in text or text.find("Thought: ") < max(text.find("\nAction:"), 0) or given_at < 0)
    parts = streamed(text, cuts, react=True)
    assert collect(parts) == expected(text, react=True)


def test_arguments_come_while_they_are_written():
    stream, seen = MessageStream(TOOLS), []
    for sign in '<tool_call>\n{"name": "add", "arguments": {"a": "好", "b": [1]}}\n</tool_call>':
        seen.append(stream.push(sign))
    began = next(i for i, parts in enumerate(seen) if CallBegin(0, "add") in parts)
    grown = [part.text for parts in seen[began:] for part in parts if isinstance(part, CallArguments)]
    assert grown == [*'{"a": "好", "b": [', "1]", "}"]  # a number is complete with what follows it


def test_text_is_held_back_only_while_it_may_be_a_tag():
    stream = MessageStream(TOOLS)
    assert stream.push("Hello\n") == [Text("Hello")]
    assert stream.push("<tool") == []
    assert stream.push("box> ") == [Text("\n<toolbox> ")]
    assert stream.push("\n\n") == [Text("\n")]
    assert stream.finish() == [Text("\n")]


def test_without_tools_nothing_is_held_back():
    stream = MessageStream([])
    assert stream.push("a\n<tool_call>\n{") == [Text("a\n<tool_call>\n{")]


def test_a_block_that_cannot_be_read_takes_its_calls_back():
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}} and more'
    parts = streamed(text, [*range(len(text))])
    assert CallEnd(0) in parts and CallsRevoked((0,)) in parts
    assert collect(parts) == {"role": "assistant", "content": text}


def test_an_answer_that_was_cut_off_in_its_arguments_is_text():
    text = '<tool_call>{"name": "add", "arguments": {"a": "b'
    parts = streamed(text, [*range(len(text))])
    assert parts[0] == CallBegin(0, "add") and CallsRevoked((0,)) in parts
    assert collect(parts)["content"] == text


def test_what_is_shown_of_arguments_is_the_beginning_of_json():
    stream = MessageStream(TOOLS)
    parts = [p for sign in '<tool_call>{"name": "add", "arguments": {"a": hello' for p in stream.push(sign)]
    assert "".join(part.text for part in parts if isinstance(part, CallArguments)) == '{"a": '
    stream = MessageStream(TOOLS)
    parts = [p for sign in '<tool_call>{"name": "add", "arguments": {"a": "\\u4f' for p in stream.push(sign)]
    assert "".join(part.text for part in parts if isinstance(part, CallArguments)) == '{"a": "\\u4f'


def test_parallel_calls_have_an_index_each():
    two = CALL + "\n" + CALL.replace('"add"', '"天气"')
    begun = [part for part in streamed(two, [*range(len(two))]) if isinstance(part, CallBegin)]
    assert begun == [CallBegin(0, "add"), CallBegin(1, "天气")]


def test_thoughts_come_without_the_newlines_around_them():
    text = "<think>\nhm\n\nwell\n</think>\n\nYes"
    parts = streamed(text, [*range(len(text))])
    assert "".join(part.text for part in parts if isinstance(part, ThoughtText)) == "hm\n\nwell"
    assert collect(parts)["content"] == "Yes"


@pytest.mark.parametrize("opened", [True, False])
def test_an_end_of_thought_without_a_beginning_depends_on_the_prompt(opened):
    message = collect(streamed("hm</think>Yes", [], opened=opened))
    assert message.get("reasoning_content") == ("hm" if opened else None)


def test_many_tags_that_begin_no_call_are_read_in_one_pass(monkeypatch):
    looked_at = 0
    feed = MessageStream._in_call

    def counted(self, scanner):
        nonlocal looked_at
        before = scanner.at
        progress = feed(self, scanner)
        looked_at += scanner.at - before
        return progress

    monkeypatch.setattr(MessageStream, "_in_call", counted)
    text = '<tool_call>{"' * 2000
    assert collect(streamed(text, [*range(0, len(text), 5)]))["content"] == text
    assert looked_at <= 4 * len(text)


def test_the_arguments_are_the_text_that_the_model_wrote():
    written = '{"b":1.50,  "a":"\\u4f60"}'
    parts = streamed(f'<tool_call>{{"name": "add", "arguments": {written}}}</tool_call>', [])
    text = "".join(part.text for part in parts if isinstance(part, CallArguments))
    assert text == written and read_arguments(text) == json.loads(written)
