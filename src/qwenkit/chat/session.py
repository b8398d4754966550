"""A conversation in the terminal: streamed answers, history, `/clear` and `/quit`.

The engine is handed in; this file only keeps the history and prints. The oldest turns are forgotten when the
conversation no longer fits the model's context.
"""

from __future__ import annotations

import sys
from typing import Any

from ..errors import UserError

Messages = list[dict[str, str]]


def talk(engine: Any, tok: Any, params: Any, system: str | None, prompt: str | None) -> None:
    """Ask once (`prompt`), or read lines until the end of the input."""
    start: Messages = [{"role": "system", "content": system}] if system else []
    if prompt is not None:
        answer(engine, tok, params, [*start, {"role": "user", "content": prompt}])
        return
    history = list(start)
    print("/clear forgets, /quit leaves")
    while (line := read_line()) is not None:
        if line == "/quit":
            break
        if line == "/clear":
            history = list(start)
        elif line.strip():
            history = turn(engine, tok, params, [*history, {"role": "user", "content": line}])


def turn(engine: Any, tok: Any, params: Any, history: Messages) -> Messages:
    """The history with its answer; a question that cannot be asked is explained and forgotten."""
    try:
        return [*history, {"role": "assistant", "content": answer(engine, tok, params, history)}]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return history[:-1]


def read_line() -> str | None:
    """One line of the user's, or None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def answer(engine: Any, tok: Any, params: Any, history: Messages) -> str:
    """Stream one answer to the terminal and return it whole."""
    pieces = []
    for piece in engine.stream(fit(engine, tok, history), params):
        pieces.append(piece)
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return "".join(pieces)


def fit(engine: Any, tok: Any, history: Messages, reserve: int = 64) -> list[int]:
    """The prompt's ids, with the oldest turns dropped until `reserve` tokens are left for the answer."""
    room = engine.max_length - reserve
    head, turns = history[: history[0]["role"] == "system"], history[history[0]["role"] == "system" :]
    while True:
        ids = tok.render([*head, *turns], add_generation_prompt=True).ids
        if len(ids) <= room or len(turns) == 1:
            return list(ids)
        turns = turns[2:]
