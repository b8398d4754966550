"""The open pages of a server: whose each one is, its conversation, and what it has running.

    sessions = Sessions()
    session = sessions.of(name, client)      # raises Refused for a page of somebody else
    session.running.add(asked); session.stop()     # the page is closed, or its user wants no more

A page's name is made by the page and guessable, so it belongs to the key that first came with it. Pages of one key are
bounded; the one goes first that nobody has used for the longest time. A conversation outlives the connection of its
page, which may come back. Nothing is written to disk.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Protocol

from qwenkit.serving.page.tree import ConversationTree
from qwenkit.serving.refusals import Refusal, Refused

NAME = re.compile(r"[A-Za-z0-9]{1,64}")
MOST_PAGES = 64
"""Of one key."""


class Stoppable(Protocol):
    """A request that a page has made."""

    def leave(self) -> None:
        """Close its connection, as a client does that wants no more."""
        ...


@dataclass(eq=False)
class Session:
    """One open page."""

    name: str
    owner: str
    """The name of its key."""
    tree: ConversationTree = field(default_factory=ConversationTree)
    running: set[Stoppable] = field(default_factory=set[Stoppable])
    busy: bool = False
    """An answer is being written: nothing else may be asked."""
    stopped: bool = False
    """Who reads it has stopped the answer that is being written."""
    last_used: float = field(default_factory=time.monotonic)
    focus: int | None = None
    """The turn whose versions the page offers."""
    models: tuple[str, ...] = ()
    system: str = ""
    """What the page asked with last: of this a file is made."""

    @property
    def open_calls(self) -> tuple[str, ...]:
        """Return the tools whose results the next message gives."""
        turns = self.tree.turns
        answers = turns[-1].answers.values() if turns else ()
        return tuple(dict.fromkeys(call.name for answer in answers for call in answer.calls))

    def begin_anew(self) -> None:
        """Forget the conversation."""
        self.tree, self.focus = ConversationTree(), None

    def stop(self) -> None:
        """End what is running."""
        self.stopped = True
        for asked in [*self.running]:
            asked.leave()


class Sessions:
    """All open pages, by their names."""

    def __init__(self) -> None:
        """Begin without any."""
        self._by_name: dict[str, Session] = {}

    def __len__(self) -> int:
        """Return how many pages are open."""
        return len(self._by_name)

    def of(self, name: str, owner: str) -> Session:
        """Return the page of a name, a new one where there is none; raises `Refused` for another key's."""
        if not NAME.fullmatch(name):
            raise Refused(Refusal("invalid", "this is not the name of a page", "session_hash", "letters and digits",
                                  code="invalid_page"))  # fmt: skip
        session = self._by_name.get(name)
        if session is None:
            self._make_room(owner)
            session = self._by_name[name] = Session(name, owner)
        if session.owner != owner:
            raise Refused(Refusal("forbidden", "this page belongs to another key", code="foreign_page"))
        session.last_used = time.monotonic()
        return session

    def find(self, name: str, owner: str) -> Session:
        """Return a page that is open; raises `Refused` for one that is not, or is another key's."""
        session = self._by_name.get(name)
        if session is None or session.owner != owner:
            raise Refused(Refusal("not_found", "there is no such page", code="no_such_page"))
        return session

    def _make_room(self, owner: str) -> None:
        own = [session for session in self._by_name.values() if session.owner == owner]
        if len(own) >= MOST_PAGES:
            oldest = min(own, key=lambda session: (session.busy, session.last_used))
            oldest.stop()
            del self._by_name[oldest.name]
