"""Targets are the next tokens of the same document, each learnt once, in any number of processes."""

import numpy as np
import pytest

from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.errors import UserError
from qwenkit.training.batches import Batches, build_batch, validation_batches
from tests.training.conftest import make_store
from tests.training.worlds import Echo


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


def test_two_processes_see_what_one_sees():
    store = make_store()
    order = EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True)
    (one,) = Batches(store, order, 4)(3).micro_batches
    two = [Batches(store, order, 4, world=Echo(rank, 2))(3).micro_batches[0] for rank in range(2)]
    numbers = [(row.epoch, row.number) for row in one.rows]
    assert sorted((row.epoch, row.number) for part in two for row in part.rows) == sorted(numbers)


def chats(count: int = 40) -> InMemoryTokenDataset:
    """Chats with weights that float64 cannot sum in any order alike, and plain texts between them."""
    random = np.random.default_rng(4)

    def example(number: int) -> Example:
        length = int(random.integers(4, 16))
        content = None if number % 3 == 0 else (random.random(length) < 0.5).tolist()
        weights = random.choice([0.0, 0.1, 1e-9, 1e7], length)
        return Example(f"chat-{number}", random.integers(0, 48, length), weights.tolist(), content)

    return InMemoryTokenDataset(example(number) for number in range(count))


def numbers_of(batch):
    return batch.weight, batch.content, batch.tokens, batch.fingerprint


@pytest.mark.parametrize("size", [2, 4, 8])
def test_every_process_knows_the_numbers_of_the_whole_step(size):
    """To the bit, without a word between them, and whatever the size of a micro-batch."""
    store = chats()
    order = EpochOrder(store.digest, 0, store.lengths, 32, split_documents=False)
    one = [numbers_of(Batches(store, order, 8)(step)) for step in range(9)]
    assert one == [numbers_of(Batches(store, order, 8, 2)(step)) for step in range(9)]
    for rank in range(size):
        assert one == [numbers_of(Batches(store, order, 8, world=Echo(rank, size))(step)) for step in range(9)]


def test_the_numbers_of_a_step_are_those_of_its_micro_batches():
    store = chats()
    batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 32, split_documents=False), 8, 2)
    for step in range(9):
        batch = batches(step)
        parts = batch.micro_batches
        assert batch.weight == pytest.approx(sum(part.weight for part in parts), rel=1e-15)
        assert batch.tokens == sum(part.tokens for part in parts)
        assert batch.content == sum(part.content or 0 for part in parts)


def test_what_is_supervised_is_known_on_the_host():
    batch = validation_batches(make_store(), 32, 4, split_documents=True)[0]
    assert batch.supervised_N.tolist() == batch.weights_BT.flatten().nonzero().squeeze(1).tolist()
    assert batch.to("meta").supervised_N.device.type == "meta"


def test_fingerprints_tell_steps_apart_and_rows_are_described():
    store = make_store()
    batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True), 4)
    prints = [batches(step).fingerprint for step in (0, 1, 0)]
    assert prints[0] == prints[2] != prints[1]
    assert "0:0" in batches(0).describe() and "doc-" in batches(0).describe()


def test_fingerprints_see_ids_and_weights():
    def fingerprint(ids, weights):
        store = InMemoryTokenDataset([Example("a", ids, weights)])
        return Batches(store, EpochOrder("same", 0, store.lengths, 8, split_documents=False), 1)(0).fingerprint

    one = fingerprint([1, 2, 3], [1.0, 1.0, 1.0])
    assert one == fingerprint([1, 2, 3], [1.0, 1.0, 1.0])
    assert one != fingerprint([1, 2, 4], [1.0, 1.0, 1.0]) and one != fingerprint([1, 2, 3], [1.0, 1.0, 0.5])


def test_micro_batches_must_divide_the_batch():
    store = make_store()
    with pytest.raises(UserError, match="micro-batches of 3"):
        Batches(store, EpochOrder(store.digest, 0, store.lengths, 32, split_documents=True), 4, micro_batch_size=3)
