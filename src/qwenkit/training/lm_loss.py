"""The language-modelling loss: what one micro-batch adds to it, as a SUM; the update divides by the step's weight.

    loss_sum, sums = lm_objective(model, batch)        # sum of loss weight * negative log-likelihood, in nats

So gradient accumulation, packing and several processes give the same number, where a mean of means would not.
A model is anything with `hidden(ids_BT, documents_BT=...)` and `head(h_ND)`. Only supervised tokens go through the
head, some of them at a time (`model/logprobs.py`).

Legend: B rows, T tokens, N supervised tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qwenkit.model.logprobs import cross_entropy_sum
from qwenkit.model.modes import evaluating
from qwenkit.training.batches import PackedBatch

LossSums = tuple[Tensor, dict[str, Tensor]]
"""The loss of a micro-batch, summed over what it is divided by later, and sums of other metrics for the log."""


class LanguageModel(Protocol):
    """What the loss asks of a model; `qwenkit.model.Transformer` is one."""

    def hidden(self, ids_BT: Tensor, *, documents_BT: Tensor | None) -> Tensor:
        """Return the hidden states [B, T, D]; attention stays inside the documents."""
        ...

    def head(self, h_ND: Tensor) -> Tensor:
        """Return the logits [N, V] of hidden states [N, D]."""
        ...


class Objective(Protocol):
    """What a model is trained on: the loss of one micro-batch as a sum. Model and batch are those of the training at
    hand."""

    def __call__(self, model: Any, batch: Any, /) -> LossSums:
        """Return the summed loss, with gradient, and the sums of other metrics."""
        ...


def lm_objective(model: LanguageModel, batch: PackedBatch, isolate: bool = True) -> LossSums:
    """Return the next-token cross entropy over the supervised tokens of a batch, summed, in nats.

    `isolate=False` lets packed documents see each other."""
    h_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT if isolate and batch.is_packed else None)
    index_N = batch.supervised_N  # known on the host: a device would have to be asked how many there are
    targets_N, weights_N = (part.flatten()[index_N] for part in (batch.targets_BT, batch.weights_BT))
    return cross_entropy_sum(model, h_BTD.flatten(0, 1)[index_N], targets_N, weights_N), {}


class WeightedBatch(Protocol):
    """What `mean_loss` needs of a batch."""

    @property
    def weight(self) -> float:
        """Return what the batch adds to the divisor of the loss."""
        ...

    def to(self, device: torch.device | str, /) -> WeightedBatch:
        """Return the batch with its tensors on a device."""
        ...


@torch.no_grad()
def mean_loss(
    model: nn.Module, batches: Iterable[WeightedBatch], objective: Objective = lm_objective
) -> dict[str, float]:
    """Return the validation `loss` (nats per supervised token) and the `weight` that it was divided by.

    The model is in eval mode meanwhile, and in its former mode afterwards."""
    device, total, weight = next(model.parameters()).device, 0.0, 0.0
    with evaluating(model):
        for batch in batches:
            total += float(objective(model, batch.to(device))[0])
            weight += batch.weight
    return {"loss": total / max(weight, 1e-12), "weight": weight}
