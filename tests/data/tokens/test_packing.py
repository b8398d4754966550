"""Every token is placed exactly once, in sequences that are never too long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.data.tokens.packing import pack
from qwenkit.errors import UserError

lengths_of = st.lists(st.integers(0, 40), max_size=60)
seq_lengths_of = st.integers(2, 30)


def placed(sequences, lengths):
    counts = [np.zeros(length, int) for length in lengths]
    for segments in sequences:
        for segment in segments:
            counts[segment.document][segment.start : segment.stop] += 1
    return counts


@given(lengths_of, seq_lengths_of)
def test_split_places_every_token_once_and_in_order(lengths, seq_length):
    sequences = pack(lengths, seq_length, split_documents=True)
    flat = [(p.document, at) for segments in sequences for p in segments for at in range(p.start, p.stop)]
    assert flat == [(document, at) for document, length in enumerate(lengths) for at in range(length)]
    sizes = [sum(p.stop - p.start for p in segments) for segments in sequences]
    assert all(size == seq_length for size in sizes[:-1]) and all(0 < size <= seq_length for size in sizes)
    assert sequences.tokens == sum(lengths) and len(sequences.dropped_too_long) == 0


@given(lengths_of, seq_lengths_of)
def test_whole_documents_are_placed_once_or_reported(lengths, seq_length):
    sequences = pack(lengths, seq_length, split_documents=False)
    assert sequences.dropped_too_long.tolist() == [i for i, length in enumerate(lengths) if length > seq_length]
    for document, count in enumerate(placed(sequences, lengths)):
        assert (count == (0 if document in sequences.dropped_too_long else 1)).all()
    for segments in sequences:
        assert 0 < sum(p.stop - p.start for p in segments) <= seq_length
        assert all((p.start, p.stop) == (0, lengths[p.document]) for p in segments)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.randoms())
def test_shapes_of_best_fit_do_not_depend_on_the_order(lengths, random):
    def shapes(values):
        return sorted(sorted(p.stop for p in segments) for segments in pack(values, 30, split_documents=False))

    shuffled = list(lengths)
    random.shuffle(shuffled)
    assert shapes(lengths) == shapes(shuffled)


def test_best_fit_takes_the_fullest_row_that_fits():
    sequences = [sorted(p.stop for p in segments) for segments in pack([7, 6, 3, 4], 10, split_documents=False)]
    assert sequences == [[3, 7], [4, 6]]


@pytest.mark.timeout(60)  # comparing each document with all open rows would not end
def test_a_hundred_thousand_documents_take_no_time():
    lengths = np.random.default_rng(0).integers(1, 3000, 100_000)
    split, whole = pack(lengths, 2048, split_documents=True), pack(lengths, 2048, split_documents=False)
    assert split.fill > 0.999 and whole.fill > 0.97


def test_a_row_of_one_token_is_refused():
    with pytest.raises(UserError, match="nothing to predict"):
        pack([3], 1, split_documents=True)
