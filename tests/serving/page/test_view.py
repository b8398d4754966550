"""What is shown of a conversation: steps, notes, lines, and which turn each message belongs to."""

from __future__ import annotations

from qwenkit.serving.page.model_line import Size, model_line, rounded
from qwenkit.serving.page.tree import Answer, ConversationTree, TextFile, ToolCall
from qwenkit.serving.page.view import chat_rows, figures_line, focus_of, version_line


def test_thoughts_and_calls_are_steps_that_fold_when_they_are_complete() -> None:
    tree = ConversationTree()
    answer = tree.ask("Weather?", [TextFile("a<b.txt", "xy")]).answers["m"] = Answer(thoughts="hm")
    rows = chat_rows(tree, "m", "en")
    assert [(row.turn, row.is_question) for row in rows] == [(0, True), (0, False), (0, False)]
    assert rows[1].message["content"] == r"*file a\<b.txt, 2 characters*"
    assert rows[2].message == {
        "role": "assistant", "content": "hm", "metadata": {"title": "Thoughts", "status": "pending"},
    }  # fmt: skip
    answer.calls.append(ToolCall("1", "<b>weather", '{"city":"Oslo"}'))
    answer.state = "done"
    thoughts, call = (row.message for row in chat_rows(tree, "m", "zh")[2:])
    assert thoughts["metadata"] == {"title": "思考过程", "status": "done"}
    assert call["metadata"] == {"title": r"调用 \<b>weather", "status": "done"}
    assert call["content"] == '```json\n{\n  "city": "Oslo"\n}\n```'
    tree.ask("rain").answers["m"] = Answer()
    result, waiting = (row.message for row in chat_rows(tree, "m", "en")[4:])
    assert result["metadata"]["title"] == r"Result of \<b>weather" and waiting["content"] == "…"


def test_how_an_answer_ended() -> None:
    tree = ConversationTree()
    answers = tree.ask("x").answers
    for answer, expected in (
        (Answer("a", state="done"), ["a"]),
        (Answer("a", state="stopped"), ["a", "*stopped*"]),
        (Answer("a", state="length"), ["a", "*cut off at the limit of tokens*"]),
        (Answer(state="failed"), ["*⚠ The answer has failed; the server's log says why.*"]),
        (Answer(state="done"), ["*The model has answered with nothing.*"]),
    ):
        answers["m"] = answer
        assert [row.message["content"] for row in chat_rows(tree, "m", "en")[1:]] == expected
    assert len(chat_rows(tree, "other", "en")) == 1


def test_a_refusal_is_named_in_the_language_of_the_page_and_its_details_are_folded() -> None:
    tree = ConversationTree()
    tree.ask("x").answers["m"] = Answer("a", state="failed", error="too many <b>", code="queue_full")
    for language, title in (("en", "Too many requests wait; try again later"), ("zh", "排队的请求过多，请稍后再试")):
        text, refusal = (row.message for row in chat_rows(tree, "m", language)[1:])
        assert text["content"] == "a" and refusal["content"] == r"too many \<b>"
        assert refusal["metadata"] == {"title": f"⚠ {title}", "status": "done"}
    tree.turns[0].answers["m"].code = "new_code"
    assert chat_rows(tree, "m", "zh")[2].message["metadata"]["title"] == "⚠ 服务器拒绝了请求"


def test_versions_and_figures() -> None:
    tree = ConversationTree()
    tree.ask("a")
    assert focus_of(tree, None) is None and version_line(tree, None, "en") == ""
    tree.edit(0, "b")
    tree.ask("c")
    assert (focus_of(tree, None), focus_of(tree, 1), focus_of(tree, 7)) == (0, 0, 0)
    assert version_line(tree, 0, "en") == "question 1: version 2 of 2"
    figures = {"prompt_tokens": 9, "answer_tokens": 11, "first_s": 0.5, "last_s": 2.5}
    tree.turns[1].answers = {"m": Answer("x", figures=figures), "n": Answer()}
    assert figures_line(tree, ["m", "n"], "en") == "m: 11 tokens at 5.0/s, the first after 0.50 s; the prompt had 9"
    assert figures_line(ConversationTree(), ["m"], "en") == ""


def test_a_toy_is_called_one() -> None:
    assert model_line("m", Size(999_424, "float32"), "en") == (
        "m · 999 k parameters · float32 · a toy: too small to know things. Do not believe what it says."
    )
    assert model_line("m", Size(134_515_008, "bfloat16"), "en") == "m · 135 M parameters · bfloat16"
    assert "玩具" in model_line("m", Size(49_999_999, "int8"), "zh")
    assert model_line("m", None, "en") == "m · loaded when it is first asked"
    assert [rounded(count) for count in (5, 999_600, 1_540_000_000)] == ["5", "1 M", "1.54 B"]
