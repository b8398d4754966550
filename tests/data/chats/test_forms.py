"""Every form that people have gives the same row; what does not fit is named, and put aside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenkit.data.chats.forms import converted
from qwenkit.errors import UserError

USER, YES = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "Four."}
SYSTEM = {"role": "system", "content": "请简短回答"}
CALL = {"role": "assistant", "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}  # fmt: skip


def said(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": who, "value": what} for who, what in pairs]


CHATS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, YES]},
    "messages as JSON text": {"messages": json.dumps([USER, YES])},
    "sharegpt": {"conversations": said(("human", "2 + 2?"), ("gpt", "Four."))},
    "the released Qwen's": {"id": "identity_0", "conversations": said(("user", "2 + 2?"), ("assistant", "Four."))},
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "Four."},
    "alpaca with response": {"instruction": "2 + 2?", "context": "", "response": "Four."},
    "prompt and completion": {"prompt": "2 + 2?", "completion": "Four."},
    "prompt and completion as messages": {"prompt": [USER], "completion": [YES]},
    "query and response": {"query": "2 + 2?", "response": "Four.", "history": []},
    "question and answer": {"question": "2 + 2?", "answer": "Four."},
    "questions with their answers": {"conversation": [{"human": "2 + 2?", "assistant": "Four."}]},
    "the same in other words": {"conversations": [{"question": "2 + 2?", "answer": "Four."}]},
    "instances": {"instruction": "2 + 2?", "instances": [{"input": "", "output": "Four."}]},
    "odd capitals and nulls": {"messages": [{"role": "User", "content": "2 + 2?", "tool_calls": None}, YES]},
    "a tree of ranked replies": {"prompt": {"role": "prompter", "text": "2 + 2?", "replies": [
        {"role": "assistant", "text": "Five.", "rank": 1, "replies": []},
        {"role": "assistant", "text": "Four.", "rank": 0, "replies": [{"role": "prompter", "text": "Sure?"}]}]}},
    "a question after the last answer": {"messages": [USER, YES, {"role": "user", "content": "Sure?"}]},
}  # fmt: skip


@pytest.mark.parametrize("form", CHATS)
def test_every_form_of_a_chat_is_one(form: str) -> None:
    row = converted(CHATS[form], "chats").row
    assert [{key: m[key] for key in ("role", "content")} for m in row["messages"]] == [USER, YES]
    assert not {"conversations", "instruction", "history", "completion"} & row.keys()


def test_what_stands_beside_the_turns() -> None:
    """A system turn, an input, earlier turns, tools as text, calls of functions in three spellings."""
    assert converted({"system": SYSTEM["content"], **CHATS["alpaca"]}, "chats").row["messages"][0] == SYSTEM
    row = converted({"system_prompt": SYSTEM["content"], "question": "2 + 2?", "response": "Four."}, "chats").row
    assert row["messages"] == [SYSTEM, USER, YES]
    row = converted({"instruction": "Add.", "input": "2 2", "output": "4", "history": [["Hi", "Ho"]]}, "chats").row
    assert [m["content"] for m in row["messages"]] == ["Hi", "Ho", "Add.\n2 2", "4"]
    called = '{"name": "add", "arguments": {"a": 2}}'
    shared = said(("human", "2 + 2?"), ("function_call", called), ("observation", "4"), ("gpt", "Four."))
    row = converted({"conversations": shared, "tools": '[{"name": "add"}]'}, "chats").row
    assert row["messages"] == [USER, CALL, {"role": "tool", "content": "4"}, YES] and row["tools"] == [{"name": "add"}]
    old = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": {"a": 2}}}
    answer = {"role": "function", "name": "add", "content": "4"}
    row = converted({"messages": [USER, old, answer, YES], "functions": [{"name": "add"}]}, "chats").row
    assert row["messages"][1] == CALL and row["messages"][2]["role"] == "tool"
    assert row["tools"] == [{"type": "function", "function": {"name": "add"}}]
    parts = [{"type": "reasoning", "value": "Hm."}, {"type": "text", "value": "Four."}]
    row = converted({"messages": [USER, {"role": "assistant", "content": parts}]}, "chats").row
    assert row["messages"][1]["reasoning_content"] == "Hm."
    assert row["messages"][1]["content"] == [{"type": "text", "text": "Four."}]


@pytest.mark.parametrize(("key", "value", "weight"), [
    ("weight", 0, 0), ("weight", 0.5, 0.5), ("train", False, 0), ("trainable", False, 0), ("loss", False, 0),
    ("train_detail", [{"begin_offset": 0, "end_offset": 3, "train": False}], 0), ("train", True, None),
    ("weight", 1, None),
])  # fmt: skip
def test_what_a_turn_says_of_training(key: str, value: Any, weight: float | None) -> None:
    first = {**YES, key: value}
    row = converted({"messages": [USER, first, USER, YES]}, "chats").row
    assert row["messages"][1].get("weight") == weight and key not in row["messages"][1].keys() - {"weight"}
    assert row["messages"][3] == YES


def test_a_row_says_it_of_all_its_answers() -> None:
    row = converted({"messages": [USER, YES, USER, {**YES, "weight": 2}], "weight": 0.5}, "chats").row
    assert [m.get("weight") for m in row["messages"]] == [None, 0.5, None, 2.0]


BAD = [
    ({"messages": [USER, YES], "system": "A", "conversations": None, "weight": -1}, "`weight` is -1"),
    ({"messages": [SYSTEM, USER, YES], "system": "another"}, "say different things"),
    ({"messages": [USER, {**YES, "weight": "much"}]}, "`weight` is a string"),
    ({"messages": [USER, {**YES, "weight": float("nan")}]}, "`weight` is nan"),
    ({"messages": [USER, {**YES, "train": "no"}]}, "`train` is a string"),
    ({"messages": [USER, {**YES, "train": True, "weight": 0}]}, "disagree about training"),
    ({"messages": [USER, {**YES, "train_detail": [{"train": True}, {"train": False}]}]}, "parts of a turn only"),
    ({"messages": [USER, YES], "train": False}, "nothing is trained"),
    ({"messages": [USER, {**YES, "content": " "}]}, "an empty answer"),
    ({"messages": [USER]}, "without an answer"),
    ({"messages": [YES, USER]}, "assistant at the start"),
    ({"messages": [USER, USER, YES]}, "user after user"),
    ({"messages": [USER, {"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"),
    ({"messages": [USER, YES], "images": ["a.png"]}, "a row with `images`"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, YES]}, "a content part of type 'image_url'"),
    ({"messages": "no JSON"}, "a string that is not JSON"),
    ({"messages": [USER, YES], "label": False}, "marked as unwanted"),
    ({"conversations": said(("human", "x"), ("function_call", "add(2)"))}, "a function call that is not JSON"),
    ({"instruction": "x"}, "a question without an answer"),
    ({"instruction": " ", "output": "x"}, "an empty question"),
    ({"text": "Once upon a time."}, "a document with `text`"),
    ({"text": "<|im_start|>user\n2 + 2?<|im_end|>\n"}, "a template's marks around its turns"),
    ({"text": "### Human: 2 + 2?\n### Assistant: Four."}, "a template's marks around its turns"),
    ({"prompt": "x", "chosen": "a", "rejected": "b"}, "without an answer"),
    ({"chosen": [USER, YES], "rejected": [USER, YES]}, "a comparison, where a chat was expected"),
    ({"query": "x", "response": "y", "history": ["x"]}, "something other than pairs"),
    ({"foo": 1}, "missing key `messages`"),
]


@pytest.mark.parametrize(("row", "what"), BAD, ids=[what for _, what in BAD])
def test_what_is_no_chat_is_named(row: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        converted(row, "chats")


NO = {"role": "assistant", "content": "Five."}
PAIRS: dict[str, dict[str, Any]] = {
    "turns of sharegpt": {"conversations": said(("human", "2 + 2?")), "chosen": said(("gpt", "Four."))[0],
                          "rejected": said(("gpt", "Five."))[0]},
    "texts beside sharegpt": {"conversations": said(("human", "2 + 2?")), "chosen": "Four.", "rejected": "Five."},
    "an instruction": {"instruction": "2 + 2?", "input": "", "chosen": "Four.", "rejected": "Five."},
    "whole chats, the chosen one twice": {"prompt": "2 + 2?", "messages": [USER, YES], "chosen": [USER, YES],
                                          "rejected": [USER, NO], "score_chosen": 9.0},
    "a rejected response": {"messages": [USER, YES], "rejected_response": "Five."},
    "other names": {"question": "2 + 2?", "response_chosen": "Four.", "response_rejected": "Five."},
    "transcripts": {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: Four.",
                    "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: Five."},
    "outputs and a label": {"instruction": "2 + 2?", "output_1": "Five.", "output_2": "Four.", "preference": 2},
    "a tree": CHATS["a tree of ranked replies"],
    "JSON texts": {"prompt": "2 + 2?", "chosen": json.dumps([USER, YES]), "rejected": json.dumps([USER, NO])},
}  # fmt: skip


@pytest.mark.parametrize("form", PAIRS)
def test_every_form_of_a_comparison_is_one(form: str) -> None:
    row = converted(PAIRS[form], "pairs").row
    assert (row["messages"], row["chosen"], row["rejected"]) == ([USER], "Four.", "Five.")


def test_the_system_turn_of_a_comparison() -> None:
    pair = {"system": SYSTEM["content"], "chosen": [USER, YES], "rejected": [USER, NO]}
    assert converted(pair, "pairs").row["messages"] == [SYSTEM, USER]
    with pytest.raises(UserError, match="a list of strings"):
        converted({"prompt": "x", "chosen": ["a", "b"], "rejected": ["c"]}, "pairs")
    with pytest.raises(UserError, match="says which is better"):
        converted({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 0}, "pairs")
