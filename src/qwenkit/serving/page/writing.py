"""Answers to the last turn of a page, from all models at once, as they come.

    async for _ in write(session, settings, app, key): ...     # whenever there is something new to show

Each model is asked by a request of its own (`asking.py`). Whoever stops iterating ends them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from qwenkit.serving.page.asked_settings import PageSettings
from qwenkit.serving.page.asking import App, Asked
from qwenkit.serving.page.sessions import Session
from qwenkit.serving.page.tree import Answer, ToolCall
from qwenkit.serving.refusals import Refused

REFRESH_SECONDS = 0.08
"""How often a page is told of more, at most."""


async def write(session: Session, settings: PageSettings, app: App, key: str | None) -> AsyncGenerator[None]:
    """Ask all models for their answers to the last turn that is shown; yield while they write, and once at the end."""
    session.busy, session.stopped = True, False
    turn = session.tree.turns[-1]
    bodies = {model: settings.body(model, session.tree.messages(model, settings.system)) for model in settings.models}
    turn.answers.update({model: Answer() for model in bodies})
    tasks = [asyncio.ensure_future(_write_one(session, turn.answers[model], Asked(app, body, key)))
             for model, body in bodies.items()]  # fmt: skip
    try:
        size, pending = turn.size, set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=REFRESH_SECONDS)
            if pending and turn.size != size:
                size = turn.size
                yield
    finally:
        if not all(task.done() for task in tasks):
            session.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        session.busy = False
    yield


async def _write_one(session: Session, answer: Answer, asked: Asked) -> None:
    """Write one answer; whatever happens, it has a state at the end."""
    session.running.add(asked)
    if session.stopped:
        asked.leave()
    try:
        async for chunk in asked.chunks():
            take(answer, chunk)
    except Refused as error:
        answer.state, answer.error, answer.code = "failed", error.refusal.message, error.refusal.code or ""
    except Exception:
        answer.state = "failed"
    finally:
        session.running.discard(asked)
        answer.figures = asked.figures
        if answer.state == "writing":
            answer.state = "stopped"


def take(answer: Answer, chunk: Mapping[str, Any]) -> None:
    """Add what a chunk of chat completions says."""
    for choice in chunk.get("choices", ()):
        delta: Mapping[str, Any] = choice["delta"]
        answer.text += delta.get("content") or ""
        answer.thoughts += delta.get("reasoning") or ""
        for call in delta.get("tool_calls", ()):
            _take_call(answer.calls, call)
        if (reason := choice.get("finish_reason")) is not None:
            answer.state = "length" if reason == "length" else "done"


def _take_call(calls: list[ToolCall], delta: Mapping[str, Any]) -> None:
    """Add a part of a call: its name comes first, then its arguments piece by piece."""
    function: Mapping[str, Any] = delta.get("function", {})
    if delta["index"] >= len(calls):
        calls.append(ToolCall(delta.get("id", ""), function.get("name", "")))
    calls[delta["index"]].arguments += function.get("arguments", "")
