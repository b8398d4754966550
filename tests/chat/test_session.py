"""The conversation in the terminal, with an engine that answers what it was asked."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from qwenkit.chat import ChatTokenizer
from qwenkit.chat.session import talk
from qwenkit.errors import UserError


class Echo:
    """Streams the last user turn back, in two pieces; refuses prompts that are too long, as the engine does."""

    max_length, max_window = 200, None

    def __init__(self, tok: ChatTokenizer) -> None:
        self.tok = tok
        self.prompts: list[str] = []

    def stream_chat(self, messages: Sequence[dict[str, str]], params: Any) -> Iterator[str]:
        prompt = self.tok.render(messages, add_generation_prompt=True).ids
        if len(prompt) >= self.max_length:
            raise UserError(f"{len(prompt)} tokens", where="prompt")
        text = self.tok.decode(prompt)
        self.prompts.append(text)
        asked = text.rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>")[0]
        return iter(["you said ", asked])


def _type(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    typed = iter(lines)

    def read(_: str) -> str:
        for line in typed:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)


def test_a_conversation_keeps_its_history_until_told_to_forget(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tiny)
    _type(monkeypatch, "one", "", "two", "/clear", "three", "/quit", "never read")
    talk(engine, tiny, None, "Be kind.", None)
    assert [(text.count("<|im_start|>"), "Be kind." in text) for text in engine.prompts] == [
        (3, True),
        (5, True),
        (3, True),
    ]
    assert capsys.readouterr().out.splitlines()[1:] == ["you said one", "you said two", "you said three"]


def test_turns_that_no_longer_fit_are_forgotten_and_that_is_said(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tiny)
    _type(monkeypatch, "one", "two", "three", "four")
    engine.max_length = 64 + len(tiny.render([{"role": "user", "content": "three"}]).ids) + 40
    talk(engine, tiny, None, None, None)
    assert "one" not in engine.prompts[-1] and "three" in engine.prompts[-1]
    assert "(the model no longer sees the oldest " in capsys.readouterr().err


def test_a_question_that_cannot_be_asked_costs_no_conversation(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(tiny)
    _type(monkeypatch, "one", "much " * 300, "two")
    talk(engine, tiny, None, None, None)
    assert "much" not in engine.prompts[-1] and "you said one" in engine.prompts[-1]
    said = capsys.readouterr()
    assert said.err.startswith("error: prompt: ") and "you said two" in said.out


class Asked(Echo):
    """Keeps with what each answer was asked for."""

    def stream_chat(self, messages: Sequence[dict[str, str]], params: Any, **options: Any) -> Iterator[str]:
        self.options = options
        return iter([self.tok.decode(self.tok.render(messages, add_generation_prompt=True, **options).ids)])


@pytest.mark.parametrize("prompt", [None, "one"])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_thoughts_are_asked_for_and_counted(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, thinking: bool | None, prompt: str | None
) -> None:
    tok = ChatTokenizer(tiny, "qwen3")
    engine, seen = Asked(tok), []
    render = tok.render
    monkeypatch.setattr(tok, "render", lambda *args, **options: seen.append(options) or render(*args, **options))
    _type(monkeypatch, "one")
    talk(engine, tok, None, None, prompt, None, thinking)
    assert engine.options == ({} if thinking is None else {"thinking": thinking})
    assert len(seen) > 1 and {options.get("thinking") for options in seen} == {thinking}, "also for what fits"


def test_a_line_that_is_no_text_is_said_and_the_next_one_read(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, typed = Echo(tiny), io.TextIOWrapper(io.BytesIO(b"caf\xe9 \xe4\xbd\nnext\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    talk(engine, tiny, None, None, None)
    said = capsys.readouterr()
    assert said.err == "error: this line is not text in utf-8; it was not asked\n" and "you said next" in said.out


def test_a_closed_input_is_at_its_end(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    talk(Echo(tiny), tiny, None, None, None)
    assert capsys.readouterr().out == "/clear forgets, /quit leaves\n"


def test_what_the_folder_asks_for_in_vain_is_said_once(
    tiny: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tok = ChatTokenizer(tiny)
    tok.remarks = ("a setting is not known here",)
    _type(monkeypatch, "one", "two")
    talk(Echo(tok), tok, None, None, None)
    assert capsys.readouterr().err == "note: a setting is not known here\n"
