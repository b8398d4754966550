"""An engine for chats that needs no model, and a chat with it: `python -m tests.cli.echo` talks in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from qwenkit.chat import ChatTokenizer
from qwenkit.chat.session import Session
from qwenkit.cli.chat_loop import Chat, Player, Screen
from qwenkit.errors import UserError
from qwenkit.inference import Delta
from qwenkit.tokenizer import train_bpe
from tests.chat.conftest import TEXTS


class Echo:
    """Says the last question back, a piece a step; refuses prompts that are too long, as the engine does."""

    max_length: int = 200
    max_window: int | None = None

    def __init__(self, tok: Any, pause: float = 0.0) -> None:
        self.tok, self.pause = tok, pause
        self.prompts: list[str] = []
        self.requests: list[Any] = []
        self.aborted: list[int] = []
        self._deltas: Iterator[Delta] = iter(())

    def pieces(self, asked: str) -> Sequence[str]:
        """The pieces of an answer."""
        return ["you said ", asked]

    def prepare(self, conversation: Any, params: Any, rng_id: int, label: str) -> Any:
        """Render the conversation."""
        options = {"thinking": conversation.thinking, "template_kwargs": conversation.template_kwargs}
        options = {name: value for name, value in options.items() if value is not None}
        prompt = self.tok.render(conversation.messages, add_generation_prompt=True, **options).prompt
        if len(prompt.ids) >= self.max_length:
            raise UserError(f"{len(prompt.ids)} tokens", where="prompt")
        return SimpleNamespace(prompt=prompt, params=params, rng_id=rng_id, conversation=conversation)

    def enqueue(self, request: Any) -> int:
        """Make the deltas of the answer."""
        self.requests.append(request)
        self.prompts.append(self.tok.decode(request.prompt.ids))
        asked = request.conversation.messages[-1]["content"]
        pieces = [*self.pieces(asked), None]
        self._deltas = (
            Delta(0, 0, [] if piece is None else [1], piece, None, "stop" if piece is None else None)
            for piece in pieces
        )
        return len(self.requests)

    def step(self) -> list[Delta]:
        """The next delta."""
        time.sleep(self.pause)
        return [next(self._deltas)]

    def abort(self, handle: int) -> None:
        """Forget the request."""
        self.aborted.append(handle)
        self._deltas = iter(())

    def stats(self) -> Any:
        """Of each prompt five tokens are found."""
        return SimpleNamespace(prompt_tokens_found=5 * len(self.requests))


class Slow(Echo):
    """Counts for minutes when it is asked to count, in Markdown."""

    def pieces(self, asked: str) -> Sequence[str]:
        return [f"n{i} " for i in range(100_000)] if asked == "count" else ["**you** said 中文字 ", asked]


def tiny() -> ChatTokenizer:
    """A tokenizer of 350 tokens."""
    return ChatTokenizer(train_bpe(TEXTS, vocab_size=350))


def chat_with(*engines: Echo, system: str | None = None, interactive: bool = False, **settings: Any) -> Chat:
    """A chat with engines, which are called a, b, ..."""
    players = [Player(name, engine.tok, lambda engine=engine: engine) for name, engine in zip("abc", engines)]
    names = tuple(player.name for player in players)
    return Chat(Session(names, system, settings), players, Screen(interactive), interactive)


def main() -> None:
    """Talk in the terminal."""
    import sys

    from qwenkit.cli.chat_loop import start

    engine = Slow(tiny(), pause=0.01)
    engine.max_length = 4000
    chat = chat_with(engine, interactive=True)
    start(chat, None)
    print(f"left with {len(chat.session.messages(0))} messages and {chat.exit_code}")
    sys.exit(chat.exit_code)


if __name__ == "__main__":
    main()
