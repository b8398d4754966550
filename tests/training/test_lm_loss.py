"""The loss is one number, however rows are accumulated, packed, chunked."""

import dataclasses

import pytest
import torch

from qwenkit.data.tokens.order import PackedSequence
from qwenkit.data.tokens.packing import Segment
from qwenkit.training.batches import build_batch, validation_batches
from qwenkit.training.lm_loss import lm_objective, mean_loss
from tests.training.conftest import make_model, make_store


@pytest.fixture
def model():
    return make_model().double()


def gradients(model, batches, **options):
    """Loss and gradient of the weighted mean over all batches."""
    model.zero_grad()
    weight = sum(batch.weight for batch in batches)
    total = 0.0
    for batch in batches:
        loss, _ = lm_objective(model, batch, **options)
        (loss / weight).backward()
        total += float(loss.detach()) / weight
    return total, torch.cat([param.grad.flatten() for param in model.parameters()]).clone()


def same(one, two):
    assert one[0] == pytest.approx(two[0], abs=1e-6)
    assert torch.allclose(one[1], two[1], atol=1e-6, rtol=0) and one[1].abs().max() > 1e-3


def test_accumulation_is_the_batch(model):
    store = make_store()
    whole = gradients(model, validation_batches(store, 32, 100, split_documents=False))
    same(whole, gradients(model, validation_batches(store, 32, 1, split_documents=False)))
    same(whole, gradients(model, validation_batches(store, 32, 3, split_documents=False)))


def test_packed_documents_are_documents_alone(model):
    store = make_store()
    packed = gradients(model, validation_batches(store, 64, 4, split_documents=False))
    alone = [
        build_batch(store, [PackedSequence(0, 0, [Segment(d, 0, int(n))])], int(n)) for d, n in enumerate(store.lengths)
    ]
    same(packed, gradients(model, alone))


def test_documents_that_see_each_other_give_another_loss(model):
    batches = validation_batches(make_store(), 64, 4, split_documents=False)
    assert abs(gradients(model, batches)[0] - gradients(model, batches, isolate=False)[0]) > 1e-6


def test_it_is_the_cross_entropy_of_torch(model):
    batch = validation_batches(make_store(), 32, 8, split_documents=True)[0]
    model.requires_grad_(False)
    logits = model.head(model.hidden(batch.ids_BT, documents_BT=batch.documents_BT)).flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, batch.targets_BT.flatten(), reduction="none")
    assert float(lm_objective(model, batch)[0]) == pytest.approx(float((nll * batch.weights_BT.flatten()).sum()))


def test_whole_documents_need_no_mask(model):
    """A row that is one document attends causally: the same numbers, without the mask's T * T."""
    store = make_store()
    (first, *_) = (d for d, n in enumerate(store.lengths) if n > 4)
    batch = build_batch(store, [PackedSequence(0, 0, [Segment(first, 0, 4)])] * 2, 4)
    assert not batch.is_packed and validation_batches(store, 32, 8, split_documents=False)[0].is_packed
    same(gradients(model, [batch]), gradients(model, [dataclasses.replace(batch, is_packed=True)]))


class Recording:
    """A batch on no device yet; its copy on one knows it."""

    weight, device = 2.0, None

    def to(self, device):
        moved = Recording()
        moved.device = device
        return moved


def test_mean_loss_takes_batches_to_the_model(model):
    """Where the weights are: a held-out batch is built in memory."""
    seen = []

    def objective(model, batch):
        seen.append(batch.device)
        return torch.tensor(1.0), {}

    mean_loss(model, [Recording(), Recording()], objective)
    assert seen == [next(model.parameters()).device] * 2
    mean_loss(model.to("meta"), [Recording()], objective)
    assert seen[2] == torch.device("meta")


def test_mean_loss_is_per_token_and_leaves_the_mode(model):
    model.train()
    batches = validation_batches(make_store(), 32, 8, split_documents=True)
    found = mean_loss(model, batches)
    assert model.training and found["loss"] == pytest.approx(gradients(model.eval(), batches)[0])
    assert found["loss"] == pytest.approx(
        mean_loss(model, validation_batches(make_store(), 32, 3, split_documents=True))["loss"]
    )
