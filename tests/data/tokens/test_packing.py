"""Every token is placed exactly once, in rows that are never too long."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.data.tokens.packing import pack
from qwenkit.errors import UserError

lengths_of = st.lists(st.integers(0, 40), max_size=60)
rows_of = st.integers(2, 30)


def placed(rows, lengths):
    counts = [np.zeros(length, int) for length in lengths]
    for row in rows:
        for piece in row:
            counts[piece.document][piece.start : piece.stop] += 1
    return counts


@given(lengths_of, rows_of)
def test_split_places_every_token_once_and_in_order(lengths, row):
    rows = pack(lengths, row, split=True)
    flat = [(p.document, at) for pieces in rows for p in pieces for at in range(p.start, p.stop)]
    assert flat == [(document, at) for document, length in enumerate(lengths) for at in range(length)]
    sizes = [sum(p.stop - p.start for p in pieces) for pieces in rows]
    assert all(size == row for size in sizes[:-1]) and all(0 < size <= row for size in sizes)
    assert rows.tokens == sum(lengths) and len(rows.too_long) == 0


@given(lengths_of, rows_of)
def test_whole_documents_are_placed_once_or_reported(lengths, row):
    rows = pack(lengths, row, split=False)
    assert rows.too_long.tolist() == [i for i, length in enumerate(lengths) if length > row]
    for document, count in enumerate(placed(rows, lengths)):
        assert (count == (0 if document in rows.too_long else 1)).all()
    for pieces in rows:
        assert 0 < sum(p.stop - p.start for p in pieces) <= row
        assert all((p.start, p.stop) == (0, lengths[p.document]) for p in pieces)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.randoms())
def test_shapes_of_best_fit_do_not_depend_on_the_order(lengths, random):
    def shapes(values):
        return sorted(sorted(p.stop for p in pieces) for pieces in pack(values, 30, split=False))

    shuffled = list(lengths)
    random.shuffle(shuffled)
    assert shapes(lengths) == shapes(shuffled)


def test_best_fit_takes_the_fullest_row_that_fits():
    rows = [sorted(p.stop for p in pieces) for pieces in pack([7, 6, 3, 4], 10, split=False)]
    assert rows == [[3, 7], [4, 6]]


def test_a_hundred_thousand_documents_take_no_time():
    lengths = np.random.default_rng(0).integers(1, 3000, 100_000)
    started = time.perf_counter()
    split, whole = pack(lengths, 2048, split=True), pack(lengths, 2048, split=False)
    assert time.perf_counter() - started < 4
    assert split.fill > 0.999 and whole.fill > 0.97


def test_a_row_of_one_token_is_refused():
    with pytest.raises(UserError, match="nothing to predict"):
        pack([3], 1, split=True)
