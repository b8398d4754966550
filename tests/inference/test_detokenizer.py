"""The text of an answer that grows: what a token costs, and the pieces of it."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.inference import SamplingParams
from qwenkit.inference.detokenizer import GrowingText, IncrementalDetokenizer

from .conftest import Bytes


@given(st.lists(st.text(max_size=5) | st.integers(0, 12), max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_a_growing_text_is_a_string(pieces: list[str | int], start: int, stop: int) -> None:
    """Text is added at the end, a number cuts there, and what was read between them changes nothing."""
    text, wanted = GrowingText(), ""
    for piece in pieces:
        if isinstance(piece, int):
            text.cut(piece)
            wanted = wanted[:piece]
        else:
            text.append(piece)
            wanted += piece
        assert text.part(start, stop) == wanted[start:stop] and text.part(start) == wanted[start:]
    assert (str(text), len(text)) == (wanted, len(wanted))


@pytest.mark.parametrize("stop", [None, ["<|im_end|>", "never said"]])
def test_a_token_costs_its_own_text_and_not_the_whole(stop: list[str] | None) -> None:
    detokenizer = IncrementalDetokenizer(Bytes(), SamplingParams(stop=stop))
    for _ in range(100_000):
        detokenizer.push(97)
    peaks = []
    for _ in range(5):  # one of which may make room for more
        tracemalloc.start()
        detokenizer.push(98)
        assert detokenizer.part(detokenizer.settled - 1, detokenizer.settled) in ("a", "b")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 20_000
    assert detokenizer.finish() == "a" * 100_000 + "b" * 5
