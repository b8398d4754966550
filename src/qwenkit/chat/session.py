"""A conversation in the terminal: streamed answers, history, `/clear` and `/quit`.

The engine is passed in; this file only keeps the history and prints. The oldest turns are dropped, with a message, when
the conversation no longer fits the model's context or the folder's `max_window_size`. A line that is not text (a
character that was half deleted, a file in another encoding) is explained, and the next one is read.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from qwenkit.chat.messages import Message, TemplateKwargs
from qwenkit.chat.truncation import SupportsRender, truncate_history
from qwenkit.errors import UserError, visible

Messages = list[dict[str, str]]
Params = TypeVar("Params", contravariant=True)

ANSWER_ROOM = 64
"""Tokens of the model's context that the history of a chat leaves free for the answer."""


class ChatEngine(Protocol[Params]):
    """What a conversation needs of an engine; `qwenkit.inference.Engine` is one, with `Params` its sampling
    parameters."""

    @property
    def max_window(self) -> int | None:
        """Return the bound on a chat's history in tokens, or None."""
        ...

    @property
    def max_length(self) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        ...

    def stream_chat(
        self,
        messages: list[Message],
        params: Params,
        *,
        thinking: bool | None = None,
        template_kwargs: TemplateKwargs | None = None,
    ) -> Iterator[str]:
        """Yield the text of the answer in deltas."""
        ...


def talk(
    engine: ChatEngine[Params],
    tok: SupportsRender,
    params: Params,
    system: str | None,
    prompt: str | None,
    template_kwargs: TemplateKwargs | None = None,
    thinking: bool | None = None,
) -> None:
    """Ask once (`prompt`), or read lines until the end of the input. `template_kwargs` are for the folder's chat
    template, `thinking` says whether answers begin with thoughts (None: as the chat style does)."""
    ask = partial(answer, engine, tok, params, template_kwargs=template_kwargs, thinking=thinking)
    start: Messages = [{"role": "system", "content": system}] if system else []
    for remark in getattr(tok, "remarks", ()):
        print(f"note: {visible(remark)}", file=sys.stderr)
    if prompt is not None:
        ask([*start, {"role": "user", "content": prompt}])
        return
    history = list(start)
    print("/clear forgets, /quit leaves")
    _read_any_bytes()
    while (line := read_line()) is not None:
        if line == "/quit":
            break
        if line == "/clear":
            history = list(start)
        elif _broken(line):
            encoding = getattr(sys.stdin, "encoding", None) or "this terminal's encoding"
            print(f"error: this line is not text in {encoding}; it was not asked", file=sys.stderr)
        elif line.strip():
            history = turn(ask, [*history, {"role": "user", "content": line}])


def turn(ask: Callable[[Messages], str], history: Messages) -> Messages:
    """Return the history with its answer; a question that cannot be asked is explained and removed."""
    try:
        return [*history, {"role": "assistant", "content": ask(history)}]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return history[:-1]


def read_line() -> str | None:
    """Return one line of input, or None at its end or where it is closed."""
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed when the program began
        return None
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _read_any_bytes() -> None:
    """Read invalid bytes as lone surrogates, which `_broken` detects, instead of failing."""
    stdin: Any = sys.stdin
    if isinstance(stdin, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):
            stdin.reconfigure(errors="surrogateescape")


def _broken(line: str) -> bool:
    """Return whether a line contains invalid bytes."""
    return any("\ud800" <= sign <= "\udfff" for sign in line)


def answer(
    engine: ChatEngine[Params],
    tok: SupportsRender,
    params: Params,
    history: Messages,
    template_kwargs: TemplateKwargs | None = None,
    thinking: bool | None = None,
) -> str:
    """Print the answer while it is generated, and return it. `ANSWER_ROOM` tokens of the context are left for it."""
    room = engine.max_length - ANSWER_ROOM
    more: dict[str, Any] = {"template_kwargs": template_kwargs} if template_kwargs else {}
    more |= {} if thinking is None else {"thinking": thinking}
    kept = truncate_history(tok, history, engine.max_window, room, **more)
    stream = engine.stream_chat(kept, params, **more)
    if len(kept) < len(history):
        print(f"(the model no longer sees the oldest {len(history) - len(kept)} messages)", file=sys.stderr)
    pieces: list[str] = []
    for piece in stream:
        pieces.append(piece)
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
    print()
    return "".join(pieces)
