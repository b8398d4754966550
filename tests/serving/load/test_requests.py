"""What a load test asks: made from a seed, or read from a file, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenkit.errors import UserError
from qwenkit.serving.load.requests import Lengths, made_requests, read_api, read_requests


def test_requests_are_functions_of_seed_and_number() -> None:
    ask, again = (made_requests(3, Lengths(4, 9), Lengths(2, 5)) for _ in range(2))
    asked = [ask(number) for number in range(200)]
    assert asked == [again(number) for number in range(200)] and asked != [
        made_requests(4, Lengths(4, 9), Lengths(2, 5))(0)
    ]
    assert {len(str(request.prompt).split()) for request in asked} == {4, 5, 6, 7, 8, 9}
    assert {request.max_tokens for request in asked} == {2, 3, 4, 5}
    assert len({str(request.prompt).split()[0] for request in asked}) == 200, "no two begin alike"


def test_bodies() -> None:
    request = made_requests(0, Lengths(2, 2), Lengths(7, 7))(5)
    assert request.body("completions") == {"prompt": request.prompt, "max_tokens": 7}
    assert request.body("chat") == {"messages": [{"role": "user", "content": request.prompt}], "max_tokens": 7}


@pytest.mark.parametrize(("text", "lengths"), [("64", Lengths(64, 64)), ("16-256", Lengths(16, 256))])
def test_lengths(text: str, lengths: Lengths) -> None:
    assert Lengths.parse(text, "--prompt-tokens") == lengths


@pytest.mark.parametrize("text", ["", "0", "-1", "5-3", "1.5", "many", "1-", "9999999"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UserError) as caught:
        Lengths.parse(text, "--prompt-tokens")
    assert str(caught.value) == (
        f"--prompt-tokens: {text!r} is not a number of tokens\n  expected: such as 64, or 16-256"
    )


def test_the_api_that_was_meant() -> None:
    with pytest.raises(UserError) as caught:
        read_api("completion", "--api")
    assert str(caught.value) == (
        "--api: `completion` is not an API\n  expected: chat or completions\n  nearest: completions"
    )


def test_a_file_is_read_again_and_again(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}], "max_tokens": 9}\n')
    ask = read_requests(file, Lengths(3, 3), seed=0)
    assert [(ask(number).prompt, ask(number).max_tokens) for number in range(4)] == [("a", 3), (None, 9)] * 2
    assert ask(1).body("chat") == {"messages": [{"role": "user", "content": "b"}], "max_tokens": 9}
    file.write_text('{"prompt": [1, 2]}')
    assert read_requests(file, Lengths(3, 3), 0, "completions")(7).body("completions") == {
        "prompt": [1, 2], "max_tokens": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "a line without a prompt\n  expected: `prompt` or `messages`"),
        ('{"text": "a"}', "a line without a prompt\n  expected: `prompt` or `messages`"),
        (
            '{"prompt": "a", "messages": [{"role": "user"}]}',
            "a line with `prompt` and `messages`\n  expected: `prompt` or `messages`",
        ),
        ('{"prompt": 3}', "`prompt` is neither a string nor a list of token ids"),
        ('{"prompt": [1, true]}', "`prompt` is neither a string nor a list of token ids"),
        ('{"prompt": [1, -1]}', "`prompt` is neither a string nor a list of token ids"),
        ('{"prompt": [1, 2]}', "token ids for the API of chats\n  hint: --api completions"),
        ('{"messages": []}', '`messages` are not a conversation\n  expected: [{"role": ..., "content": ...}, ...]'),
        ('{"messages": ["a"]}', '`messages` are not a conversation\n  expected: [{"role": ..., "content": ...}, ...]'),
        ('{"prompt": "a", "max_tokens": 0}', "`max_tokens` is not a number of tokens\n  expected: 1 to 1000000"),
        ('{"prompt": "a", "max_tokens": 1.5}', "`max_tokens` is not a number of tokens\n  expected: 1 to 1000000"),
        ("[]", "a list where an object was expected\n  expected: one JSON object a line"),
    ],
)
def test_lines_that_are_no_requests(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises(UserError) as caught:
        read_requests(file, Lengths(3, 3), seed=0)
    assert str(caught.value) == f"{file}, line 2: {message}"


def test_conversations_are_not_for_completions(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "b"}]}')
    with pytest.raises(UserError) as caught:
        read_requests(file, Lengths(3, 3), 0, "completions")
    assert str(caught.value) == (
        f"{file}, line 1: `messages` for the API of completions\n  hint: --api chat, or `prompt`"
    )


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(UserError) as caught:
        read_requests(tmp_path / "p.jsonl", Lengths(3, 3), seed=0)
    assert caught.value.what == "no prompts in this file"
