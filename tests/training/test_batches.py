"""Targets are the next tokens of the same document, each learnt once, on any number of workers."""

import numpy as np
import pytest

from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import UserError
from qwenkit.training.batches import Batches, build_batch, validation_batches
from tests.training.conftest import make_store


@pytest.mark.parametrize("split", [True, False])
def test_every_token_but_the_first_is_learnt_once_with_its_weight(split):
    store = make_store()
    batches = validation_batches(store, 32, 4, split)
    learnt = sum(batch.weight for batch in batches)
    assert learnt == pytest.approx(sum(store.weights(d, 1, n).sum() for d, n in enumerate(store.lengths)))
    assert sum(batch.tokens for batch in batches) == store.lengths.sum()


def test_targets_follow_inputs_inside_a_document_and_across_the_cut():
    store = make_store()
    for batch in validation_batches(store, 32, 4, split_documents=True):
        inputs, targets = batch.ids_BT[batch.weights_BT > 0], batch.targets_BT[batch.weights_BT > 0]
        assert ((inputs + 1) % 48 == targets).all()  # the corpus counts upwards


def test_documents_number_the_pieces_and_padding_is_minus_one():
    store = make_store()
    order = EpochOrder(store.digest, 0, store.lengths, 32, split_documents=False)
    row = order.sequence_at(0)
    batch = build_batch(store, [row], 32)
    expected = np.repeat(np.arange(len(row.segments)), [segment.stop for segment in row.segments])
    assert batch.documents_BT[0, : len(expected)].tolist() == expected.tolist()
    assert (batch.documents_BT[0, len(expected) :] == -1).all() and not batch.weights_BT[0, len(expected) :].any()


def test_two_workers_see_what_one_sees():
    store = make_store()
    order = EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True)
    one = Batches(store, order, 4)(3)[0]
    two = [Batches(store, order, 4, rank=rank, world=2)(3)[0] for rank in range(2)]
    numbers = [(row.epoch, row.number) for row in one.rows]
    assert sorted((row.epoch, row.number) for part in two for row in part.rows) == sorted(numbers)


def test_fingerprints_tell_batches_apart_and_rows_are_described():
    store = make_store()
    batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True), 4)
    prints = [batches(step)[0].fingerprint for step in (0, 1, 0)]
    assert prints[0] == prints[2] != prints[1]
    assert "0:0" in batches(0)[0].describe() and "doc-" in batches(0)[0].describe()


def test_micro_batches_must_divide_the_batch():
    store = make_store()
    with pytest.raises(UserError, match="micro-batches of 3"):
        Batches(store, EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True), 4, micro_batch_size=3)
