"""A conversation as a file, which `qwenkit chat` reads again."""

from __future__ import annotations

from pathlib import Path

from qwenkit.chat.session import Session
from qwenkit.serving.page.transcript import as_json, as_markdown
from qwenkit.serving.page.tree import Answer, ConversationTree, ToolCall


def make() -> ConversationTree:
    tree = ConversationTree()
    tree.ask("2 + 2?").answers = {"a": Answer("4", thoughts="easy\nreally"), "b": Answer("<b>5</b>")}
    tree.ask("Sure?").answers = {"a": Answer("Yes."), "b": Answer(state="failed", error="too many requests wait")}
    return tree


def test_qwenkit_chat_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(as_json(make(), ["a"], "Be kind."), "utf-8")
    session = Session(("a",))
    assert session.load(path) == 5 and session.system == "Be kind."
    assert session.messages(0)[1:3] == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\neasy\nreally\n</think>\n\n4"},
    ]
    path.write_text(as_json(make(), ["a", "b"]), "utf-8")
    both = Session(("a", "b"))
    assert both.load(path) == 6
    assert both.messages(1) == [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "<b>5</b>"}]


def test_an_empty_chat_is_an_empty_list() -> None:
    tree = ConversationTree()
    assert as_json(tree, ["a"]) == "[]\n"
    tree.ask("2 + 2?")
    assert as_json(tree, ["a"]) == "[]\n"


def test_markdown() -> None:
    tree = make()
    tree.turns[1].answers["a"].calls.append(ToolCall("1", "add", '{"x": 1}'))
    assert as_markdown(tree, ["a", "b"], "Be kind.") == (
        "## system\n\nBe kind.\n\n## user\n\n2 + 2?\n\n## a\n\n> easy\n> really\n\n4\n\n## b\n\n<b>5</b>\n\n"
        "## user\n\nSure?\n\n## a\n\nYes.\n\n`add`\n\n```json\n{\"x\": 1}\n```\n\n## b\n\n(too many requests wait)\n"
    )  # fmt: skip
