"""Objectives: what one micro-batch adds to the loss, as a SUM; the update divides by the weight of the whole step.

    loss_sum, sums = lm_objective(model, batch)        # sum of w * nll over the batch

So accumulation and packing give the same number (the mean of means would not; over several workers the divisor would
have to be summed too, but training is one process on one device). A model is anything with
`hidden(ids_BT, documents_BT=...)` and `head(h_ND)`. Only supervised tokens go through the head, `chunk` of them at a
time, and a chunk's logits are computed anew in the backward pass: with 152k words, logits are the largest tensor of a
step.

Legend: B rows, T tokens, N supervised tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qwenkit.training.batches import Batch, on_device

Sums = tuple[Tensor, dict[str, Tensor]]
Objective = Callable[[Any, Any], Sums]
CHUNK = 8192


def cross_entropy_sum(
    head: Callable[[Tensor], Tensor], h_ND: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Sum of weight times negative log-likelihood, in float32 (or float64 where the model is)."""

    def part(h: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        logits_NV = head(h)
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        return (F.cross_entropy(logits_NV, targets, reduction="none") * weights).sum()

    if len(h_ND) <= chunk:
        return part(h_ND, targets_N, weights_N)
    pieces = zip(h_ND.split(chunk), targets_N.split(chunk), weights_N.split(chunk))
    return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()


def lm_objective(model: Any, batch: Batch, isolate: bool = True, chunk: int = CHUNK) -> Sums:
    """Next-token cross entropy over supervised tokens. `isolate=False` lets packed documents see each other."""
    h_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT if isolate else None)
    chosen_N = batch.weights_BT.flatten().nonzero().squeeze(1)
    targets_N, weights_N = (part.flatten()[chosen_N] for part in (batch.targets_BT, batch.weights_BT))
    return cross_entropy_sum(model.head, h_BTD.flatten(0, 1)[chosen_N], targets_N, weights_N, chunk), {}


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Any], objective: Objective = lm_objective) -> dict[str, float]:
    """Held-out `loss` (per supervised token) and `weight`; leaves the model's mode as it was."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total, weight = 0.0, 0.0
    for batch in batches:
        total += float(objective(model, on_device(batch, device))[0])
        weight += batch.weight
    model.train(was_training)
    return {"loss": total / max(weight, 1e-12), "weight": weight}
