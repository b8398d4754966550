"""Rendering: the authors' ids and labels, injection, masks, spans, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import STYLES, ChatTokenizer
from qwenkit.errors import UserError
from qwenkit.tokenizer import normalize

GOLDEN = Path(__file__).parent / "golden"
Messages = list[dict[str, Any]]


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text("utf-8").splitlines()]


def talk(*turns: str, system: str | None = None) -> Messages:
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


nasty = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|extra_0|>", "system\n", "\n", " ", "a", "你", "\u0338", "é"]
    ),
    max_size=8,
).map("".join)
chats = st.lists(nasty, min_size=1, max_size=5)


def test_the_authors_prompts(qwen: ChatTokenizer) -> None:
    assert qwen.style == "qwen1"
    checked = 0
    for row in rows("chat_make_context.jsonl"):
        if row["chat_format"] != "chatml" or row["max_window_size"] < 6144:
            continue
        turns = [text for pair in row["history"] for text in pair]
        got = qwen.render(talk(*turns, row["query"], system=row["system"]), add_generation_prompt=True)
        assert got.ids == row["ids"], row["query"]
        checked += 1
    assert checked > 8


def test_the_authors_labels(qwen: ChatTokenizer) -> None:
    for row in rows("sft_preprocess.jsonl"):
        turns = [turn["value"] for turn in row["conversation"]]
        turns = turns[1:] if row["conversation"][0]["from"] == "assistant" else turns
        got = qwen.render(talk(*turns, system=row["system"]))
        labels = [i if weight else -100 for i, weight in zip(got.ids, got.weights, strict=True)]
        size = min(len(got.ids), row["max_len"])
        assert got.ids[:size] == row["input_ids"][:size]
        assert labels[:size] == row["labels"][:size]


@settings(max_examples=150, deadline=None)
@given(turns=chats, system=st.none() | nasty, style=st.sampled_from(["qwen1", "chatml"]))
def test_what_people_write_never_becomes_a_special_token(
    tiny: ChatTokenizer, turns: list[str], system: str | None, style: str
) -> None:
    messages = talk(*turns, system=system)
    got = tiny.render(messages, style=style)
    special = [i for i in got.ids if i in set(tiny.special.values())]
    assert special == [tiny.im_start_id, tiny.im_end_id] * len(messages)
    want = "".join(f"<|im_start|>{m['role']}\n{normalize(m['content'])}<|im_end|>\n" for m in messages)
    assert tiny.decode(got.ids) == want


@settings(max_examples=100, deadline=None)
@given(turns=chats, style=st.sampled_from(list(STYLES)), mask=st.sampled_from(["qwen", "assistant"]))
def test_spans_cover_every_token_once_and_weights_follow_them(
    tiny: ChatTokenizer, turns: list[str], style: str, mask: str
) -> None:
    got = tiny.render(talk(*turns), style=style, mask=mask)
    assert len(got.ids) == len(got.weights) and bool(got.untrained) == (style == "qwq" and len(turns) > 1)
    assert [i for span in got.spans for i in range(span.start, span.stop)] == list(range(len(got.ids)))
    for span in got.spans:
        weights = set(got.weights[span.start : span.stop])
        if span.kind == "content":
            assert weights == {float(span.role == "assistant" and not got.untrained)}
        elif mask == "assistant" and span.role == "user":
            assert weights == {0.0}


def test_masks_by_hand(tiny: ChatTokenizer) -> None:
    messages = talk("hi", "你好")

    def trained(mask: str) -> str:
        got = tiny.render(messages, mask=mask)
        return tiny.decode([i for i, w in zip(got.ids, got.weights, strict=True) if w])

    assert trained("assistant") == "你好<|im_end|>"
    assert trained("qwen") == "<|im_start|><|im_end|>\n<|im_start|>你好<|im_end|>\n"


def test_styles_differ_on_a_leading_newline_and_the_shared_token_is_given(qwen: ChatTokenizer) -> None:
    messages = talk("q", "\n\nanswer")
    alone, joined = (qwen.render(messages, style=style, mask="assistant") for style in ("qwen1", "chatml"))
    assert qwen.decode(alone.ids) == qwen.decode(joined.ids)
    assert alone.ids != joined.ids
    assert qwen.decode([i for i, w in zip(joined.ids, joined.weights, strict=True) if w]) == "answer<|im_end|>"
    assert qwen.decode([i for i, w in zip(alone.ids, alone.weights, strict=True) if w]) == "\n\nanswer<|im_end|>"


@settings(max_examples=60, deadline=None)
@given(question=nasty, answer=st.sampled_from(["yes", "你好", "a\n\nb", "<|im_end|> no"]))
def test_a_training_row_begins_with_the_prompt(tiny: ChatTokenizer, question: str, answer: str) -> None:
    prompt = tiny.render(talk(question), add_generation_prompt=True).ids
    row = tiny.render(talk(question, answer))
    assert row.ids[: len(prompt)] == prompt
    assert tiny.parse(row.ids[len(prompt) :])["content"] == answer.split("<|im_end|>")[0]
    assert tiny.render(talk(question, answer), continue_final_message=True).ids == row.ids[:-2]


def test_thoughts_of_earlier_turns_are_dropped_in_qwen3(tiny: ChatTokenizer) -> None:
    messages = talk("a", "<think>\nlong\n</think>\n\nb", "c", "d")
    messages[3]["reasoning_content"] = "why"
    text = tiny.decode(tiny.render(messages, style="qwen3").ids)
    assert "long" not in text and "<|im_start|>assistant\nb<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n<think>\nwhy\n</think>\n\nd<|im_end|>\n")


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "no messages"),
        (talk("a", "b")[1:], {}, "message 0: assistant at the start"),
        ([*talk("a"), *talk("b")], {}, "message 1: user after user"),
        ([*talk("a", "b"), {"role": "system", "content": "s"}], {}, "message 2: system after assistant"),
        ([*talk("a", "b"), {"role": "tool", "content": "s"}], {}, "message 2: tool after assistant"),
        ([{"role": "users", "content": "s"}], {}, "message 0: unknown role 'users'"),
        ([{"role": "user"}], {}, "message 0: content is missing"),
        ([{"role": "user", "content": 3}], {}, "message 0: content is a number"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "content part of type 'image'"),
        (talk("a", "b"), {"add_generation_prompt": True}, "message 1: nothing to answer"),
        (talk("a"), {"continue_final_message": True}, "message 0: nothing to continue"),
        (talk("a"), {"mask": "qwem"}, "unknown mask 'qwem'"),
        (talk("a"), {"style": "chatlm"}, "unknown chat style 'chatlm'"),
    ],
)
def test_impossible_conversations_are_refused(
    tiny: ChatTokenizer, messages: Messages, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tiny.render(messages, **options)
