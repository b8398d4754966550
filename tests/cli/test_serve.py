"""`qwenkit serve`: what is refused before anything is loaded, and the start screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.cli.serve import KEY_VARIABLE, start_screen
from tests.errors.desk import call

PUBLIC = (
    "error: --host 0.0.0.0: without a key everybody on the network may ask this server\n"
    "  expected: --api-key-file FILE, or QWENKIT_API_KEY in the environment\n"
    "  hint: --host 127.0.0.1 is for this machine alone; --allow-public-without-key is for everybody\n"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("serve nowhere", "error: nowhere: no such folder\n"
         "  expected: a folder of a model, a GGUF file, or org/name of the Hub\n"),
        ("serve . --host 0.0.0.0", PUBLIC),
        ("serve . --alias small", "error: --alias small\n  expected: NAME=MODEL, each name once\n"
         "  hint: --alias small=runs/nano/chat\n"),
        ("serve . --api-key short", "error: the key of default: 5 characters\n  expected: 16 to 512\n"
         "  hint: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one\n"),
        ("serve . --api-key sk-0123456789abcdef --api-key-file keys.toml",
         "error: qwenkit serve: a key and a key file\n"
         "  expected: one of them\n  hint: put the key of --api-key or QWENKIT_API_KEY into the file\n"),
        ("serve . --api-key-file keys.toml",
         "error: keys.toml: the key file cannot be read (No such file or directory)\n"),
        ("serve . --log no/such/log",
         "error: --log no/such/log: the log cannot be written (No such file or directory)\n"),
        ("serve . --drain-timeout inf",
         "error: limits of the server: drain_seconds = inf\n  expected: a number above 0\n"),
        ("serve . --allow-host http://api.example.org",
         "error: --allow-host http://api.example.org: no request names the server like this\n"
         "  expected: a name without scheme and port, such as api.example.org; or *\n"),
        ("serve . --allow-origin chat.example.org",
         "error: --allow-origin chat.example.org: no page has this origin\n"
         "  expected: scheme and name, such as https://chat.example.org; or *\n"),
        ("serve . --idle-timeout 0",
         "error: qwenkit serve: Invalid value for '--idle-timeout': Input should be greater than or equal to 1\n"
         "  expected: qwenkit serve [OPTIONS] {MODEL}...\n  hint: qwenkit serve --help\n"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    code, out, err = call(line)
    assert (code, out, err) == (2, "", message)


def test_a_page_without_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gradio" else find(name, *more)
    )
    code, out, err = call(f"serve {tmp_path} --ui")
    assert (code, out, err) == (
        2, "", "error: qwenkit serve --ui: gradio not installed\n  expected: the extra `ui`\n"
        "  hint: pip install 'qwenkit[ui]'\n",
    )  # fmt: skip


def test_a_key_of_the_environment_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-0123456789abcdef")
    code, _, err = call(f"serve {tmp_path} nowhere --host 0.0.0.0")
    assert code == 2 and err.startswith("error: nowhere: no such folder")


def test_a_folder_without_a_model_and_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    code, out, err = call(f"serve {tmp_path} --port 0 --log none")
    assert code == 2 and "loading" in out and err.startswith("error: ") and "no tokenizer in this folder" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = call(f"serve {tmp_path} --port {port}")
    assert (code, out) == (2, "") and f"port {port} is in use" in err


def test_the_start_screen() -> None:
    assert start_screen("nano", "runs/nano/chat", 2048, "http://127.0.0.1:8000").splitlines() == [
        "serving  nano  (runs/nano/chat, 2,048 tokens)",
        "at       http://127.0.0.1:8000/v1   (Ctrl-C ends it)",
        "",
        "  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\",
        """    -d '{"model": "nano", "messages": [{"role": "user", "content": "Hello!"}]}'""",
    ]
    assert "page     http://127.0.0.1:8000/ui/" in start_screen("nano", "x", 1, "http://127.0.0.1:8000", has_page=True)
    assert "page" not in start_screen("nano", "x", 1, "unix:/run/q", has_page=True)
    assert "curl --unix-socket /run/q http://localhost/v1" in start_screen("nano", "x", 1, "unix:/run/q")
