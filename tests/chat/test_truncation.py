"""Which turns the model is shown: the released rule on its own cases, and what must never be dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenkit.chat import ChatTokenizer, truncate_history
from qwenkit.errors import UserError

from .test_render import Messages, rows, talk

WEATHER: Messages = [
    {"role": "user", "content": "北京天气？"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    {"role": "tool", "content": "晴"},
]


def ids(tok: ChatTokenizer, messages: Messages) -> list[int]:
    return tok.render(messages, add_generation_prompt=True).ids


def test_the_authors_prompts_at_every_window(qwen: ChatTokenizer) -> None:
    """History, truncation with its strict bound, injection, and raw text: all cases of the official function."""
    cut = 0
    for row in rows("chat_make_context.jsonl"):
        if row["chat_format"] == "raw":  # special tokens are parsed there; here only on request
            assert qwen.encode(row["query"], "all") == row["ids"]
            continue
        turns = [text for pair in row["history"] for text in pair]
        messages = talk(*turns, row["query"], system=row["system"])
        kept = truncate_history(qwen, messages, row["max_window_size"])
        assert ids(qwen, kept) == row["ids"], row["note"]
        cut += len(kept) < len(messages)
    assert cut > 8


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.sampled_from(["", "a", "\n", "你好 " * 5, "<|im_end|>", "word " * 9]), max_size=9),
    system=st.none() | st.just("Be kind."),
    room=st.integers(0, 200),
    style=st.sampled_from(["qwen1", "chatml", "qwen3"]),
)
def test_as_much_is_kept_as_there_is_room_for(
    tiny: ChatTokenizer, turns: list[str], system: str | None, room: int, style: str
) -> None:
    tok = ChatTokenizer(tiny, style)
    messages = talk(*turns[: len(turns) // 2 * 2], "question", system=system)
    kept, head = truncate_history(tok, messages, room=room), len(messages) % 2 == 0
    dropped = len(messages) - len(kept)
    assert kept == [*messages[:head], *messages[head + dropped :]] and dropped % 2 == 0
    least = [*messages[:head], messages[-1]]
    assert len(ids(tok, kept)) <= room or kept == least
    if dropped:
        longer = [*messages[:head], *messages[head + dropped - 2 :]]
        assert len(ids(tok, longer)) > room


def test_a_question_keeps_its_tool_results(tiny: ChatTokenizer) -> None:
    assert truncate_history(tiny, [*talk("a", "b", system="s"), *WEATHER], 1) == [*talk(system="s"), *WEATHER]


def test_a_turn_goes_with_its_tool_results(tiny: ChatTokenizer) -> None:
    talked: Messages = [*WEATHER, {"role": "assistant", "content": "晴。"}, *talk("谢谢", "不客气", "再见")]
    assert truncate_history(tiny, talked, room=len(ids(tiny, talked)) - 1) == talk("谢谢", "不客气", "再见")


def test_what_is_no_conversation_is_refused(tiny: ChatTokenizer) -> None:
    broken: list[Any] = [[], [{"role": "user"}], talk("a", "b")]
    for messages in broken:
        with pytest.raises(UserError):
            truncate_history(tiny, messages, 10)


def test_a_system_turn_by_its_other_name_is_kept(tiny: ChatTokenizer) -> None:
    messages = [{"role": "developer", "content": "s"}, *talk("one", "two", "three")]
    kept = truncate_history(tiny, messages, room=len(tiny.render(messages, add_generation_prompt=True).ids) - 1)
    assert [message["role"] for message in kept] == ["system", "user"]
