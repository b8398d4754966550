"""`qwenkit chat` in a terminal: keys go in through a pty, and what a screen of 60 columns shows is looked at."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pyte = pytest.importorskip("pyte")
pytest.importorskip("prompt_toolkit")

COLUMNS, LINES, LIMIT_S = 60, 20, 60
ENTER, ALT_ENTER, CTRL_C, UP, TAB = "\r", "\x1b\r", "\x03", "\x1b[A", "\t"


class Terminal:
    """A program in a terminal of its own; every wait has a limit."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.screen = pyte.HistoryScreen(COLUMNS, LINES, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    def type(self, keys: str | bytes) -> None:
        """Press keys."""
        os.write(self.master, keys if isinstance(keys, bytes) else keys.encode())

    @property
    def text(self) -> str:
        """The lines of the screen, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, fits: Callable[[], bool], what: str) -> None:
        """Wait until the screen fits."""
        end = time.monotonic() + LIMIT_S
        while not fits():
            left = end - time.monotonic()
            if left < 0 or not self._read(left):
                pytest.fail(f"{what} never came:\n{self.text}")

    def _read(self, seconds: float) -> bool:
        """Take over what the program writes within this time; return False at its end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program has ended
            return False
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    def shows(self, text: str) -> None:
        """Wait for a text."""
        self.until(lambda: text in self.text, repr(text))

    def asks(self) -> None:
        """Wait for an empty prompt with the cursor behind it."""
        self.until(lambda: self.screen.display[self.screen.cursor.y].rstrip() == ">", "a prompt")

    def say(self, keys: str | bytes, *answers: str) -> None:
        """Type at a prompt, wait for answers, and for the next prompt."""
        self.asks()
        self.type(keys)
        for text in answers:
            self.shows(text)

    def ends(self) -> int:
        """Wait for the end; return the exit code."""
        while self._read(1):
            if self.process.poll() is not None and not select.select([self.master], [], [], 0)[0]:
                break
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        os.close(self.master)


@pytest.fixture(name="terminal")
def _terminal(tmp_path: Path) -> Iterator[Terminal]:
    environment = {
        **os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    environment.pop("NO_COLOR", None)
    terminal = Terminal([sys.executable, "-m", "tests.cli.echo"], environment)
    yield terminal
    terminal.close()


def test_a_conversation_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.shows("/help lists the commands, /quit leaves")
    terminal.asks()
    terminal.type("你好")
    terminal.until(lambda: terminal.screen.cursor.x == 6, "the cursor behind two wide characters")
    terminal.type(" *x*" + ENTER)
    terminal.shows("**you** said 中文字 你好 *x*")
    terminal.shows("(prompt ")
    assert b"\x1b[1m**you**" in terminal.raw or b"\x1b[1m**\x1b[0m\x1b[1myou" in terminal.raw

    terminal.say(f"a{ALT_ENTER}b{ENTER}", "**you** said 中文字 a\nb\n")
    terminal.say("\x1b[200~p1\np2\x1b[201~" + ENTER, "**you** said 中文字 p1\np2\n")
    terminal.say(b"caf\xe9!" + ENTER.encode(), "became \ufffd", "**you** said 中文字 caf\ufffd!")
    terminal.say("count" + ENTER, "n0 n1 n2")
    terminal.type(CTRL_C)
    terminal.shows("(stopped; prompt ")
    terminal.say("/undo" + ENTER, "taken back: count")

    terminal.say("/sy" + TAB, "> /system")
    terminal.type(" none" + ENTER)
    terminal.shows("system: none")
    terminal.asks()
    terminal.type(UP)
    terminal.shows("> /system none\n")
    terminal.until(lambda: terminal.screen.display[terminal.screen.cursor.y].startswith("> /system none"), "it again")
    terminal.type(CTRL_C)
    terminal.asks()
    terminal.type(CTRL_C)
    terminal.shows("Ctrl-C again, or /quit, leaves")
    terminal.asks()
    terminal.type(CTRL_C)
    terminal.shows("left with 8 messages and 0")
    assert terminal.ends() == 0
    assert "a\n+b" in (tmp_path / "qwenkit" / "chat_history").read_text("utf-8")
