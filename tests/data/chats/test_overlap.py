"""Decontamination of chats: no message may share a 13-gram with a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenkit.data.chats.overlap import overlapping_messages, without_overlap
from qwenkit.records import write_jsonl

ANSWER = "the seventh keeper of the northern light wrote down every ship that passed before dawn"


def chat(text: str | list[Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


def test_chats_that_hold_an_answer_of_a_test_are_dropped(tmp_path: Path) -> None:
    """Whichever field holds it: a test's answer, its choices, or a side of a comparison."""
    chats = [chat(f"Well, {ANSWER}."), chat("another answer")]
    for number, test in enumerate((
        {"answer": ANSWER}, {"reference": ANSWER}, {"choices": ["no", ANSWER]}, {"chosen": ANSWER},
        {"rejected": ANSWER}, {"prompt": ANSWER}, {"messages": chats[0]["messages"]},
    )):  # fmt: skip
        write_jsonl(tmp_path / f"{number}.jsonl", [test])
        assert without_overlap(chats, tmp_path / f"{number}.jsonl") == chats[1:]
        assert overlapping_messages(chats * 2, tmp_path / f"{number}.jsonl")[::2] in ([1, 1], [2, 2])
    assert without_overlap(chats, None) == chats


def test_content_in_parts_and_calls_without_content_are_compared_too(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    chats = [chat([{"type": "text", "text": f"Well, {ANSWER}."}]), {"messages": [user, call]}]
    write_jsonl(tmp_path / "tests.jsonl", [chats[0]])
    assert without_overlap(chats, tmp_path / "tests.jsonl") == chats[1:]
