"""Styles for an answer in Markdown while it is still being written.

    styler = AnswerStyler()
    for delta in deltas: print("".join(painted(*span) for span in styler.push(delta)))
    print("".join(painted(*span) for span in styler.finish()))

The text itself is never changed: every character is shown once, marks included, in the order in which it came, and
nothing is drawn again. So no text is lost where Markdown is not what the model meant (HTML, a rule of LaTeX), none is
shown twice where a terminal scrolls or counts the columns of a character differently, and what is copied from the
terminal is the source. Styles are a guide for the eye: headings, strong, emphasis, code, thoughts.

However the text is cut into deltas, each character has the same style. What may still become a mark is held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from qwenkit.chat.thoughts import CLOSE, OPEN

CODES = {"heading": "1", "strong": "1", "emphasis": "3", "code": "36", "thought": "2", "dim": "2", "name": "1;34"}
"""The codes of ANSI terminals (SGR) for each style."""
_START = re.compile(r"[ \t]*(`+|~+|#+|)")
_SPECIAL = re.compile(r"[`*_\n\\]")
_RUN = re.compile(r"`+|\*+|_+")
_EMPHASIS = {1: {"emphasis"}, 2: {"strong"}, 3: {"emphasis", "strong"}}


class Span(NamedTuple):
    """A text, and the names of its styles, parted by blanks."""

    style: str
    text: str


def painted(style: str, text: str) -> str:
    """Return a text with the codes of its styles around each of its lines."""
    codes = ";".join(CODES[name] for name in style.split())
    if not codes:
        return text
    return "\n".join(f"\x1b[{codes}m{line}\x1b[0m" if line else "" for line in text.split("\n"))


class AnswerStyler:
    """The styles of one answer: its thought, then Markdown."""

    def __init__(self, in_thought: bool = False) -> None:
        """Begin an answer; `in_thought`: to a prompt that ends inside a thought."""
        self._markdown, self._held = Markdown(), ""
        self._state = "inside" if in_thought else "before"

    def push(self, text: str) -> list[Span]:
        """Take what was written next; return what can be shown."""
        if self._state == "behind":
            return self._markdown.push(text)
        self._held += text
        return list(self._spans(last=False))

    def finish(self) -> list[Span]:
        """Return the rest, at the end of the answer."""
        return [*self._spans(last=True), *self._markdown.finish()]

    def _spans(self, last: bool) -> Iterator[Span]:
        if self._state == "before":
            start = self._held.lstrip()
            if len(start) < len(OPEN) and OPEN.startswith(start) and not last:
                return
            self._state = "inside" if start.startswith(OPEN) else "behind"
        if self._state == "inside":
            end = self._held.find(CLOSE)
            self._state = "inside" if end < 0 else "behind"
            keep = 0 if last else _overlap(self._held, CLOSE)
            thought = self._take(len(self._held) - keep if end < 0 else end + len(CLOSE))
            if thought:
                yield Span("thought", thought)
        if self._state == "behind":
            yield from self._markdown.push(self._take(len(self._held)))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


def _overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    return next((count for count in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-count:])), 0)


class Markdown:
    """The styles of a text in Markdown. Marks count within their line, so that one which is never closed ends there."""

    def __init__(self) -> None:
        """Begin at the start of a line."""
        self._held, self._last = "", "\n"
        self._at_start = True
        self._fence = ""
        """The marks that opened the present block of code; "" outside of one."""
        self._fence_line: str | None = None
        """The text behind them, while their own line goes on."""
        self._heading = False
        self._code = 0
        """How many marks opened the present inline code."""
        self._open: set[str] = set()

    def push(self, text: str) -> list[Span]:
        """Take what was written next; return what can be shown."""
        self._held += text
        return self._spans(last=False)

    def finish(self) -> list[Span]:
        """Return the rest, at the end of the text."""
        return self._spans(last=True)

    def _spans(self, last: bool) -> list[Span]:
        spans: list[Span] = []
        while self._held:
            before = len(self._held), self._at_start
            spans += self._start(last) if self._at_start else self._in_line(last)
            if before == (len(self._held), self._at_start):
                break
        return spans

    def _emit(self, count: int, *styles: str) -> list[Span]:
        """Show the next characters in the present styles and these."""
        text, self._held = self._held[:count], self._held[count:]
        if not text:
            return []
        self._last = text[-1]
        names = {*styles, *self._open, *(["heading"] if self._heading else []), *(["code"] if self._code else [])}
        return [Span(" ".join(name for name in CODES if name in names), text)]

    def _start(self, last: bool) -> list[Span]:
        """Find out what a line is, by its first marks and the character behind them."""
        match = _START.match(self._held)
        assert match is not None, "it matches the empty text"
        if match.end() == len(self._held) and not last:
            return []
        marks, behind = match[1], self._held[match.end() : match.end() + 1]
        self._at_start = False
        if self._fence:
            if marks[: len(self._fence)] == self._fence and behind in ("", " ", "\t", "\n", "\r"):
                self._fence = ""
            return self._emit(match.end(), "code")
        if marks[:1] in ("`", "~") and len(marks) >= 3:
            self._fence, self._fence_line = marks, ""
            return self._emit(match.end(), "code")
        if marks[:1] == "#" and len(marks) <= 6 and behind in ("", " ", "\t", "\n", "\r"):
            self._heading = True
            return self._emit(match.end())
        blanks = match.end() - len(marks)
        return self._emit(blanks if marks[:1] in ("`", "~") else match.end()) or self._in_line(last)

    def _in_line(self, last: bool) -> list[Span]:
        """Go on in a line."""
        if self._fence:
            return self._in_block()
        match = _SPECIAL.search(self._held)
        if match is None or match.start():
            return self._emit(len(self._held) if match is None else match.start())
        if match[0] == "\n":
            return self._end_line()
        if match[0] == "\\" and not self._code:
            return [] if len(self._held) == 1 and not last else self._emit(1 if self._held[1:2] == "\n" else 2)
        run = _RUN.match(self._held)
        if run is None:
            return self._emit(1)
        if run.end() == len(self._held) and not last:
            return []
        behind = self._held[run.end() : run.end() + 1]
        return self._code_marks(len(run[0])) if run[0][0] == "`" else self._emphasis_marks(run[0], behind)

    def _in_block(self) -> list[Span]:
        """Go on in a line of a block of code, or in the one that opens it."""
        end = self._held.find("\n")
        text = self._held if end < 0 else self._held[:end]
        if self._fence_line is not None:
            self._fence_line += text
        spans = self._emit(len(text), "code")
        if end >= 0:
            if self._fence_line and self._fence[0] == "`" and "`" in self._fence_line:
                self._fence = ""  # marks on both sides of it: that was inline code
            self._fence_line = None
            spans += self._end_line(*(["code"] if self._fence else []))
        return spans

    def _end_line(self, *styles: str) -> list[Span]:
        self._heading, self._code, self._open, self._at_start = False, 0, set(), True
        return self._emit(1, *styles)

    def _code_marks(self, length: int) -> list[Span]:
        """Begin or end inline code, which ends with as many marks as it began with."""
        if not self._code:
            self._code = length
            return self._emit(length)
        spans = self._emit(length)
        self._code = 0 if self._code == length else self._code
        return spans

    def _emphasis_marks(self, run: str, behind: str) -> list[Span]:
        """Begin or end emphasis where the neighbours of the marks allow it."""
        styles = _EMPHASIS.get(len(run))
        inside_word = run[0] == "_" and self._last.isalnum() and behind.isalnum()
        if styles is None or self._code or inside_word:
            return self._emit(len(run))
        if styles <= self._open and not self._last.isspace():
            spans = self._emit(len(run))
            self._open = self._open - styles
            return spans
        if behind and not behind.isspace():
            self._open = self._open | styles
        return self._emit(len(run))
