"""What is typed in a chat: commands, and texts over several lines."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.chat.commands import COMMANDS, Lines, Reply, is_command, run, without_broken
from qwenkit.chat.session import Session
from qwenkit.errors import UserError


class Strict:
    """Knows two settings, one of which is from 0 to 1; no model has thoughts."""

    def name(self, name: str) -> None:
        if name not in ("top_p", "stop"):
            raise UserError(f"unknown name {name}")

    def sampling(self, settings: Mapping[str, Any]) -> None:
        top_p = settings.get("top_p", 1)
        if not isinstance(top_p, int | float) or not 0 <= top_p <= 1:
            raise UserError(f"top_p = {top_p!r}")

    def thinking(self, thinking: bool | None) -> None:
        if thinking:
            raise UserError("no thoughts")


def type_in(session: Session, *texts: str) -> list[str]:
    return [run(text, session, Strict()).text for text in texts]


@pytest.fixture(name="session")
def _session() -> Session:
    session = Session(("a",))
    session.ask("one")
    session.answer(0, "1")
    return session


def test_settings(session: Session) -> None:
    said = type_in(session, "/set", "/set top_p", "/set top_p 0.7", "/set stop \\n", '/set stop ["a", "b"]', "/set")
    assert said == [
        "everything is as the model's folder says", "top_p = as the model's folder says", "top_p = 0.7",
        'stop = "\\\\n"', 'stop = ["a", "b"]', 'top_p = 0.7\nstop = ["a", "b"]',
    ]  # fmt: skip
    for text in ("/set top_p 2", "/set top_p high", "/set topp 1", "/set topp"):
        with pytest.raises(UserError):
            type_in(session, text)
    assert session.settings == {"top_p": 0.7, "stop": ["a", "b"]}
    assert type_in(session, "/set top_p none") == ["top_p = as the model's folder says"]
    assert session.settings == {"stop": ["a", "b"]}


def test_system_turn_and_thoughts(session: Session) -> None:
    assert type_in(session, "/system", "/system Be kind.\nAnd brief.", "/system") == [
        "system: none", "system: Be kind.\nAnd brief.", "system: Be kind.\nAnd brief.",
    ]  # fmt: skip
    assert type_in(session, "/system none") == ["system: none"] and session.system is None
    assert type_in(session, "/think", "/think off") == ["thoughts: auto", "thoughts: off"]
    assert type_in(session, "/think auto") == ["thoughts: auto"]
    with pytest.raises(UserError, match="no thoughts"):
        type_in(session, "/think on")
    with pytest.raises(UserError) as error:
        type_in(session, "/think of")
    assert str(error.value) == "/think of\n  expected: on, off or auto\n  nearest: off" and session.thinking is None


def test_turns(session: Session, tmp_path: Path) -> None:
    assert run("/retry", session, Strict()) == Reply(then="answer") and len(session.messages(0)) == 1
    session.answer(0, "2")
    path = tmp_path / "my chat.jsonl"
    assert type_in(session, f"/save {path}") == [f"2 messages in {path}"]
    with pytest.raises(UserError, match="there is such a file already"):
        type_in(session, f"/save {path}")
    assert type_in(session, f"/save! {path}", "/undo") == [f"2 messages in {path}", "taken back: one"]
    assert type_in(session, f"/load {path}", "/clear") == [f"2 messages from {path}", "all turns are forgotten"]
    assert not session.rounds and run("/quit", session, Strict()).then == "quit"


def test_help_names_every_command(session: Session) -> None:
    (text,) = type_in(session, "/help")
    assert all(f"/{name}" in text for name in COMMANDS) and '"""' in text


def test_mistakes(session: Session) -> None:
    with pytest.raises(UserError) as error:
        type_in(session, "/hepl me")
    assert str(error.value) == (
        "/hepl is not a command\n"
        "  expected: /help /system /set /think /undo /retry /clear /save /save! /load /quit\n"
        "  nearest: /help\n"
        "  hint: a line with a blank before it is a question"
    )
    for text, message in {
        "/undo two": "/undo two\n  expected: /undo alone",
        "/save": "/save without a name\n  expected: /save FILE",
        "/load a\0b": "/load without a name\n  expected: /load FILE",
    }.items():
        with pytest.raises(UserError) as error:
            type_in(session, text)
        assert str(error.value) == message


def test_what_is_a_command() -> None:
    assert all(map(is_command, ("/set", "/set a 1", "/save! x", "/unknown", "/system\nBe kind.")))
    assert not any(map(is_command, ("/etc/hosts", " /set", "/", "/ set", "a /set", "/1", "", "//")))


OTHERS = [f"/{name}" for name in COMMANDS if not name.startswith(("save", "load"))]


@given(st.sampled_from(OTHERS), st.text(' \n\0a01.[{"topps]}nef😀'))
def test_a_refused_command_changes_nothing(name: str, argument: str) -> None:
    session = Session(("a", "b"), "x", {"top_p": 0.5}, None)
    session.ask("one")
    before = copy.deepcopy(session)
    try:
        run(f"{name} {argument}", session, Strict())
    except UserError:
        assert session == before


def test_lines_between_quotes_are_one_text() -> None:
    lines = Lines()
    assert lines.push("plain") == "plain" and lines.push('a """ b') == 'a """ b'
    assert lines.push('"""one line"""') == "one line" and not lines.are_open
    assert lines.push('"""') is None and lines.push("") is None and lines.push("  x") is None and lines.are_open
    assert lines.push('y""" z') == "\n  x\ny z" and not lines.are_open
    assert lines.push('/system """Be kind.') is None
    assert lines.push('And brief."""') == "/system Be kind.\nAnd brief."
    assert lines.push('"""\nall\nat once\n"""') == "all\nat once"
    assert lines.push('"""left') is None and lines.flush() == "left" and not lines.are_open


@given(st.lists(st.text(st.characters(exclude_characters='"\n')), min_size=1))
def test_no_line_between_quotes_is_lost(body: list[str]) -> None:
    lines = Lines()
    assert lines.push('"""') is None
    assert [lines.push(line) for line in body] == [None] * len(body)
    assert lines.push('"""') == "\n".join(body)


def test_bytes_that_are_not_text() -> None:
    text = b"caf\xe9 \xe4\xbd x".decode("utf-8", "surrogateescape")
    assert without_broken(text) == "caf\ufffd \ufffd x" and without_broken("中文 é") == "中文 é"
