"""A conversation as a file: JSON that `qwenkit chat` loads and models train on, and Markdown for people.

    as_json(tree, ["chat", "chat-rlhf"], system)         # one chat, or a list with one for each model
    as_markdown(tree, ["chat"], system)

Both hold the turns that are shown, not their other versions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwenkit.serving.page.tree import Answer, ConversationTree


def rows(tree: ConversationTree, models: Sequence[str], system: str = "") -> list[dict[str, Any]]:
    """Return a row for each model that has answered something: its name, and `messages` (docs/chats.md)."""
    chats = [{"model": model, "messages": _answered(tree, model, system)} for model in models]
    return [chat for chat in chats if chat["messages"]]


def _answered(tree: ConversationTree, model: str, system: str) -> list[dict[str, Any]]:
    """Return the messages of a model up to its last answer."""
    messages = tree.messages(model, system)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def as_json(tree: ConversationTree, models: Sequence[str], system: str = "") -> str:
    """Return a JSON document: one chat, or a list of them where several models have answered."""
    chats = rows(tree, models, system)
    return json.dumps(chats[0] if len(chats) == 1 else chats, ensure_ascii=False, indent=1) + "\n"


def as_markdown(tree: ConversationTree, models: Sequence[str], system: str = "") -> str:
    """Return the conversation for people: a heading for each who speaks."""
    parts = [f"## system\n\n{system}"] if system else []
    for turn in tree.turns:
        parts.append(f"## user\n\n{turn.content}")
        parts += [f"## {model}\n\n{_shown(turn.answers[model])}" for model in models if model in turn.answers]
    return "\n\n".join(parts) + "\n"


def _shown(answer: Answer) -> str:
    """Return an answer as Markdown: thoughts as a quotation, calls of tools as code."""
    thoughts = "\n".join(f"> {line}".rstrip() for line in answer.thoughts.strip().splitlines())
    calls = [f"`{call.name}`\n\n```json\n{call.arguments}\n```" for call in answer.calls]
    error = f"({answer.error})" if answer.error else ""
    return "\n\n".join(part for part in (thoughts, answer.text.strip(), *calls, error) if part)
