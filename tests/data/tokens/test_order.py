"""The order of data is a pure function, whole in every epoch, and traceable both ways."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import UserError

some_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def flat(rows):
    return [tuple(segment) for row in rows for segment in row.segments]


@given(some_lengths, st.booleans(), st.integers(0, 5))
def test_every_epoch_holds_every_token_once(lengths, split, epoch):
    order = EpochOrder("digest", 3, lengths, 30, split)
    first = epoch * order.sequences_per_epoch
    rows = [order.sequence_at(first + number) for number in range(order.sequences_per_epoch)]
    counts = [np.zeros(length, int) for length in lengths]
    for document, start, stop in flat(rows):
        counts[document][start:stop] += 1
    assert all((count == 1).all() for count in counts)
    assert {row.epoch for row in rows} == {epoch}


@given(some_lengths, st.booleans(), st.integers(1, 7))
def test_find_is_the_inverse_of_trace(lengths, split, batch_size):
    order = EpochOrder("digest", 3, lengths, 30, split)
    first, last = order.sequences_per_epoch, 2 * order.sequences_per_epoch  # the second epoch
    for document in range(0, len(lengths), 5):
        steps = order.find(document, batch_size, epoch=1)
        shown = [
            n // batch_size
            for n in range(first, last)
            if document in {p.document for p in order.sequence_at(n).segments}
        ]
        assert steps == sorted(set(shown)) and steps
        assert all(document in order.trace(step, batch_size) for step in steps)


def test_the_order_does_not_depend_on_what_was_asked_before():
    lengths = np.arange(1, 60)
    walked, jumped = (EpochOrder("digest", 3, lengths, 32, True) for _ in range(2))
    steps = [walked.sequences(step, 4) for step in range(200)]
    assert jumped.sequences(199, 4) == steps[199] and jumped.sequences(3, 4) == steps[3]


@pytest.mark.parametrize("split", [True, False])
def test_epochs_seeds_and_corpora_are_shuffled_differently(split):
    lengths = np.arange(1, 31)
    base = EpochOrder("digest", 3, lengths, 32, split)
    count = base.sequences_per_epoch
    first = flat(base.sequences(0, count))
    assert flat(base.sequences(1, count)) != first
    assert flat(EpochOrder("digest", 4, lengths, 32, split).sequences(0, count)) != first
    assert flat(EpochOrder("other", 3, lengths, 32, split).sequences(0, count)) != first
    assert flat(EpochOrder("digest", 3, lengths, 32, split).sequences(0, count)) == first


def test_long_conversations_do_not_all_come_first():
    order = EpochOrder("digest", 0, [30] * 50 + [2] * 500, 30, split_documents=False)
    longest = [max(p.stop for p in order.sequence_at(n).segments) for n in range(order.sequences_per_epoch)]
    assert longest != sorted(longest, reverse=True)


def test_too_long_documents_are_reported():
    assert EpochOrder("digest", 0, [5, 50, 6], 30, split_documents=False).dropped_too_long.tolist() == [1]
    with pytest.raises(UserError, match="no sequence can be filled"):
        EpochOrder("digest", 0, [50], 30, split_documents=False)


def test_a_long_document_does_not_fill_a_batch():
    """One document of 80 rows among 320 short ones: its rows are spread over the epoch's batches."""
    order = EpochOrder("digest", 1, [80 * 64] + [64] * 320, seq_length=64, split_documents=True)
    shares = [sum(row.segments[0].document == 0 for row in order.sequences(step, 16)) / 16 for step in range(25)]
    assert max(shares) <= 0.6 and len(order.find(0, 16)) > 20
