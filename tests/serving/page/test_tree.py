"""The conversation with its branches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.errors import UserError
from qwenkit.serving.page import tree as module
from qwenkit.serving.page.tree import Answer, ConversationTree, TextFile, ToolCall


def questions(tree: ConversationTree) -> list[str]:
    return [turn.question for turn in tree.turns]


def test_edited_and_regenerated_turns_keep_their_siblings_and_what_follows_them() -> None:
    tree = ConversationTree()
    tree.ask("a").answers["m"] = Answer("1")
    tree.ask("b").answers["m"] = Answer("2")
    tree.edit(0, "c")
    assert questions(tree) == ["c"] and tree.versions(0) == (2, 2)
    tree.ask("d")
    tree.regenerate(1)
    assert questions(tree) == ["c", "d"] and tree.versions(1) == (2, 2)
    tree.step(0, -1)
    assert questions(tree) == ["a", "b"] and [turn.answers["m"].text for turn in tree.turns] == ["1", "2"]
    tree.step(0, 1)
    assert questions(tree) == ["c", "d"] and tree.versions(1) == (2, 2)
    tree.step(0, 5)
    tree.step(1, -5)
    assert tree.versions(0) == (2, 2) and tree.versions(1) == (1, 2)


def test_what_a_model_has_read() -> None:
    tree = ConversationTree()
    turn = tree.ask("read", [TextFile("a.txt", "one\n```\ntwo")])
    turn.answers = {"m": Answer("x", thoughts="hm"), "n": Answer(state="failed", error="no")}
    tree.ask("more").answers["n"] = Answer()
    first = "read\n\na.txt:\n````\none\n```\ntwo\n````"
    assert tree.messages("m", "Be kind.") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": first},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        {"role": "user", "content": "more"},
    ]
    assert tree.messages("n") == [{"role": "user", "content": "more"}]  # it has left the first turn without a word
    tree.edit(0, "again")
    assert tree.turns[0].files == turn.files


def test_a_message_after_calls_is_their_result() -> None:
    tree = ConversationTree()
    tree.ask("Weather?").answers["m"] = Answer(calls=[ToolCall("1", "weather", '{"city": "Oslo"}')])
    tree.ask("rain")
    assert tree.messages("m")[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]  # fmt: skip


def test_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ConversationTree()
    for ask in (
        lambda: tree.ask(" \n"),
        lambda: tree.regenerate(0),
        lambda: tree.edit(3, "x"),
        lambda: tree.step(-1, 1),
    ):
        with pytest.raises(UserError):
            ask()
    assert tree.turns == []
    with pytest.raises(UserError) as caught:
        tree.step(0, 1)
    assert caught.value.text() == "turn 1: there is no such turn\n  expected: 1 to 0"
    monkeypatch.setattr(module, "MOST_CHARACTERS", 10)
    tree.ask("123456")
    with pytest.raises(UserError, match="this conversation is too long to go on"):
        tree.edit(0, "12345")
    monkeypatch.setattr(module, "MOST_TURNS", 2)
    tree.ask("1")
    with pytest.raises(UserError, match="too long to go on"):
        tree.ask("2")


@given(st.lists(st.tuples(st.sampled_from(["ask", "edit", "regenerate", "step", "back"]), st.integers(0, 5))))
def test_nothing_is_ever_lost(moves: list[tuple[str, int]]) -> None:
    """Every version stays in the tree, and each is reached by going from version to version."""
    tree = ConversationTree()
    asked: list[object] = []
    for name, number in moves:
        try:
            match name:
                case "ask":
                    asked.append(tree.ask(f"q{len(asked)}"))
                case "edit":
                    asked.append(tree.edit(number, f"q{len(asked)}"))
                case "regenerate":
                    asked.append(tree.regenerate(number))
                case _:
                    tree.step(number, 1 if name == "step" else -1)
        except UserError:
            assert number >= len(tree.turns)
    assert set(map(id, tree.all_turns)) == set(map(id, asked))
    for number in range(len(tree.turns)):
        shown, count = tree.versions(number)
        assert 1 <= shown <= count
