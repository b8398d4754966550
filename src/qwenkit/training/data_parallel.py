"""Plain data parallelism: every process holds the whole model, and the gradients of all are summed.

    loss_of_my_rows.backward(); sum_gradients(world, parameters); optimizer.step()

Each process divides its loss by the weight of the whole step, so the sum is the gradient of the whole batch, and all
take the same step. One buffer for each dtype is summed after the backward pass: right, but not as fast as an exchange
that runs beside it. All buffers are made before the first exchange, so that whoever has no memory for them says so
while nobody waits for a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwenkit.training.world import World, together

T = TypeVar("T")


def guarded(world: World, models: Iterable[nn.Module], work: Callable[[], T]) -> T:
    """Return what `work()` gives: computations with these models, but no exchange of its own.

    Where it fails in one process it fails in all (`together`). The parameters of a sharded model exchange in every
    pass; its error is raised in its own process alone, which ends, and whoever started the processes ends the rest."""
    return work() if world.size == 1 or any(map(is_sharded, models)) else together(world, work)


def is_sharded(model: nn.Module) -> bool:
    """Return whether processes share the parameters of the model among them, as FSDP does."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def sum_gradients(world: World, parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over all processes.

    A parameter that only some processes used (an expert) counts as zero in the others; one that none used keeps no
    gradient."""
    if world.size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for param in _used(world, parameters):
        by_dtype.setdefault(param.dtype, []).append(param)
    buffers = together(world, lambda: [_flat_gradients(params) for params in by_dtype.values()])
    for params, buffer in zip(by_dtype.values(), buffers, strict=True):
        parts = world.sum(buffer).split([param.numel() for param in params])
        for param, part in zip(params, parts, strict=True):
            param.grad = part.view_as(param)


def _flat_gradients(params: Sequence[Tensor]) -> Tensor:
    gradients = (torch.zeros_like(param) if param.grad is None else param.grad for param in params)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _used(world: World, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the parameters that have a gradient in some process."""
    mine = [param.grad is not None for param in parameters]
    if not world.any(not all(mine)):
        return parameters
    return [param for param, flags in zip(parameters, zip(*world.gather(mine)), strict=True) if any(flags)]
