"""What is typed in a chat: texts over several lines, and commands such as `/set temperature 0.7`.

    run("/undo", session, checks)      # Reply(text="taken back: 2 + 2?", then="read")

A command changes a `Session` and says what it did, or raises a `UserError` and changes nothing. A line is a command
when its first word is a slash and letters; with a blank before it, it is a question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from qwenkit.chat.session import Session
from qwenkit.errors import UserError, nearest

QUOTES = '"""'
_NAME = re.compile(r"/([a-z]+!?)(?:\s|$)")
_BROKEN = re.compile("[\ud800-\udfff]+")


class Checks(Protocol):
    """What the models of a chat can say of a setting before they are asked; a `UserError` is a no."""

    def name(self, name: str, /) -> object:
        """Raise a `UserError` for the name of no sampling parameter that a chat may have."""
        ...

    def sampling(self, settings: Mapping[str, Any], /) -> object:
        """Raise a `UserError` for values that a sampling parameter cannot have."""
        ...

    def thinking(self, thinking: bool | None, /) -> object:
        """Raise a `UserError` where a model cannot be asked to think, or not to."""
        ...


class Reply(NamedTuple):
    """What a command says, and what is to happen then."""

    text: str = ""
    then: Literal["read", "answer", "quit"] = "read"


@dataclass(frozen=True)
class Command:
    """A command: its argument and effect in words, and the function that runs it."""

    argument: str
    help: str
    run: Callable[[Session, str, Checks], Reply]


class Lines:
    '''Puts a text together that has several lines: from `"""` to the next one.

        lines = Lines()
        lines.push("/system" + ' """Be kind.')     # None: it goes on
        lines.push('And brief."""')                # the complete text

    Quotes count at the beginning of a text, and behind the name of a command.'''

    def __init__(self) -> None:
        """Begin without a line."""
        self._head: str | None = None
        self._lines: list[str] = []

    @property
    def are_open(self) -> bool:
        """Return whether a text has begun and not ended."""
        return self._head is not None

    def push(self, line: str) -> str | None:
        """Take a line, or several at once; return the text that it completes."""
        if self._head is None:
            opening = _opening(line)
            if opening is None:
                return line
            self._head, line = opening
        body, end, behind = line.partition(QUOTES)
        self._lines.append(body)
        return self.flush().removesuffix("\n") + behind if end else None

    def flush(self) -> str:
        """Return what has begun, and forget it."""
        text = (self._head or "") + "\n".join(self._lines).removeprefix("\n")
        self._head, self._lines = None, []
        return text


def _opening(text: str) -> tuple[str, str] | None:
    """Return the name of a command, or "", before the quotes that begin a text, and what follows them; None without."""
    name = _NAME.match(text)
    head, rest = (text[: name.end()], text[name.end() :]) if name else ("", text)
    rest = rest.lstrip(" ")
    return (head, rest.removeprefix(QUOTES)) if rest.startswith(QUOTES) else None


def without_broken(text: str) -> str:
    """Return a text with U+FFFD for each run of bytes that were not text (read as lone surrogates)."""
    return _BROKEN.sub("\ufffd", text)


def is_command(text: str) -> bool:
    """Return whether a text is a command: `/set` is one, `/etc/hosts` is not."""
    return _NAME.match(text) is not None


def run(text: str, session: Session, checks: Checks) -> Reply:
    """Run a command; raises a `UserError` for an unknown one, or for one that cannot be done."""
    match = _NAME.match(text)
    name = match[1] if match else text
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        raise UserError(f"/{name} is not a command", expected=" ".join(f"/{known}" for known in COMMANDS),
                        nearest=close and f"/{close}", hint="a line with a blank before it is a question")  # fmt: skip
    argument = text[len(name) + 1 :].strip()
    command = COMMANDS[name]
    if argument and not command.argument:
        raise UserError(f"/{name} {argument}", expected=f"/{name} alone")
    return command.run(session, argument, checks)


# ---- the commands ----------------------------------------------------------------------------------------------------


