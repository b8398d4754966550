"""A chat with one model or several, as a value: turns, system turn, settings; undo, retry, save, load.

    session = Session(("chat", "chat-rlhf"), system="Be kind.")
    session.ask("2 + 2?")
    session.messages(0)            # what the first model is to answer
    session.answer(0, "4")

Here is neither an engine nor a terminal: `commands.py` changes a session by what people type, and the command line asks
models and shows answers. Each model has its own answers; questions, system turn and settings are common to all.

`save` writes the form `messages` of docs/chats.md, with thoughts as `reasoning_content`, so that a chat can be trained
on; `load` reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from qwenkit.chat.messages import THOUGHTS, Message, TemplateKwargs, check
from qwenkit.chat.parse import parse_text
from qwenkit.chat.thoughts import CLOSE, OPEN
from qwenkit.chat.truncation import SupportsRender, cut_turns, truncate_history
from qwenkit.errors import UserError, within
from qwenkit.files import MEGABYTE
from qwenkit.records import Row, json_kind, read_json, read_jsonl, write_json, write_jsonl

Turn = list[Message]
"""A question and the answer to it; empty for a model that could not be asked."""

ANSWER_ROOM = 64
"""Tokens of the model's context that the history of a chat leaves free for the answer."""
LARGEST_FILE = 64 * MEGABYTE


class Usage(NamedTuple):
    """What one answer took."""

    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt that were found in the cache and not read again."""
    answer_tokens: int
    first_s: float
    """Seconds from the question to the first token."""
    total_s: float
    """Seconds from the question to the last token."""
    finish_reason: str | None
    """None where the user stopped it."""

    def line(self) -> str:
        """Return it for people: tokens, speed of the tokens after the first one, time to the first one."""
        ends = {None: "stopped; ", "length": "cut off for its length; "}
        cached = f", {self.cached_tokens} of them found in the cache" if self.cached_tokens else ""
        return f"{ends.get(self.finish_reason, '')}prompt {self.prompt_tokens} tokens{cached}; {self._speed()}"

    def _speed(self) -> str:
        answer = f"answer {self.answer_tokens} tokens"
        if not self.answer_tokens:
            return answer
        seconds = self.total_s - self.first_s
        speed = f" at {(self.answer_tokens - 1) / seconds:.1f}/s" if self.answer_tokens > 1 and seconds > 0 else ""
        return f"{answer}{speed}, the first after {self.first_s:.2f} s"


@dataclass
class Session:
    """A chat. `rounds[i][m]` are the messages of turn i with model m, whose name is `models[m]`."""

    models: tuple[str, ...]
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Sampling parameters by name; what is not here is as each model's folder says."""
    thinking: bool | None = None
    """Whether answers begin with thoughts; None: as the chat style does."""
    rounds: list[list[Turn]] = field(default_factory=list[list[Turn]])
    attempts: int = 0
    """How many questions were asked, and asked again: the random draws of each are others."""

    def messages(self, model: int) -> list[Message]:
        """Return the conversation with one model."""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *(message for turns in self.rounds for message in turns[model])]

    def ask(self, question: str) -> None:
        """Add a question to all models. Raises a `UserError` where the last one was not answered."""
        if self.rounds and any(turn and turn[-1]["role"] != "assistant" for turn in self.rounds[-1]):
            raise UserError("the last question has no answer yet", hint="/retry answers it, /undo takes it back")
        self.rounds.append([[{"role": "user", "content": question}] for _ in self.models])

    def answer(self, model: int, text: str) -> None:
        """Add a model's answer to the last question, as it was written: thoughts are inside."""
        self.rounds[-1][model].append({"role": "assistant", "content": text})

    def drop(self, model: int) -> None:
        """Take the last question back from a model that could not be asked, or has answered nothing."""
        self.rounds[-1][model] = []
        if not any(self.rounds[-1]):
            self.rounds.pop()

    def clear(self) -> None:
        """Forget all turns; system turn and settings stay."""
        self.rounds.clear()

    def undo(self) -> str:
        """Take the last question and its answers back; return the question. Raises a `UserError` without any."""
        if not self.rounds:
            raise UserError("there is nothing to undo")
        return _text(next(filter(None, self.rounds.pop()))[0])

    def retry(self) -> None:
        """Take the answers to the last question back, so that all models are to answer it again.

        Raises a `UserError` without any."""
        if not self.rounds:
            raise UserError("there is no question to answer again")
        question = next(filter(None, self.rounds[-1]))[0]
        self.rounds[-1] = [[question] for _ in self.models]

    def rows(self) -> list[Row]:
        """Return a row for each model that was asked something: its name, and `messages`."""
        return [
            {"model": name, "messages": [_for_file(message) for message in self.messages(number)]}
            for number, name in enumerate(self.models)
            if any(turns[number] for turns in self.rounds)
        ]

    def save(self, path: Path, overwrite: bool = False) -> int:
        """Write a JSON document where the name ends in `.json`, else JSON lines; return the number of messages.

        Raises a `UserError` for an empty chat, and unless `overwrite` for a file that exists."""
        rows = self.rows()
        if not rows:
            raise UserError("there is nothing to save")
        if path.exists() and not overwrite:
            raise UserError("there is such a file already", where=str(path), hint=f"/save! {path} replaces it")
        try:
            if path.suffix == ".json":
                write_json(path, rows[0] if len(rows) == 1 else rows)
            else:
                write_jsonl(path, rows)
        except OSError as error:
            raise UserError(f"the file cannot be written ({error.strerror})", where=str(path)) from error
        return sum(len(row["messages"]) for row in rows)

    def load(self, path: Path) -> int:
        """Replace the turns and the system turn by those of a file: one chat for all models, or one for each. Return
        the number of messages. Nothing changes where a `UserError` is raised."""
        chats = [_messages(row, f"{path}, chat {number}") for number, row in enumerate(_read_rows(path), 1)]
        if len(chats) not in (1, len(self.models)):
            several = len(self.models) > 1
            raise UserError(f"{len(chats)} chats", where=str(path), expected="one, or one for each model" if several
                            else "one chat")  # fmt: skip
        self._replace_turns([chats[number % len(chats)] for number in range(len(self.models))], str(path))
        return sum(map(len, chats))

    def _replace_turns(self, chats: Sequence[Sequence[Message]], where: str) -> None:
        """Take over one conversation for each model; their last turns are one round."""
        cuts = [cut_turns(chat) for chat in chats]
        systems = {_text(head[0]) if head else None for head, _ in cuts}
        if len(systems) > 1:
            raise UserError("chats with different system turns", where=where, expected="the same one in all")
        (self.system,) = systems
        longest = max(len(turns) for _, turns in cuts)
        padded: list[list[Turn]] = [[[] for _ in range(longest - len(turns))] + turns for _, turns in cuts]
        self.rounds = [[turns[number] for turns in padded] for number in range(longest)]


