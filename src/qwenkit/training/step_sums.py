"""Sums over the micro-batches of a step that stay on the device until the step is over.

    sums = StepSums(device)
    sums.add({"loss": loss, **others})             # for each micro-batch: nothing waits for the device
    values = sums.read(world, {"grad_norm": norm})        # over all processes: the one read of a step

A read waits until the device has done all that was asked of it. One read a step, instead of several for every
micro-batch, lets the host run ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qwenkit.training.world import World, together


class StepSums:
    """Named sums on a device, in float64 (float32 on a device that has no float64)."""

    def __init__(self, device: torch.device) -> None:
        """Start with no sums."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add scalar tensors to the sums of their names."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, self._zero) + value.detach().to(self._zero.dtype)

    def read(self, world: World, others: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the sums over all processes, and other scalar tensors of this device beside them, in one read.

        All processes have the same names."""
        total = world.sum(together(world, lambda: torch.stack(list(self._sums.values()))))
        values = together(world, lambda: self._values(total, others))
        return dict(zip([*self._sums, *others], values, strict=True))

    def _values(self, total: Tensor, others: Mapping[str, Tensor]) -> list[float]:
        return torch.stack([*total, *(tensor.to(total) for tensor in others.values())]).tolist()

    def read_own(self, name: str) -> float:
        """Return a sum of this process alone: a read of its own, for an alarm."""
        return float(self._sums[name])
