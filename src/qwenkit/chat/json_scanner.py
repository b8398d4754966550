"""Where a JSON object that is still being written ends, and where the text can be none.

    scanner = JSONScanner(at=0)
    scanner.feed('{"a": {"b"')           # "more"
    scanner.feed('{"a": {"b": 1}}')      # "end"; the whole text each time, which only grows
    scanner.spans                        # {6: 14}: where the lists and objects directly in it begin and end

Each character is looked at once. The scanner takes all JSON and a little more: what it takes is still to be decoded.
"""

from __future__ import annotations

import re
from typing import Literal

BLANK = " \t\r\n"
_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_COMPLETE = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_CLOSES = {"{": "}", "[": "]"}
Progress = Literal["more", "end", "bad"]


class JSONScanner:
    """One JSON value in a growing text."""

    def __init__(self, at: int) -> None:
        """Begin at this place of the text."""
        self.at: int = at
        """Where the next character is looked at; after "end", where the value ends."""
        self.spans: dict[int, int] = {}
        """Where each complete list and object directly inside the value begins, and where it ends."""
        self._open: list[tuple[str, int]] = []
        self._next: Literal["value", "item", "key", "first key", "colon", "comma"] = "value"
        self._in_string = False

    def feed(self, text: str) -> Progress:
        """Look at what is new of the text; return whether the value goes on, has ended, or is not JSON."""
        progress: Progress | None = None
        while progress is None:
            if self.at >= len(text):
                return "more"
            if self._in_string:
                progress = self._string(text)
            elif text[self.at] in BLANK:
                self.at += 1
            else:
                progress = self._sign(text, text[self.at])
        return progress

    def _string(self, text: str) -> Progress | None:
        """Go on inside a string."""
        match = _IN_STRING.search(text, self.at)
        if match is None:
            self.at = len(text)
        elif match[0] == '"':
            self.at, self._in_string = match.end(), False
        elif match[0] != "\\":
            return "bad"
        elif match.end() == len(text):
            self.at = match.start()
            return "more"
        else:
            self.at = match.end() + 1
        return None

    def _sign(self, text: str, sign: str) -> Progress | None:
        """Take a character between strings, or a number or a word."""
        if self._next in ("value", "item"):
            return self._value(text, sign)
        if self._next in ("key", "first key"):
            if sign == '"':
                return self._begin_string("colon")
            return self._close() if sign == "}" and self._next == "first key" else "bad"
        if self._next == "colon":
            return self._advance("value") if sign == ":" else "bad"
        if sign == ",":
            return self._advance("key" if self._open[-1][0] == "{" else "value")
        return self._close() if sign == _CLOSES[self._open[-1][0]] else "bad"

    def _value(self, text: str, sign: str) -> Progress | None:
        if sign in _CLOSES:
            self._open.append((sign, self.at))
            return self._advance("first key" if sign == "{" else "item")
        if sign == '"':
            return self._begin_string("comma")
        if sign == "]" and self._next == "item":
            return self._close()
        match = _SCALAR.match(text, self.at)
        if match is None:
            return "bad"
        if match.end() == len(text):
            return "more"
        self.at = match.end() - 1
        return self._advance("comma") if _COMPLETE.fullmatch(match[0]) else "bad"

    def _begin_string(self, following: Literal["colon", "comma"]) -> None:
        self._in_string = True
        self._advance(following)

    def _advance(self, following: Literal["value", "item", "key", "first key", "colon", "comma"]) -> None:
        self._next, self.at = following, self.at + 1

    def _close(self) -> Progress | None:
        _, start = self._open.pop()
        self._advance("comma")
        if len(self._open) == 1:
            self.spans[start] = self.at
        return None if self._open else "end"
