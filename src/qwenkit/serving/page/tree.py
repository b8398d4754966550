"""A conversation with its branches, as a value: turns, their versions, which of them are shown.

    tree = ConversationTree()
    turn = tree.ask("2 + 2?")
    turn.answers["chat"] = Answer("4")
    tree.edit(0, "2 + 3?")             # a sibling of turn 0, which is shown from now on; the first one stays
    tree.regenerate(0)                 # one more, with the question of the turn that is shown
    tree.step(0, -1)                   # go to the version before
    tree.messages("chat")              # what that model has read and said, for a request

A turn is a question and the answers of all models that it was put to. What follows a turn hangs below it, so that each
version keeps its own continuation. Here is neither a page nor a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qwenkit.errors import UserError

MOST_CHARACTERS = 4_000_000
"""Of all versions of all turns together: what one page may keep in the server's memory."""
MOST_TURNS = 2_000


class TextFile(NamedTuple):
    """A text file that is read into a question."""

    name: str
    text: str


@dataclass
class ToolCall:
    """A function that an answer calls; its arguments are JSON as the model writes it."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """What one model has answered so far."""

    text: str = ""
    thoughts: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    state: str = "writing"
    """writing, done, length (cut off), stopped (by who asked), or failed."""
    error: str = ""
    """Why it failed, for who asked, in English."""
    code: str = ""
    """The code of the refusal, which is said in the page's language."""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    """prompt_tokens, answer_tokens, first_s, last_s: as `Asked.figures` has them."""

    @property
    def is_empty(self) -> bool:
        """Return whether the model has said nothing."""
        return not (self.text or self.thoughts or self.calls)


@dataclass(eq=False)
class Turn:
    """A question, the answers to it by the names of the models, and what was asked after it."""

    question: str
    files: tuple[TextFile, ...] = ()
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    following: list[Turn] = field(default_factory=list["Turn"])
    shown: int = 0
    """Which of `following` is shown."""

    @property
    def content(self) -> str:
        """Return what the model reads: the question, then each file under its name."""
        return "\n\n".join([part for part in (self.question, *map(_quoted, self.files)) if part])

    @property
    def size(self) -> int:
        """Return how many characters question and answers have, without what follows."""
        written = sum(
            len(answer.text) + len(answer.thoughts) + sum(len(call.arguments) for call in answer.calls)
            for answer in self.answers.values()
        )
        return len(self.question) + sum(len(file.text) for file in self.files) + written


def _quoted(file: TextFile) -> str:
    """Return a file as a block of code that its own text cannot end."""
    fence = "```"
    while fence in file.text:
        fence += "`"
    return f"{file.name}:\n{fence}\n{file.text.rstrip()}\n{fence}"


class ConversationTree:
    """All versions of a conversation. Turns are named by their number among those that are shown, from 0."""

    def __init__(self) -> None:
        """Begin without a turn."""
        self._root = Turn("")

    @property
    def turns(self) -> list[Turn]:
        """Return the turns that are shown, the first one first."""
        turns: list[Turn] = []
        turn = self._root
        while turn.following:
            turn = turn.following[turn.shown]
            turns.append(turn)
        return turns

    @property
    def all_turns(self) -> Iterator[Turn]:
        """Yield every version of every turn."""
        waiting = [*self._root.following]
        while waiting:
            turn = waiting.pop()
            yield turn
            waiting += turn.following

    def versions(self, number: int) -> tuple[int, int]:
        """Return which version of a turn is shown, from 1, and how many there are."""
        before = self._before(number)
        return before.shown + 1, len(before.following)

    def ask(self, question: str, files: Sequence[TextFile] = ()) -> Turn:
        """Add a turn after those that are shown; raises a `UserError` for an empty one, or where there is no room."""
        return self._add([self._root, *self.turns][-1], question, files)

    def edit(self, number: int, question: str) -> Turn:
        """Ask turn `number` in other words: a new version, whose files are those of the one that is shown."""
        return self._add(self._before(number), question, self.turns[number].files)

    def regenerate(self, number: int) -> Turn:
        """Ask turn `number` again in the same words: a new version."""
        turn = self.turns[number] if 0 <= number < len(self.turns) else None
        return self._add(self._before(number), turn.question if turn else "", turn.files if turn else ())

    def step(self, number: int, by: int) -> None:
        """Show another version of a turn, with what follows it; at the first and the last one nothing changes."""
        before = self._before(number)
        before.shown = min(max(before.shown + by, 0), len(before.following) - 1)

    def drop_last(self) -> None:
        """Take the version of the last turn back that is shown: it could not be asked."""
        before = [self._root, *self.turns][-2]
        before.following.pop(before.shown)
        before.shown = max(0, len(before.following) - 1)

    def messages(self, model: str, system: str = "") -> list[dict[str, Any]]:
        """Return what a model has read and answered in the turns that are shown, in the form of chat completions.

        A turn that was not put to this model, or that it has left without a word, is left out, except the last one.
        A turn after calls of tools holds their results."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        turns, calls = self.turns, list[ToolCall]()
        for turn in turns:
            answer = turn.answers.get(model)
            if turn is not turns[-1] and (answer is None or answer.is_empty):
                continue
            if calls:
                messages += [{"role": "tool", "tool_call_id": call.id, "content": turn.content} for call in calls]
            else:
                messages.append({"role": "user", "content": turn.content})
            calls = []
            if answer is not None and not answer.is_empty:
                messages.append(_message(answer))
                calls = answer.calls
        return messages

    def _before(self, number: int) -> Turn:
        """Return what turn `number` follows; raises a `UserError` for a turn that is not there."""
        path = [self._root, *self.turns]
        if not 0 <= number < len(path) - 1:
            raise UserError("there is no such turn", where=f"turn {number + 1}", expected=f"1 to {len(path) - 1}")
        return path[number]

    def _add(self, before: Turn, question: str, files: Sequence[TextFile]) -> Turn:
        turn = Turn(question, tuple(files))
        if not turn.content.strip():
            raise UserError("there is no question")
        turns = list(self.all_turns)
        if sum(each.size for each in turns) + turn.size > MOST_CHARACTERS or len(turns) >= MOST_TURNS:
            raise UserError("this conversation is too long to go on", hint="begin a new one")
        before.following.append(turn)
        before.shown = len(before.following) - 1
        return turn


def _message(answer: Answer) -> dict[str, Any]:
    """Return an answer as a message of chat completions."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message
