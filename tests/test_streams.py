"""What goes to a terminal and through the standard streams: text of anybody's moves no cursor, is no markup, and a
stream that is closed, full, or holds no text is told of in words. Output is buffered, as a user has it: where it is
not, the faults of the last flush are hidden.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from qwenkit.chat.session import Session
from qwenkit.cli import app
from qwenkit.cli.chat_loop import Chat, Screen, start
from qwenkit.errors import UserError, visible

HOSTILE = "[/x][red]a\x1b]0;title\x07\x1b[2J\r\x9b1m\u202eb\u2066c:smile:\x7f"
SHOWN = "[/x][red]a\\x1b]0;title\\x07\\x1b[2J\\r\\x9b1m\\u202eb\\u2066c:smile:\\x7f"


def test_what_moves_the_cursor_is_shown() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("中文\n\tא\u200fב क\u094d\u200dष \U0001f468\u200d\U0001f469") == (
        "中文\n\tא\u200fב क\u094d\u200dष \U0001f468\u200d\U0001f469"
    )


def test_a_console_takes_nothing_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("node", HOSTILE, box=None)
    table.add_row(HOSTILE, "[/]")
    console = app.terminal()
    console.width = 400
    console.print(HOSTILE)
    console.print(table)
    app.say(HOSTILE)
    assert capsys.readouterr().out.count(SHOWN) == 4


def test_json_for_programs_is_exact_and_obeyed_by_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    app.print_json({"a": HOSTILE, HOSTILE: 1})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": HOSTILE, HOSTILE: 1}
    assert out.replace("\n", "").isprintable()
    app.print_json([float("nan"), {"a": (float("inf"), 1.5)}])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [None, {"a": [None, 1.5]}]


def test_json_for_programs_in_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    stream = io.TextIOWrapper(held, "latin-1", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    app.print_json(["\U0001f600", "é", "\udc80"])
    stream.flush()
    assert json.loads(held.getvalue().decode("latin-1")) == ["\U0001f600", "é", "\udc80"]


@pytest.mark.parametrize("styled", [True, False])
def test_an_answer_in_pieces_sends_no_escape(styled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    class Answer:
        in_thought = False

        def __iter__(self) -> Iterator[str]:
            yield from ["a\x1b", "[2J", "b\r\n", "中"]

    class Player:
        tok = SimpleNamespace(remarks=("\x1b[1m",))

    screen = Screen(styled)
    screen.show(Answer(), lambda: False)
    chat = Chat(Session(()), [Player()], screen, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        start(chat, None)
    shown = capsys.readouterr()
    assert shown.out == "a\\x1b[2Jb\\r\n中\n" and shown.err == "note: \\x1b[1m\n"


def test_standard_input_is_text_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8", errors="surrogateescape"))

    given("中\n".encode())
    assert app.read_stdin() == "中\n"
    given(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        app.read_stdin()
    given(b"a" * 101)
    monkeypatch.setattr(app, "CONFIG_BYTES", 100)
    with pytest.raises(UserError, match="does not end"):
        app.read_stdin()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="closed"):
        app.read_stdin()


@pytest.fixture(name="tokenizer")
def _tokenizer(tmp_path: Path) -> Path:
    file = tmp_path / "qwen.tiktoken"
    file.write_bytes(b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256)))
    return file


STREAMS = {
    "a full disk": ("recipes", "> /dev/full", 2, "standard output cannot be written (No space left on device)"),
    "a full disk, JSON": ("recipes --json", "> /dev/full", 2, "standard output cannot be written"),
    "nobody reads": ("recipes", "| true", 0, ""),
    "no output": ("recipes", ">&-", 0, ""),
    "no output for errors": ("status nothing", "2>&-", 2, ""),
    "no input": ("inspect tokens - --tokenizer {}", "<&-", 2, "standard input is closed"),
    "no streams": ("inspect tokens hi --tokenizer {}", "<&- >&- 2>&-", 0, ""),
    "no text": ("inspect tokens - --tokenizer {}", "< {}.gbk", 2, "standard input is not UTF-8"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_fails_is_told_of(case: str, tokenizer: Path, tmp_path: Path) -> None:
    command, streams, code, message = STREAMS[case]
    Path(f"{tokenizer}.gbk").write_bytes("中文".encode("gbk"))
    line = f"{sys.executable} -m qwenkit.cli {command} {streams}".replace("{}", str(tokenizer))
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONUTF8", "PYTHONIOENCODING")}
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=tmp_path, env={**clean, "LC_ALL": "C.UTF-8"})
    said = done.stderr.decode()
    assert done.returncode == code and message in said
    assert not any(word in said for word in ("Traceback", "Exception", "Error"))
    assert message or not said
