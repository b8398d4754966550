"""What is typed in a chat: lines of a terminal with editing and history, or those of a pipe.

In a terminal `prompt_toolkit` reads: Enter ends a text, Alt-Enter and what is pasted begin new lines, the arrows go
through earlier texts, Tab completes commands, Ctrl-C empties the line. It counts the columns of wide characters.
Anywhere else lines are read as they come. Bytes that are not text never end a chat: they become U+FFFD, which is
said.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwenkit.chat.commands import Lines, without_broken
from qwenkit.errors import notice

ReadLine = Callable[[str], str]
"""Reads one line, or a text of several, after a prompt; raises `EOFError` at the end, `KeyboardInterrupt` at Ctrl-C."""
PROMPT, MORE = "> ", "... "


class Input:
    """The texts of a chat, one after the other."""

    def __init__(self, read: ReadLine, tell: Callable[[str], None], prompts: bool) -> None:
        """Read lines by `read`; `tell` is called with notes, and `prompts` says whether to ask for a line."""
        self._read, self._tell, self._prompts = read, tell, prompts
        self._lines = Lines()

    def next(self) -> str | None:
        """Return the next text, or None at the end. Raises `KeyboardInterrupt` where Ctrl-C comes at an empty one."""
        while True:
            try:
                prompt = MORE if self._lines.are_open else PROMPT
                line = self._read(prompt if self._prompts else "")
            except EOFError:
                return self._rest()
            except KeyboardInterrupt:
                if self._lines.are_open:
                    self._lines.flush()
                    continue
                raise
            text = self._lines.push(self._as_text(line))
            if text is not None:
                return text

    def _rest(self) -> str | None:
        """Return a text that the end of the input cuts off, once."""
        if not self._lines.are_open:
            return None
        self._tell('the input ends inside a text that """ began')
        return self._lines.flush()

    def _as_text(self, line: str) -> str:
        text = without_broken(line)
        if text != line:
            encoding = getattr(sys.stdin, "encoding", None) or "this terminal's encoding"
            self._tell(f"bytes that are not text in {encoding} became \ufffd")
        return text


def plain_line(prompt: str) -> str:
    """Read a line of standard input, of a pipe or of a terminal without editing."""
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed when the program began
        raise EOFError
    return input(prompt)


def read_any_bytes() -> None:
    """Read invalid bytes of standard input as lone surrogates, instead of failing."""
    stdin: Any = sys.stdin
    if isinstance(stdin, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):
            stdin.reconfigure(errors="surrogateescape")


def line_reader(words: Sequence[str], editing: bool) -> ReadLine:
    """Return what reads lines: with editing in a terminal, `words` completed by Tab; else as they come."""
    if not editing:
        return plain_line
    if importlib.util.find_spec("prompt_toolkit") is None:
        notice("without the package prompt_toolkit there is no editing over several lines and no history")
        return plain_line
    return _editor(words, history_file())


def history_file() -> Path | None:
    """Return the file that keeps what was typed, only for the user; None where there can be none."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "qwenkit"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "chat_history"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600))
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # no home, or no place in it
        return None


def _editor(words: Sequence[str], path: Path | None) -> ReadLine:
    """Return a reader with editing, history and completion."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    session: PromptSession[str] = PromptSession(
        multiline=True,
        prompt_continuation=MORE,
        key_bindings=_keys(),
        history=_history(path),
        completer=WordCompleter(list(words), sentence=True),
        complete_while_typing=False,
        reserve_space_for_menu=4,
        enable_open_in_editor=True,
        enable_suspend=True,
    )
    return session.prompt


def _history(path: Path | None) -> Any:
    """Return the history of a file, which a full disk or half a character does not disturb; in memory without one."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class LenientHistory(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):
                super().store_string(without_broken(string))

    return InMemoryHistory() if path is None else LenientHistory(str(path))


def _keys() -> Any:
    """Return the keys of a chat: Enter ends the text, Alt-Enter begins a line, Ctrl-C empties the text."""
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings

    keys, is_typing = KeyBindings(), ~is_searching

    @keys.add("enter", filter=is_typing)
    def _end(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=is_typing)
    def _begin_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=is_typing)
    def _empty(event: Any) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys
