"""Errors for the user: what went wrong, where, what was expected, and a hint how to fix it.

`UserError` is the user's mistake (exit code 2), `Stopped` a run that stopped itself (exit code 1).
Their text never holds a Python class name; the command line prints it and nothing else.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence

DONE, STOPPED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


_MOVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str, escape: Callable[[str], str] = lambda sign: ascii(sign)[1:-1]) -> str:
    """Return text from anywhere in a form that is safe in a terminal: characters that move the cursor, set a title or
    change the reading direction become escapes.

    Line ends and tabs stay, as do the joiners that scripts need."""
    return _MOVES.sub(lambda match: escape(match[0]), text)


class QwenkitError(Exception):
    """The base of every error that is meant for the user. `exit_code` is what the command line returns."""

    exit_code = STOPPED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        nearest: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the parts of the message: `where`, what was `expected`, the `nearest` known name and a `hint`."""
        self.what, self.where, self.expected, self.nearest, self.hint = what, where, expected, nearest, hint
        super().__init__(self.text())

    def text(self) -> str:
        """Return the message: one line for what (and where), one each for what was expected, the nearest name, the
        hint."""
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.nearest:
            lines.append(f"  nearest: {self.nearest}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return _printable("\n".join(lines))


class UserError(QwenkitError):
    """A mistake of the user's: bad file, key, value or path."""

    exit_code = MISTAKE


class Stopped(QwenkitError):
    """A run that stopped itself: the sentinel's alarm, or a failed node."""

    exit_code = STOPPED


class Interrupted(QwenkitError):
    """The user's Ctrl-C, after the state was saved."""

    exit_code = INTERRUPTED


@contextlib.contextmanager
def within(place: str) -> Generator[None, None, None]:
    """Put `place` before the place of an error that arises inside the `with` block.

    The inner code knows the message of a chat, its caller the file and the row."""
    try:
        yield
    except UserError as error:
        where = f"{place}, {error.where}" if error.where else place
        raise UserError(
            error.what, where=where, expected=error.expected, nearest=error.nearest, hint=error.hint
        ) from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to a misspelt one, or None when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return min(close, key=lambda word: _edits(name, word), default=None)


def _edits(a: str, b: str) -> int:
    """Return how many letters must be inserted, removed or changed: `nona` is nearer to `nano` than to `own`."""
    row = list(range(len(b) + 1))
    for number, letter in enumerate(a, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(b, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (letter != other))
    return row[-1]


def refuse_unnamed(what: str, names: Iterable[str], known: Iterable[str], expected: str | None = None) -> None:
    """Raise a `UserError` for the first unknown name; `expected` replaces the list of known ones where it is long."""
    listed = sorted(known)
    for name in names:
        if name not in listed:
            close = nearest(name, listed)
            raise UserError(f"`{name}` is not a {what}", expected=expected or ", ".join(listed), nearest=close)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a message: the first ones, shortened, and how many more there are."""
    shown = ", ".join(name if len(name) <= 120 else f"{name[:117]}..." for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


class Notice(UserWarning):
    """A message that the user should see although it stops nothing; the command line prints its text."""


def notice(what: str, where: str | None = None) -> None:
    """Show a message to the user, once for each text."""
    warnings.warn(_printable(f"{where}: {what}" if where else what), Notice, stacklevel=2)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)
