"""How trajectories go through a model: a bounded number of tokens at a time, with products in bf16 or not.

    passes = Passes(micro_tokens=16384, bf16=False)
    (values_BT,) = passes.read(batch, lambda part: (sampled_values(value, part),))
    metrics = passes.gradient(batch, rows, forward, loss)

Every model reads the same right-padded rows, batched by length; no attention mask is needed (`model/batching.py`), and
`sampled_BT` alone decides which tokens count. How rows are divided changes only rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from qwenkit.alignment.trajectories import Trajectories
from qwenkit.model.batching import length_batches
from qwenkit.rng import derive_seed, permutation

Metrics = dict[str, float]
Forward = Callable[[Trajectories], Tensor]
"""From trajectories to one number for each of their sampled tokens [N]."""
Loss = Callable[[Tensor, Sequence[int]], Mapping[str, Tensor]]
"""From those numbers and the rows that they belong to, to terms [N] by name: the first is the loss, the others are for
the log."""


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes over a batch: at most `micro_tokens` padded tokens (or one trajectory) in each."""

    micro_tokens: int
    bf16: bool = False
    """Whether matrix products are in bf16, by autocast."""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which a model on a device is called."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def micro_batches(self, batch: Trajectories, rows: Sequence[int] | None = None) -> list[list[int]]:
        """Return the rows of each pass, the longest first."""
        return length_batches(batch.lengths, self.micro_tokens, rows)

    @torch.no_grad()
    def read(self, batch: Trajectories, read: Callable[[Trajectories], tuple[Tensor, ...]]) -> list[Tensor]:
        """Return what a model gives for each sampled token as tensors [B, T], zero elsewhere.

        `read` returns numbers [N] of some trajectories, which are given to it in the order of the batch."""
        tensors_BT: list[Tensor] = []
        for rows in map(sorted, self.micro_batches(batch)):
            part = batch.select(rows)
            with self.autocast(batch.ids_BT.device):
                numbers = read(part)
            for i, x_N in enumerate(numbers):
                if i == len(tensors_BT):
                    tensors_BT.append(torch.zeros(batch.ids_BT.shape, dtype=x_N.dtype, device=x_N.device))
                tensors_BT[i][rows, : part.ids_BT.shape[1]] = part.spread(x_N)
        return tensors_BT

    def gradient(self, batch: Trajectories, rows: Sequence[int], forward: Forward, loss: Loss) -> Metrics:
        """Add the gradient of the mean loss over the sampled tokens of some rows; return the means of all terms."""
        total, sums = int(batch.sampled_BT[rows].sum()), Metrics()
        for micro in self.micro_batches(batch, rows):
            with self.autocast(batch.ids_BT.device):
                x_N = forward(batch.select(micro))
            terms = loss(x_N, micro)
            (next(iter(terms.values())).sum() / total).backward()
            add_to(sums, {name: float(term_N.detach().sum()) / total for name, term_N in terms.items()})
        return sums


def minibatches(count: int, parts: int, seed: int, step: int, epoch: int) -> list[list[int]]:
    """Return the rows of each update of a step's epoch: a permutation of `count` rows, divided into parts that differ
    by at most one row."""
    order = permutation(derive_seed(seed, "minibatches"), count, step, epoch).tolist()
    cuts = [part * count // parts for part in range(parts + 1)]
    return [order[start:stop] for start, stop in pairwise(cuts)]


def add_to(sums: Metrics, values: Mapping[str, float]) -> None:
    """Add values to the sums of the same names."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value
