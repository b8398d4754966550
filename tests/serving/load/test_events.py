"""Events from bytes that are cut anywhere, and what their data says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.serving.load.events import BrokenStream, Chunk, EventReader, body_message, read_chunk

STREAM = b': hello\n\ndata: {"a": 1}\n\nevent: x\r\nid: 3\r\ndata: one\r\ndata:two\r\n\r\ndata\n\n\rdata: [DONE]\r\r'
EVENTS = [b'{"a": 1}', b"one\ntwo", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    places, reader = [0, *sorted(cuts), len(STREAM)], EventReader()
    pieces = [reader.push(STREAM[start:stop]) for start, stop in itertools.pairwise(places)]
    last = reader.push(b"\n")  # so that the carriage return at the end is known to be one
    assert [event for piece in [*pieces, last] for event in piece] == EVENTS


def test_what_is_not_ended_is_no_event() -> None:
    assert EventReader().push(b"data: 1\n\ndata: 2\n") == [b"1"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 90, b"data: " + b"x" * 40 + b"\ndata: " + b"x" * 50 + b"\n"])
def test_an_event_that_is_too_long(line: bytes) -> None:
    with pytest.raises(BrokenStream, match="more than 80 bytes"):
        EventReader(most=80).push(line)


@pytest.mark.parametrize(
    ("data", "chunk"),
    [
        ('{"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}', Chunk(True, None, None, None)),
        ('{"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}', Chunk(False, "stop", None, None)),
        ('{"choices": [{"text": "a", "finish_reason": "length"}], "usage": null}', Chunk(True, "length", None, None)),
        ('{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}', Chunk(False, None, 3, 4)),
        ('{"choices": [], "usage": {"prompt_tokens": true, "completion_tokens": -1}}', Chunk(False, None, None, None)),
        ('{"choices": [7, null, {"delta": []}], "usage": []}', Chunk(False, None, None, None)),
        ('{"choices": 7, "error": null}', Chunk(False, None, None, None)),
        ("{}", Chunk(False, None, None, None)),
    ],
)
def test_what_a_chunk_says(data: str, chunk: Chunk) -> None:
    assert read_chunk(data.encode()) == chunk


@given(st.binary(max_size=60))
def test_nothing_else_is_raised(data: bytes) -> None:
    try:
        read_chunk(data)
    except BrokenStream as error:
        assert error.kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "no"}', "no"),
        (b'{"detail": 7}', '{"detail": 7}'),
        (b'"no"', "no"),
        (b"<p>no</p>", "<p>no</p>"),
        (b"\xff", "\ufffd"),
    ],
)
def test_what_an_error_says(body: bytes, message: str) -> None:
    assert body_message(body) == message
