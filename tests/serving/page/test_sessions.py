"""Open pages: whose they are, and how many."""

from __future__ import annotations

import pytest

from qwenkit.serving.page import sessions as module
from qwenkit.serving.page.sessions import Sessions
from qwenkit.serving.refusals import Refused


class Running:
    def __init__(self) -> None:
        self.left = False

    def leave(self) -> None:
        self.left = True


def refusal(call: object, *given: str) -> tuple[str, str | None]:
    with pytest.raises(Refused) as caught:
        call(*given)  # type: ignore[operator]
    return caught.value.refusal.kind, caught.value.refusal.code


def test_a_page_belongs_to_the_key_it_came_with_first() -> None:
    sessions = Sessions()
    assert sessions.of("abc", "alice") is sessions.of("abc", "alice") is sessions.find("abc", "alice")
    assert refusal(sessions.of, "abc", "bob") == ("forbidden", "foreign_page")
    assert refusal(sessions.find, "abc", "bob") == refusal(sessions.find, "x", "bob") == ("not_found", "no_such_page")
    for name in ("", "../a", "a" * 65, "a b", "é"):
        assert refusal(sessions.of, name, "alice") == ("invalid", "invalid_page")


def test_a_page_that_is_closed_has_nothing_running() -> None:
    sessions, running = Sessions(), Running()
    session = sessions.of("abc", "alice")
    session.running.add(running)
    session.stop()
    assert running.left and sessions.find("abc", "alice").stopped


def test_the_oldest_page_of_a_key_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAGES", 2)
    sessions, running = Sessions(), Running()
    sessions.of("other", "bob")
    first = sessions.of("a", "alice")
    first.running.add(running)
    sessions.of("b", "alice").last_used = first.last_used - 1
    first.last_used -= 10
    sessions.of("c", "alice")
    assert running.left and len(sessions) == 3
    assert refusal(sessions.find, "a", "alice") == ("not_found", "no_such_page")
