"""`qwenkit bench --url`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenkit.cli import load as command
from qwenkit.serving.load.loops import LoadPlan, Progress
from tests.errors.desk import call
from tests.serving.load import odd_server
from tests.serving.load.odd_server import OddServer, on_a_thread, plain

pytest.importorskip("aiohttp", reason="the extra `load` is not installed")


def test_for_people_and_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    out, plot = tmp_path / "o.json", tmp_path / "p.svg"
    with on_a_thread(server := OddServer(odd_server.good)) as url:
        code, shown, err = call(
            f"bench --url {url} --clients 2 --requests 6 --answer-tokens 4 --key-variable A_KEY --slo-ttft 60000 "
            f"--ignore-eos --body '{{\"top_k\": 1}}' --out {out} --plot {plot}"
        )
        assert (code, err) == (0, ""), err
        report = json.loads(call(f"bench --url {url} --requests 2 --model other --json")[1])
    head, body = server.requests[1]  # the first one asks for the names of models
    assert "authorization: bearer secret" in head.lower()
    assert (body["model"], body["top_k"], body["ignore_eos"], body["max_tokens"]) == ("odd", 1, True, 4)
    lines = shown.splitlines()
    assert lines[0] == f"odd at {url}/v1 (chat)" and lines[1].startswith("2 clients, ")
    assert lines[1].endswith("s: 6 requests, 6 finished")
    assert [line.split()[0] for line in lines if line][2:] == [
        "ms", "first", "inter-token", "per", "end", "answers", "prompts", "goodput", "fairness", "client"
    ]  # fmt: skip
    assert "24 tokens, by the server's usage, 1.00 a chunk" in shown and "goodput  100.0% of the requests" in shown
    assert plot.read_text().startswith("<?xml") and "secret" not in out.read_text()
    written = json.loads(out.read_text())
    assert written["finished"] == 6 and [row["answer_tokens"] for row in written["each"]] == [4] * 6
    assert report["settings"]["model"] == "other" and report["finished"] == 2 and report["goodput"] is None


def test_errors_are_told_by_kind(tmp_path: Path) -> None:
    answer = odd_server.in_turn(odd_server.good, odd_server.drops)
    with on_a_thread(OddServer(answer)) as url:
        code, shown, _ = call(f"bench --url {url} --clients 1 --requests 4 --answer-tokens 2")
    assert (
        code == 0 and "4 requests, 2 finished, 2 with errors" in shown and "errors   2 times connection lost" in shown
    )


def test_where_nothing_is_answered() -> None:
    busy = plain("503 Service Unavailable", b'{"error": {"message": "loading \\u001b[31m"}}', "application/json",
                 "Retry-After: 0")  # fmt: skip
    with on_a_thread(OddServer(busy)) as url:
        code, shown, err = call(f"bench --url {url} --requests 3 --clients 3")
    assert code == 1 and "3 requests, 0 finished, 3 with errors" in shown and "\x1b" not in shown + err
    assert err == f"error: {url}/v1: no request was answered\n  hint: loading \\x1b[31m\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "qwenkit bench: nothing to measure\n  expected: a model, or --url and a server"),
        (
            "m --url http://a",
            "qwenkit bench: a model of this machine and a server\n  expected: a model, or --url and a server\n"
            "  hint: --model m, if it is the server's",
        ),
        ("m --seed 3", "qwenkit bench: --seed without a server\n  expected: --url URL with it"),
        ("m --slo-ttft 3", "qwenkit bench: --slo-ttft without a server\n  expected: --url URL with it"),
        (
            "--url http://a --quick",
            "qwenkit bench: --threads, --quick or --accept-unknown with a server\n  expected: a model with them",
        ),
        (
            "--url http://a --clients 3 --rate 2",
            "qwenkit bench: --clients and --rate\n  expected: one of them\n"
            "  hint: clients ask again when they were answered, requests at a rate in any case",
        ),
        ("--url http://a --rate 0", "--rate 0\n  expected: a number above 0"),
        ("--url http://a --rate nan", "--rate nan\n  expected: a number above 0"),
        ("--url http://a --duration inf", "--duration inf\n  expected: a number above 0"),
        (
            "--url http://a --api chats",
            "--api: `chats` is not an API\n  expected: chat or completions\n  nearest: chat",
        ),
        (
            "--url http://a --answer-tokens 5-3",
            "--answer-tokens: '5-3' is not a number of tokens\n  expected: such as 64, or 16-256",
        ),
        ("--url a", "a: this is not the address of a server\n  expected: such as http://127.0.0.1:8000"),
        ("--url http://a --body 1", "--body: this is not a JSON object\n  expected: such as '{\"temperature\": 0}'"),
        ("--url http://a --plot p.txt", "p.txt: this is not the name of a picture\n  expected: .svg, .png, .pdf"),
        ("--url http://a --out no/o.json", "no: there is no such folder"),
        ("--url http://a --prompts p.jsonl --prompt-tokens 3", "qwenkit bench: --prompts and --prompt-tokens\n"
         "  expected: one of them"),
    ],
)  # fmt: skip
def test_refusals(options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(f"bench {options}") == (2, "", f"error: {message}\n")


def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENKIT_API_KEY", "a\nb")
    assert call("bench --url http://a")[2] == "error: QWENKIT_API_KEY: this key is not one line of ASCII\n"


def test_a_server_that_is_not_there_or_names_nothing() -> None:
    with on_a_thread(OddServer(odd_server.good, plain("404 Not Found", b""))) as url:
        code, _, err = call(f"bench --url {url}")
    message = f"error: {url}/v1: the server does not tell the names of its models\n  hint: --model NAME\n"
    assert (code, err) == (2, message)
    code, _, err = call(f"bench --url {url}")
    assert (code, err) == (2, f"error: {url}/v1: the server cannot be reached (Connection refused)\n"
                              "  hint: is it running, and is this its address?\n")  # fmt: skip


def test_how_far_it_is() -> None:
    assert command.progress_text(Progress(10, 1234, 16, 0, 5000, 75.2)) == (
        "1,234 requests, 16 open, 500 tokens/s, 1:15 left"
    )
    assert command.progress_text(Progress(0, 0, 1, 2, 0, None)) == "0 requests, 2 errors, 1 open, 0 tokens/s"
    assert command.load_text(LoadPlan(rate=2.5)) == "2.5 requests a second"
