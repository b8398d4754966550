"""Plain data parallelism: every process holds the whole model, and the gradients of all are summed.

    loss_of_my_rows.backward(); sum_gradients(world, parameters); optimizer.step()

Each process divides its loss by the weight of the whole step, so the sum is the gradient of the whole batch, and all
take the same step. One buffer for each dtype is summed after the backward pass: right, but not as fast as an exchange
that runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwenkit.training.world import World


def sum_gradients(world: World, parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over all processes.

    A parameter that only some processes used (an expert) counts as zero in the others; one that none used keeps no
    gradient."""
    if world.size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for param in _used(world, parameters):
        by_dtype.setdefault(param.dtype, []).append(param)
    for params in by_dtype.values():
        gradients = (torch.zeros_like(param) if param.grad is None else param.grad for param in params)
        total = world.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for param, part in zip(params, total.split([param.numel() for param in params]), strict=True):
            param.grad = part.view_as(param)


def _used(world: World, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the parameters that have a gradient in some process."""
    mine = [param.grad is not None for param in parameters]
    if not world.any(not all(mine)):
        return parameters
    return [param for param, flags in zip(parameters, zip(*world.gather(mine)), strict=True) if any(flags)]
