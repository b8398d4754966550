"""`qwenkit chat` with an engine that says back what it was asked: through pipes, and in a terminal."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwenkit.chat import ChatTokenizer
from qwenkit.cli import chat_input, chat_loop
from qwenkit.cli.chat_input import Input
from qwenkit.cli.chat_loop import start, stopping
from qwenkit.errors import UserError
from tests.cli.echo import Echo, chat_with, tiny


@pytest.fixture(name="tok", scope="module")
def _tok() -> ChatTokenizer:
    return tiny()


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Ctrl-C is an interrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> None:
    typed = iter(lines)

    def read(_: str) -> str:
        for line in typed:
            if not isinstance(line, str):
                raise line
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)


def test_a_conversation_keeps_its_history_until_told_to_forget(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    type_in(monkeypatch, "one", "", "two", "/clear", "three", "/quit", "never read")
    chat = chat_with(engine, system="Be kind.")
    start(chat, None)
    assert [(text.count("<|im_start|>"), "Be kind." in text) for text in engine.prompts] == [
        (3, True), (5, True), (3, True),
    ]  # fmt: skip
    shown = capsys.readouterr()
    assert shown.out == "you said one\nyou said two\nyou said three\n", "the answers alone"
    assert shown.err == "all turns are forgotten\n" and chat.exit_code == 0
    assert [request.rng_id for request in engine.requests] == [0, 1, 2] and engine.aborted == [1, 2, 3]


def test_one_question(tok: ChatTokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Echo(tok)
    start(chat_with(engine, temperature=0.5), "one")
    assert capsys.readouterr().out == "you said one\n" and engine.requests[0].params.temperature == 0.5
    with pytest.raises(UserError, match="prompt: "):
        start(chat_with(engine), "much " * 300)


def test_several_models_answer_in_turn(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Echo(tok), Echo(tok)
    monkeypatch.setattr(second, "pieces", lambda asked: ["no"])
    type_in(monkeypatch, "one", "two")
    start(chat_with(first, second), None)
    assert capsys.readouterr().out == "a:\nyou said one\nb:\nno\na:\nyou said two\nb:\nno\n"
    assert "you said one" in first.prompts[1] and "you said one" not in second.prompts[1]


def test_a_model_is_loaded_when_it_first_answers(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat, loads = chat_with(Echo(tok), Echo(tok)), []

    def fail() -> Any:
        loads.append(1)
        raise UserError("no weights")

    chat.players[1].make_engine = fail
    type_in(monkeypatch, "/set temperature 0", "one", "two")
    start(chat, None)
    assert len(loads) == 2, "tried again at the next question"
    assert capsys.readouterr().err.count("error: no weights\n") == 2 and chat.exit_code == 2
    assert len(chat.session.messages(0)) == 4 and not chat.session.messages(1)


def test_turns_that_no_longer_fit_are_forgotten_and_that_is_said(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    type_in(monkeypatch, "one", "two", "three", "four")
    engine.max_length = 64 + len(tok.render([{"role": "user", "content": "three"}]).ids) + 40
    start(chat_with(engine), None)
    assert "one" not in engine.prompts[-1] and "three" in engine.prompts[-1]
    assert "(the model no longer sees the oldest " in capsys.readouterr().err


def test_a_question_that_cannot_be_asked_costs_no_conversation(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    type_in(monkeypatch, "one", "much " * 300, "two")
    chat = chat_with(engine)
    start(chat, None)
    assert "much" not in engine.prompts[-1] and "you said one" in engine.prompts[-1]
    shown = capsys.readouterr()
    assert shown.err.startswith("error: prompt: ") and "you said two" in shown.out and chat.exit_code == 2


def test_an_empty_answer_is_taken_back(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    monkeypatch.setattr(engine, "pieces", lambda asked: [])
    type_in(monkeypatch, "one", "/save x.json")
    start(chat_with(engine), None)
    assert capsys.readouterr().err == "(no answer; the question is taken back)\nerror: there is nothing to save\n"


@pytest.mark.parametrize("prompt", [None, "one"])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_thoughts_are_asked_for_and_counted(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, thinking: bool | None, prompt: str | None
) -> None:
    thinker = ChatTokenizer(tok, "qwen3")
    engine, options = Echo(thinker), []
    render = thinker.render
    monkeypatch.setattr(thinker, "render", lambda *a, **given: options.append(given) or render(*a, **given))
    type_in(monkeypatch, "one")
    chat = chat_with(engine)
    chat.session.thinking = thinking
    start(chat, prompt)
    assert engine.requests[0].conversation.thinking is thinking
    assert len(options) > 1 and {given.get("thinking") for given in options} == {thinking}, "also for what fits"


def test_settings_are_those_of_the_engine(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    commands = ("/set temprature 1", "/set top_p 2", "/set n 2", "/set top_k 5", "/set stop x", "/think on")
    type_in(monkeypatch, *commands, "one")
    start(chat_with(engine, seed=3), None)
    error = capsys.readouterr().err
    assert "unknown name temprature" in error and "nearest: temperature" in error
    assert "top_p = 2\n  expected: more than 0 and at most 1; or None" in error
    assert "n has no effect in a chat" in error and "the chat style chatml has no thoughts" in error
    params = engine.requests[0].params
    assert (params.top_k, params.stop, params.seed, params.top_p, params.n) == (5, ("x",), 3, None, 1)


def test_bytes_that_are_no_text_are_asked_as_far_as_they_are(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = io.TextIOWrapper(io.BytesIO(b"caf\xe9 \xe4\xbd\nnext\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", data)
    chat = chat_with(Echo(tok))
    start(chat, None)
    shown = capsys.readouterr()
    assert shown.err == "note: bytes that are not text in utf-8 became \ufffd\n" and chat.exit_code == 0
    assert shown.out == "you said caf\ufffd \ufffd\nyou said next\n"


def test_lines_between_quotes_are_one_question_also_where_the_input_ends(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tok)
    type_in(monkeypatch, '"""', "one", "", 'two"""', '"""three')
    start(chat_with(engine), None)
    shown = capsys.readouterr()
    assert [request.conversation.messages[-1]["content"] for request in engine.requests] == ["one\n\ntwo", "three"]
    assert shown.err == 'note: the input ends inside a text that """ began\n'