def fitting(
    tok: SupportsRender,
    messages: Sequence[Message],
    max_window: int | None,
    max_length: int,
    thinking: bool | None = None,
    template_kwargs: TemplateKwargs | None = None,
) -> list[Message]:
    """Return a conversation without the oldest turns that do not fit: `max_window` is the folder's bound in tokens, and
    of `max_length`, which prompt and answer have together, `ANSWER_ROOM` are left for the answer."""
    more: dict[str, Any] = {"template_kwargs": template_kwargs} if template_kwargs else {}
    more |= {} if thinking is None else {"thinking": thinking}
    return truncate_history(tok, messages, max_window, max_length - ANSWER_ROOM, **more)


def _text(message: Message) -> str:
    """Return the content of a message of text."""
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _for_file(message: Message) -> Row:
    """Return a message as files have it: the thoughts of an answer apart."""
    if message["role"] != "assistant" or not _text(message).lstrip().startswith(OPEN):
        return dict(message)
    parsed = parse_text(_text(message), ())  # calls of tools stay text: there are none to answer them
    return {**message, **parsed}


def _from_file(message: Message) -> Message:
    """Return a message as models write it: thoughts inside of the content."""
    if not isinstance(message.get("reasoning_content"), str):
        return message
    plain = {key: value for key, value in message.items() if key not in THOUGHTS}
    return {**plain, "content": f"{OPEN}\n{message['reasoning_content']}\n{CLOSE}\n\n{_text(message)}"}


def _read_rows(path: Path) -> list[Any]:
    """Return the chats of a file: rows of JSON lines, or a JSON document with one chat or a list of them."""
    if not path.exists():
        raise UserError("no such file", where=str(path), expected="a chat that /save wrote, or one with `messages`")
    if path.suffix != ".json":
        return list(islice(read_jsonl(path), 1000))
    value = read_json(path, LARGEST_FILE)
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    is_one = all(isinstance(item, Mapping) and "role" in item for item in items)
    return [{"messages": items}] if items and is_one else items


def _messages(row: Any, where: str) -> list[Message]:
    """Return the checked messages of a row; raises a `UserError` where there are none, or tools among them."""
    chat = cast("Row", row) if isinstance(row, dict) else {}
    if not isinstance(chat.get("messages"), list):
        kind = "no `messages`" if isinstance(row, dict) else json_kind(row)
        raise UserError(kind, where=where, expected='{"messages": [{"role": ..., "content": ...}, ...]}')
    with within(where):
        messages = check(chat["messages"], False, False)
    if chat.get("tools") or any("tool_calls" in message for message in messages):
        raise UserError("a chat with tools", where=where, expected="questions and answers, which are text")
    if not any(message["role"] == "user" for message in messages):
        raise UserError("a chat without a question", where=where, expected="a turn of the user")
    return [_from_file(message) for message in messages]
