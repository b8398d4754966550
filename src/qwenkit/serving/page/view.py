"""What the page shows of a conversation: its messages in the form of gradio's chatbot, and lines of figures.

    rows = chat_rows(session.tree, "chat", "en")
    [row.message for row in rows]                # roles and contents, in which every tag is text
    rows[3].turn                                 # which turn a message belongs to

Thoughts, calls of tools and their results are steps, which gradio folds once they are complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qwenkit.serving.page.plain_markdown import shown
from qwenkit.serving.page.texts import Language, refusal_text, text
from qwenkit.serving.page.tree import Answer, ConversationTree, ToolCall, Turn


class Row(NamedTuple):
    """One message of the chatbot."""

    turn: int
    message: dict[str, Any]
    is_question: bool = False
    """It is what was asked, and may be edited."""


def chat_rows(tree: ConversationTree, model: str, language: Language) -> list[Row]:
    """Return the messages of one model's conversation."""
    rows: list[Row] = []
    calls: list[ToolCall] = []
    for number, turn in enumerate(tree.turns):
        rows += _question(number, turn, calls, language)
        answer = turn.answers.get(model)
        rows += [Row(number, message) for message in _answer(answer, language)] if answer is not None else []
        calls = answer.calls if answer is not None else []
    return rows


def _question(number: int, turn: Turn, calls: Sequence[ToolCall], language: Language) -> Iterator[Row]:
    """Yield what was asked: a step where it is the result of tools."""
    message: dict[str, Any] = {"role": "user", "content": shown(turn.question) or " "}
    if calls:
        names = ", ".join(call.name for call in calls)
        message["metadata"] = {"title": shown(text("result", language, name=names)), "status": "done"}
    yield Row(number, message, is_question=True)
    for file in turn.files:
        label = text("file", language, name=file.name, size=len(file.text))
        yield Row(number, {"role": "user", "content": f"*{shown(label)}*"})


def _answer(answer: Answer, language: Language) -> Iterator[dict[str, Any]]:
    """Yield thoughts, text, calls of tools, and how it ended; the details of a refusal are folded."""
    is_writing = answer.state == "writing"
    if answer.thoughts:
        thinks = is_writing and not answer.text and not answer.calls
        yield _step(shown(answer.thoughts), text("thoughts", language), thinks)
    if answer.text:
        yield {"role": "assistant", "content": shown(answer.text)}
    for call in answer.calls:
        title = text("calls", language, name=call.name)
        yield _step(f"```json\n{_indented(call.arguments)}\n```", shown(title), is_writing)
    if answer.error:
        yield _step(shown(answer.error), f"⚠ {refusal_text(answer.code, language)}", is_open=False)
    elif note := _note(answer, language):
        yield {"role": "assistant", "content": f"*{shown(note)}*"}
    elif is_writing and answer.is_empty:
        yield {"role": "assistant", "content": "…"}


def _step(content: str, title: str, is_open: bool) -> dict[str, Any]:
    """Return a message that is folded once it is complete."""
    metadata = {"title": title, "status": "pending" if is_open else "done"}
    return {"role": "assistant", "content": content, "metadata": metadata}


def _indented(arguments: str) -> str:
    """Return the arguments of a call as people read them; what is not JSON (yet) stays as it is, on one line."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return arguments.replace("```", "` ` `")


def _note(answer: Answer, language: Language) -> str:
    """Return how an answer ended that did not end well."""
    if answer.state == "failed":
        return f"⚠ {text('failed', language)}"
    if answer.state in ("stopped", "length"):
        return text(answer.state, language)
    return text("no_answer", language) if answer.state == "done" and answer.is_empty else ""


def version_line(tree: ConversationTree, focus: int | None, language: Language) -> str:
    """Return which version of which turn is shown, "" where no turn has two."""
    if focus is None:
        return ""
    number, count = tree.versions(focus)
    return text("version", language, turn=focus + 1, number=number, count=count)


def focus_of(tree: ConversationTree, wanted: int | None) -> int | None:
    """Return the turn whose versions can be changed: the wanted one, or the last one that has two."""
    several = [number for number in range(len(tree.turns)) if tree.versions(number)[1] > 1]
    return wanted if wanted in several else several[-1] if several else None


def figures_line(tree: ConversationTree, models: Sequence[str], language: Language) -> str:
    """Return tokens and speed of the last answers."""
    turns = tree.turns
    answers = {model: turns[-1].answers[model] for model in models if turns and model in turns[-1].answers}
    return " · ".join(
        _figures(model, answer, language) for model, answer in answers.items() if "last_s" in answer.figures
    )


def _figures(model: str, answer: Answer, language: Language) -> str:
    figures = answer.figures
    first, tokens = figures["first_s"], int(figures["answer_tokens"])
    seconds = figures["last_s"] - first
    speed = f"{(tokens - 1) / seconds:.1f}" if tokens > 1 and seconds > 0 else "–"
    return text("figures", language, model=model, answer=tokens, speed=speed, first=f"{first:.2f}",
                prompt=int(figures["prompt_tokens"]))  # fmt: skip
