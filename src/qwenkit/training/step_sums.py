"""Sums over the micro-batches of a step that stay on the device until the step is over.

    sums = StepSums(device)
    sums.add({"loss": loss, **others})             # for each micro-batch: nothing waits for the device
    values = sums.read({"grad_norm": norm})        # the one read of a step

A read waits until the device has done all that was asked of it. One read a step, instead of several for every
micro-batch, lets the host run ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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

    def read(self, others: Mapping[str, Tensor]) -> dict[str, float]:
        """Return all sums, and other scalar tensors of the device beside them, in one read."""
        tensors = {**self._sums, **others}
        stacked = torch.stack([tensor.to(self._zero) for tensor in tensors.values()])
        return dict(zip(tensors, stacked.tolist()))
