"""The host's side of the conversation takes nothing on trust."""

from __future__ import annotations

import random

import pytest

from qwenkit.sandbox.session import Clipped, SandboxError, parse

HEAD = bytes(8)


def test_clipped_keeps_front_and_end() -> None:
    """Against a plain slice, for streams in parts of any size."""
    draw = random.Random(0)
    for _ in range(200):
        limit, data = draw.randrange(1, 50), bytes(draw.randrange(256) for _ in range(draw.randrange(120)))
        clipped, at = Clipped(limit), 0
        while at < len(data):
            size = draw.randrange(1, 40)
            clipped.add(data[at : at + size])
            at += size
        end = limit // 2
        whole = len(data) <= limit
        expected = data if whole else data[: limit - end] + data[len(data) - end :]
        assert clipped.value() == (expected, len(data) - len(expected))


def test_clipped_does_not_grow() -> None:
    clipped = Clipped(1000)
    for _ in range(100):
        clipped.add(b"x" * 100_000)
    assert len(clipped.front) + len(clipped.end) < 400_000
    assert clipped.value() == (b"x" * 1000, 10_000_000 - 1000)


def test_an_answer() -> None:
    answer = parse(HEAD + b"result -9 timeout 1.5 0.25\nomitted 2\nfile 3 4\na\nbwxyzend\n")
    assert answer is not None
    assert (answer.code, answer.cause, answer.seconds, answer.cpu_seconds, answer.omitted) == (
        -9,
        "timeout",
        1.5,
        0.25,
        2,
    )
    assert answer.files == {"a\nb": b"wxyz"}


@pytest.mark.parametrize(
    "text",
    [b"", b"end", b"result\nend\n", b"result x - 1 1\nend\n", b"file 3 99999\nabc\nend\n", b"file -1 5\nabcend\n",
     b"file 1\nend\n", b"unknown\nend\n", b"result 0 - nan\n", b"\xff\xfe\nend\n",
     b"file 99999999999999999999 1\nend\n"],
)  # fmt: skip
def test_what_is_not_an_answer(text: bytes) -> None:
    assert parse(HEAD + text) is None


def test_a_supervisor_that_complains() -> None:
    with pytest.raises(SandboxError, match="the sandbox broke: OSError: no space"):
        parse(HEAD + b"broken OSError: no space\nend\n")


def test_answers_of_chance_are_refused_or_parsed() -> None:
    draw = random.Random(1)
    words = [b"file ", b"result ", b"end\n", b"omitted ", b"1 ", b"-", b"\n", b"99 ", b"x", b"\0", b"failed "]
    for _ in range(3000):
        parse(HEAD + b"".join(draw.choices(words, k=draw.randrange(12))))