def test_a_closed_input_is_at_its_end(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    start(chat_with(Echo(tok)), None)
    assert not any(capsys.readouterr()) and not chat_loop.is_terminal(None)


def test_what_the_folder_asks_for_in_vain_is_said_once(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ChatTokenizer(tok)
    plain.remarks = ("a setting is not known here",)
    type_in(monkeypatch, "one", "two")
    start(chat_with(Echo(plain)), None)
    assert capsys.readouterr().err == "note: a setting is not known here\n"


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


class Pressed(Echo):
    """Ctrl-C is pressed while the second piece of an answer is computed, as often as `presses` says."""

    presses = 1

    def pieces(self, asked: str) -> Sequence[str]:
        return ["one ", "two ", "three "]

    def step(self) -> list[Any]:
        (delta,) = super().step()
        for _ in range(self.presses if delta.text == "two " else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return [delta]


@pytest.mark.parametrize(("presses", "text"), [(1, "one two "), (2, "one ")])
def test_ctrl_c_stops_an_answer_and_what_is_there_stays(
    tok: ChatTokenizer, capsys: pytest.CaptureFixture[str], presses: int, text: str
) -> None:
    engine = Pressed(tok)
    engine.presses = presses
    chat = chat_with(engine, interactive=True)
    assert chat.take("go")
    assert chat.session.messages(0)[-1] == {"role": "assistant", "content": text} and engine.aborted == [1]
    tokens = len(text.split())
    assert f"{text}\n\x1b[2m(stopped; prompt " in (out := capsys.readouterr().out) and f"answer {tokens} tokens" in out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_what_nobody_watches(tok: ChatTokenizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        chat_with(Pressed(tok)).take("go")
    with pytest.raises(KeyboardInterrupt), stopping(False) as is_stopped:
        os.kill(os.getpid(), signal.SIGINT)
        is_stopped()


def test_ctrl_c_twice_at_an_empty_line_leaves(
    tok: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = KeyboardInterrupt
    type_in(monkeypatch, stop, "one", stop, '"""', stop, "two", stop, stop, "never read")
    chat = chat_with(Echo(tok), interactive=True)
    chat.talk(Input(chat_input.plain_line, chat.screen.tell, True))
    assert [message["content"] for message in chat.session.messages(0)][::2] == ["one", "two"] and chat.exit_code == 0
    shown = capsys.readouterr()
    assert shown.err == "Ctrl-C again, or /quit, leaves\n" * 3 and "/help lists the commands" in shown.out
    type_in(monkeypatch, stop)
    chat = chat_with(Echo(tok))
    chat.talk(Input(chat_input.plain_line, chat.screen.tell, False))
    assert chat.exit_code == 130


# ---- thoughts ------------------------------------------------------------------------------------------------------


def test_a_thought_that_the_prompt_begins_is_complete_in_the_turns_to_come(
    tok: ChatTokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo(tok)
    monkeypatch.setattr(engine, "pieces", lambda asked: ["a sum", "</think>", "\n\n4"])
    monkeypatch.setattr(chat_loop, "thought_tokens", lambda tok: SimpleNamespace(state=lambda ids: "inside"))
    chat = chat_with(engine, interactive=True)
    chat.take("2 + 2?")
    assert chat.session.messages(0)[-1]["content"] == "<think>\na sum</think>\n\n4"
    assert "\x1b[2ma sum\x1b[0m\x1b[2m</think>\x1b[0m\n\n4\n" in capsys.readouterr().out


# ---- where the history lies ----------------------------------------------------------------------------------------


def test_the_history_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = chat_input.history_file()
    assert path == tmp_path / "state" / "qwenkit" / "chat_history" and path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.mkdir()
    assert chat_input.history_file() is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert chat_input.history_file() is None
