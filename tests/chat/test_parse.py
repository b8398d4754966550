"""Reading answers: tool calls of three formats, and nothing ever raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.chat import ChatTokenizer, parse_text
from qwenkit.chat.probes import PROBES

from .test_render import rows, talk

REACT = ("\nAction:", "\nAction Input:", "\nObservation:", "\nFinal Answer: ", "Thought: ")
HERMES = ("<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "[1]", "{", '"name"', "null")
pieces = st.sampled_from([*REACT, *HERMES, "<think>", "</think>", "你", "\n", "a"])


@given(parts=st.lists(pieces, max_size=12), tools=st.none() | st.just([{"name": "f"}]))
def test_nothing_raises(parts: list[str], tools: list[Any] | None) -> None:
    message = parse_text("".join(parts), tools)
    assert message["role"] == "assistant" and isinstance(message["content"], str)


@given(ids=st.lists(st.integers(0, 383), max_size=20))
def test_any_ids_can_be_read_padding_rows_too(tiny: ChatTokenizer, ids: list[int]) -> None:
    assert isinstance(tiny.parse(ids)["content"], str)


def test_parsing_inverts_rendering(tiny: ChatTokenizer) -> None:
    for probe in PROBES[22:24]:
        told = next(i for i, m in enumerate(probe.messages) if m["role"] == "assistant")
        before = tiny.render(probe.messages[:told], probe.tools, add_generation_prompt=True).ids
        whole = tiny.render(probe.messages[: told + 1], probe.tools).ids
        read = tiny.parse(whole[len(before) :], probe.tools)
        assert read == probe.messages[told]


def test_an_answer_ends_at_the_first_turn_mark(tiny: ChatTokenizer) -> None:
    ids = [*tiny.encode("yes"), tiny.im_end_id, *tiny.encode("\n"), tiny.im_start_id, *tiny.encode("user")]
    assert tiny.parse(ids) == {"role": "assistant", "content": "yes"}


def test_a_call_that_cannot_be_read_or_was_not_offered_stays_text() -> None:
    broken = '<tool_call>\n{"name": "f", \n</tool_call>'
    assert parse_text(broken) == {"role": "assistant", "content": broken}
    unknown = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    assert "tool_calls" not in parse_text(unknown, [{"function": {"name": "f"}}])
    assert parse_text(unknown)["tool_calls"][0]["function"]["name"] == "g"


def test_thoughts_are_taken_apart() -> None:
    assert parse_text("<think>\nhm\n</think>\n\n好") == {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "好",
    }


def test_react_as_the_authors_read_it() -> None:
    for row in rows("react_parse_response.jsonl"):
        want = row["parsed"]["message"]
        call = want["function_call"]
        got = parse_text(row["response"], [{"name": call["name"] if call else "f"}])
        assert got["content"] == want["content"]
        assert ("tool_calls" in got) == (call is not None)
        if call:
            function = got["tool_calls"][0]["function"]
            arguments = json.loads(call["arguments"]) if call["arguments"] else ""
            assert function == {"name": call["name"], "arguments": arguments}


def test_a_plain_answer_is_itself(tiny: ChatTokenizer) -> None:
    ids = tiny.render(talk("a", "b\n\nc"), continue_final_message=True).ids
    prompt = tiny.render(talk("a"), add_generation_prompt=True).ids
    assert tiny.parse(ids[len(prompt) :]) == {"role": "assistant", "content": "b\n\nc"}


DIFFERS = {
    "no eod token: the LAST token is dropped (loop variable stays at len-1)": "Hello there",
    "strip": "  padded  \n",
    "raw_text_len counts un-normalised chars: first characters of the answer are cut": "ok",
}
"""Where the authors' reading of an answer loses some of it, ours does not; blanks around it are the model's own."""


def test_answers_as_the_authors_read_them_without_the_losses(qwen: ChatTokenizer) -> None:
    """`<|endoftext|>` ends an answer here, with or without a turn mark; there it is cut out or stays as text."""
    noted = set()
    for row in rows("decode_tokens.jsonl"):
        got = qwen.parse(row["response_ids"])["content"]
        noted |= {row["note"]} & DIFFERS.keys()
        if row["note"] in DIFFERS:
            assert got == DIFFERS[row["note"]] != row["text"]
        elif qwen.eot_id in row["response_ids"][:-1]:
            before = row["response_ids"][: row["response_ids"].index(qwen.eot_id)]
            assert got == qwen.decode(before).split("<|im_end|>")[0] and row["text"].startswith(got.strip())
        elif row["errors"] == "replace":
            assert got.strip() == row["text"]
    assert noted == DIFFERS.keys()


TOOLS = [{"function": {"name": "f"}}, {"name": "g"}]


def called(*calls: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"s": "</tool_call> b"}}\n</tool_call>', "",
         [("f", {"s": "</tool_call> b"})]),
        ('<tool_call>{"name": "f", "arguments": {"s": "<tool_call>"}}</tool_call>', "", [("f", {"s": "<tool_call>"})]),
        ('<tool_call>{"name": "f", "arguments": {"s": "</think>"}}</tool_call>', "", [("f", {"s": "</think>"})]),
        ('<tool_call>\n{"name": "f", "parameters": {"s": 1}}\n</tool_call>', "", [("f", {"s": 1})]),
        ('<tool_call>{"name": "f", "arguments": "{\\"s\\": 1}"}</tool_call>', "", [("f", {"s": 1})]),
        ('<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>', "", [("f", {})]),
        ('Now\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>{"name": "g", "arguments": {}}',
         "Now", [("f", {}), ("g", {})]),
        ('<tool_call>{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}</tool_call> so', " so",
         [("f", {}), ("g", {})]),
    ],
)  # fmt: skip
def test_calls_end_where_their_json_ends(text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    assert parse_text(text, TOOLS) == {"role": "assistant", "content": content, "tool_calls": called(*calls)}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": null}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "not an object"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {}} is how a call looks',
        '<tool_call>{"name": "f", "arguments": {"s": "cut',
        "<tool_call></tool_call>",
        "<tool_call>" + "[" * 100_000,
        '<tool_call>{"name": "f", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>",
    ],
)
def test_what_is_no_whole_call_stays_text(text: str) -> None:
    assert parse_text(text, TOOLS) == {"role": "assistant", "content": text}


def test_a_call_in_a_thought_is_none() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for begun in ("<think>\n", ""):
        got = parse_text(f"{begun}perhaps {call}\n</think>\n\n{call}", TOOLS)
        assert got == {
            "role": "assistant",
            "content": "",
            "reasoning_content": f"perhaps {call}",
            "tool_calls": called(("f", {})),
        }
    assert parse_text(f"<think>\ncut {call}", TOOLS) == {
        "role": "assistant", "content": "", "reasoning_content": f"cut {call}"
    }  # fmt: skip
