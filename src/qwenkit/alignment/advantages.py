"""Advantages: how much better each sampled token was than expected. Here by GAE with a value model (the critic), which
is trained beside the policy.

    advantages = gae_advantages(value, batch, rewards_BT, passes, gamma=1.0, gae_lambda=0.95, whiten=True)
    metrics = value_gradient(value, batch, advantages, rows, passes, clip=0.15)

Whatever else gives advantages [B, T] over the sampled tokens takes this part's place, and needs no value model: rewards
compared within the group of a prompt's samples (`Trajectories.groups_B`) are another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.alignment import ppo_loss
from qwenkit.alignment.passes import Metrics, Passes
from qwenkit.alignment.trajectories import Trajectories
from qwenkit.model import ScalarModel


class Advantages(NamedTuple):
    """What GAE gives, all [B, T], zero where nothing was sampled."""

    advantages_BT: Tensor
    returns_BT: Tensor
    """What the value model should have said."""
    values_BT: Tensor
    """What it said."""

    def metrics(self, mask_BT: Tensor) -> Metrics:
        """Return the critic's metrics before it learns."""
        values_N, returns_N = self.values_BT[mask_BT], self.returns_BT[mask_BT]
        return {
            "explained_variance": ppo_loss.explained_variance(values_N, returns_N),
            "value": float(values_N.mean()),
        }


def sampled_values(value: ScalarModel, batch: Trajectories) -> Tensor:
    """Return the value [N] of the state before each sampled token, in float32 at least."""
    values_N = batch.preceding(value.score(batch.ids_BT))
    return values_N.to(torch.promote_types(values_N.dtype, torch.float32))


def gae_advantages(
    value: ScalarModel,
    batch: Trajectories,
    rewards_BT: Tensor,
    passes: Passes,
    *,
    gamma: float,
    gae_lambda: float,
    whiten: bool,
) -> Advantages:
    """Return the advantages of a batch by GAE; with `whiten` they have mean 0 and deviation 1 over its sampled
    tokens."""
    (values_BT,) = passes.read(batch, lambda part: (sampled_values(value, part),))
    advantages_BT, returns_BT = ppo_loss.gae(rewards_BT, values_BT, batch.sampled_BT, gamma, gae_lambda)
    if whiten:
        advantages_BT = ppo_loss.whiten(advantages_BT, batch.sampled_BT)
    return Advantages(advantages_BT, returns_BT, values_BT)


def value_gradient(
    value: ScalarModel, batch: Trajectories, advantages: Advantages, rows: Sequence[int], passes: Passes, clip: float
) -> Metrics:
    """Add the gradient of the clipped value loss over some rows; return its metrics."""

    def loss(values_N: Tensor, micro: Sequence[int]) -> dict[str, Tensor]:
        old_N, returns_N = (batch.flat(x_BT, micro) for x_BT in (advantages.values_BT, advantages.returns_BT))
        loss_N, clipped_N = ppo_loss.value_loss(values_N, old_N, returns_N, clip)
        return {"value_loss": loss_N, "value_clip_fraction": clipped_N}

    return passes.gradient(batch, rows, lambda part: sampled_values(value, part), loss)