def _help(session: Session, argument: str, checks: Checks) -> Reply:
    usages = {f"/{name} {command.argument}".rstrip(): command.help for name, command in COMMANDS.items()}
    width = max(map(len, usages))
    lines = [f"{usage:{width}}  {about}" for usage, about in usages.items()]
    return Reply("\n".join([*lines, f"{QUOTES} begins and ends a text over several lines"]))


def _system(session: Session, argument: str, checks: Checks) -> Reply:
    if argument:
        session.system = None if argument == "none" else argument
    return Reply(f"system: {session.system or 'none'}")


def _set(session: Session, argument: str, checks: Checks) -> Reply:
    name, _, text = argument.partition(" ")
    if name:
        checks.name(name)
    if text:
        settings = {**session.settings, name: _value(text.strip())}
        settings = {key: value for key, value in settings.items() if value is not None}
        checks.sampling(settings)
        session.settings = settings
    names = [name] if name else session.settings
    lines = [f"{key} = {_shown(session.settings.get(key))}" for key in names]
    return Reply("\n".join(lines) or "everything is as the model's folder says")


def _value(text: str) -> Any:
    """Return the value of a setting: JSON, `none`, or the text itself."""
    if text in ("none", "None", "default"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False}.get(text, text)


def _shown(value: object) -> str:
    return "as the model's folder says" if value is None else json.dumps(value, ensure_ascii=False)


def _think(session: Session, argument: str, checks: Checks) -> Reply:
    choices: dict[str, bool | None] = {"on": True, "off": False, "auto": None}
    if argument:
        if argument not in choices:
            raise UserError(f"/think {argument}", expected="on, off or auto", nearest=nearest(argument, choices))
        checks.thinking(choices[argument])
        session.thinking = choices[argument]
    (word,) = [word for word, choice in choices.items() if choice is session.thinking]
    return Reply(f"thoughts: {word}")


def _undo(session: Session, argument: str, checks: Checks) -> Reply:
    return Reply(f"taken back: {session.undo()}")


def _retry(session: Session, argument: str, checks: Checks) -> Reply:
    session.retry()
    return Reply(then="answer")


def _clear(session: Session, argument: str, checks: Checks) -> Reply:
    session.clear()
    return Reply("all turns are forgotten")


def _path(argument: str, name: str) -> Path:
    if not argument or "\0" in argument:
        raise UserError(f"/{name} without a name", expected=f"/{name} FILE")
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # a user whom the system does not know
        raise UserError(f"/{name} {argument}", expected=f"/{name} FILE") from None


def _save(session: Session, argument: str, checks: Checks) -> Reply:
    path = _path(argument, "save")
    return Reply(f"{session.save(path)} messages in {path}")


def _replace(session: Session, argument: str, checks: Checks) -> Reply:
    path = _path(argument, "save!")
    return Reply(f"{session.save(path, overwrite=True)} messages in {path}")


def _load(session: Session, argument: str, checks: Checks) -> Reply:
    path = _path(argument, "load")
    return Reply(f"{session.load(path)} messages from {path}")


def _quit(session: Session, argument: str, checks: Checks) -> Reply:
    return Reply(then="quit")


COMMANDS: dict[str, Command] = {
    "help": Command("", "this list", _help),
    "system": Command("[TEXT|none]", "show or change the system turn", _system),
    "set": Command("[NAME [VALUE|none]]", "show or change a sampling parameter: /set temperature 0.7", _set),
    "think": Command("[on|off|auto]", "answers with thoughts, without, or as the model does", _think),
    "undo": Command("", "take the last question and its answer back", _undo),
    "retry": Command("", "answer the last question again", _retry),
    "clear": Command("", "forget all turns", _clear),
    "save": Command("FILE", "write the chat as JSON lines, or as JSON", _save),
    "save!": Command("FILE", "the same over a file that exists", _replace),
    "load": Command("FILE", "go on with a chat of a file", _load),
    "quit": Command("", "leave", _quit),
}
"""Every command by its name."""
