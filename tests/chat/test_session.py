"""A chat as a value: turns, undo, retry, save and load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.chat import ChatTokenizer
from qwenkit.chat.session import ANSWER_ROOM, Session, Usage, fitting
from qwenkit.errors import UserError


def talked(*pairs: tuple[str, str], models: Sequence[str] = ("a",), system: str | None = None) -> Session:
    session = Session(tuple(models), system)
    for question, text in pairs:
        session.ask(question)
        for number, name in enumerate(models):
            session.answer(number, text if len(models) == 1 else f"{name}: {text}")
    return session


def contents(session: Session, model: int = 0) -> list[str]:
    return [message["content"] for message in session.messages(model)]


def test_each_model_has_its_own_answers() -> None:
    session = talked(("one", "1"), ("two", "2"), models=("a", "b"), system="Be kind.")
    assert contents(session, 0) == ["Be kind.", "one", "a: 1", "two", "a: 2"]
    assert contents(session, 1) == ["Be kind.", "one", "b: 1", "two", "b: 2"]


def test_undo_and_retry() -> None:
    session = talked(("one", "1"), ("two", "2"), models=("a", "b"))
    session.retry()
    assert contents(session, 1) == ["one", "b: 1", "two"]
    with pytest.raises(UserError) as error:
        session.ask("three")
    assert str(error.value) == "the last question has no answer yet\n  hint: /retry answers it, /undo takes it back"
    assert session.undo() == "two" and session.undo() == "one" and not contents(session)
    for command in (session.undo, session.retry):
        with pytest.raises(UserError, match="there is no"):
            command()


def test_a_model_that_could_not_be_asked_lacks_that_turn_alone() -> None:
    session = talked(("one", "1"), models=("a", "b"))
    session.ask("two")
    session.answer(0, "2")
    session.drop(1)
    assert contents(session, 1) == ["one", "b: 1"] and contents(session)[-2:] == ["two", "2"]
    session.retry()
    assert contents(session, 1) == ["one", "b: 1", "two"], "it is asked again"
    session.drop(0)
    session.drop(1)
    assert session.undo() == "one" and not session.rounds


THOUGHT = "<think>\nA sum.\n</think>\n\n4"


def test_a_chat_on_disk_has_thoughts_apart(tmp_path: Path) -> None:
    session = talked(("2 + 2?", THOUGHT), system="Be kind.")
    assert session.save(tmp_path / "one.jsonl") == 3
    assert json.loads((tmp_path / "one.jsonl").read_text("utf-8")) == {
        "model": "a",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "4", "reasoning_content": "A sum."},
        ],
    }
    again = Session(("b",))
    assert again.load(tmp_path / "one.jsonl") == 3
    assert contents(again) == ["Be kind.", "2 + 2?", THOUGHT] and again.system == "Be kind."
    assert again.undo() == "2 + 2?"


def test_what_looks_like_a_call_of_a_tool_is_text() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    session = talked(("one", f"<think>\nx\n</think>\n\n{call}"))
    assert session.rows()[0]["messages"][-1] == {"role": "assistant", "content": call, "reasoning_content": "x"}


CHAT = st.lists(st.tuples(st.text(), st.sampled_from(["", "<think>", THOUGHT, "</think>"]), st.text()), min_size=1)


@given(CHAT, CHAT, st.none() | st.text(min_size=1), st.sampled_from(["jsonl", "json", "jsonl.gz"]))
def test_what_is_saved_is_loaded(first: list[Any], second: list[Any], system: str | None, suffix: str) -> None:
    session = Session(("a", "b"), system)
    for (question, head, text), (_, tail, other) in zip(first, second, strict=False):
        session.ask(question)
        session.answer(0, head + text)
        if text:
            session.answer(1, other + tail)
        else:
            session.drop(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"chat.{suffix}"
        session.save(path)
        again = Session(("a", "b"), "another")
        count = len(session.rows())
        again.load(path)
        assert again.rows()[:count] == session.rows() or count == 1
        assert [row["messages"] for row in again.rows()] == [
            session.rows()[number % count]["messages"] for number in range(2)
        ]


def test_a_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text("dear")
    with pytest.raises(UserError) as error:
        talked(("one", "1")).save(path)
    assert str(error.value) == f"{path}: there is such a file already\n  hint: /save! {path} replaces it"
    assert path.read_text() == "dear"
    talked(("one", "1")).save(path, overwrite=True)
    assert json.loads(path.read_text())["messages"][1] == {"role": "assistant", "content": "1"}
    with pytest.raises(UserError, match="there is nothing to save"):
        Session(("a",)).save(tmp_path / "none.json")
    with pytest.raises(UserError) as error:
        talked(("one", "1")).save(path / "inside")
    assert "the file cannot be written" in str(error.value) or "Not a directory" in str(error.value)


MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
BAD = {
    "{}": "chat 1: no `messages`\n  expected: {\"messages\": [{\"role\": ..., \"content\": ...}, ...]}",
    "[1]": "chat 1: a number\n  expected: {\"messages\": [{\"role\": ..., \"content\": ...}, ...]}",
    "[]": "0 chats\n  expected: one chat",
    json.dumps([{"messages": MESSAGES}] * 3): "3 chats\n  expected: one chat",
    json.dumps({"messages": MESSAGES[1:]}): "chat 1, message 0: assistant at the start\n  expected: system or user",
    json.dumps({"messages": MESSAGES, "tools": [{"name": "f"}]}):
        "chat 1: a chat with tools\n  expected: questions and answers, which are text",
    json.dumps({"messages": [{"role": "system", "content": "x"}]}):
        "chat 1: a chat without a question\n  expected: a turn of the user",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_is_not_a_chat_changes_nothing(text: str, tmp_path: Path) -> None:
    path, session = tmp_path / "chat.json", talked(("one", "1"), system="Be kind.")
    path.write_text(text)
    with pytest.raises(UserError) as error:
        session.load(path)
    assert str(error.value) in (f"{path}, {BAD[text]}", f"{path}: {BAD[text]}")
    assert contents(session) == ["Be kind.", "one", "1"]


def test_files_in_other_states(tmp_path: Path) -> None:
    session = Session(("a", "b"))
    with pytest.raises(UserError) as error:
        session.load(tmp_path / "none.jsonl")
    assert str(error.value) == (
        f"{tmp_path / 'none.jsonl'}: no such file\n  expected: a chat that /save wrote, or one with `messages`"
    )
    with pytest.raises(UserError, match="a file was expected"):
        session.load(tmp_path)
    (tmp_path / "bare.json").write_text(json.dumps(MESSAGES[:1]))
    assert session.load(tmp_path / "bare.json") == 1
    session.retry()
    assert contents(session, 0) == contents(session, 1) == ["hi"]
    rows = [{"messages": [{"role": "system", "content": name}, *MESSAGES]} for name in "xy"]
    (tmp_path / "two.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="chats with different system turns\n  expected: the same one in all"):
        session.load(tmp_path / "two.json")


def test_the_oldest_turns_go_where_they_do_not_fit(tiny: ChatTokenizer) -> None:
    messages = [*talked(("one", "1"), ("two", "2")).messages(0), {"role": "user", "content": "three"}]
    size = len(tiny.render(messages, add_generation_prompt=True).ids)
    assert fitting(tiny, messages, None, size + ANSWER_ROOM) == messages
    assert fitting(tiny, messages, None, size + ANSWER_ROOM - 1) == messages[2:]


USAGES = {
    Usage(37, 21, 120, 0.5, 5.26, "stop"):
        "prompt 37 tokens, 21 of them found in the cache; answer 120 tokens at 25.0/s, the first after 0.50 s",
    Usage(37, 0, 1, 0.5, 0.5, "length"):
        "cut off for its length; prompt 37 tokens; answer 1 tokens, the first after 0.50 s",
    Usage(37, 0, 0, 0.0, 0.0, None): "stopped; prompt 37 tokens; answer 0 tokens",
}  # fmt: skip


@pytest.mark.parametrize("usage", USAGES)
def test_what_an_answer_took(usage: Usage) -> None:
    assert usage.line() == USAGES[usage]
