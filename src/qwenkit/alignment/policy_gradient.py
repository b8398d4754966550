"""The policy's part of a step: log-probabilities of what was sampled, the clipped surrogate, the pretraining gradient,
and the optimizer's step with its alarms.

    metrics = policy_gradient(policy, batch, old_logprobs_BT, advantages_BT, rows, passes, clip=0.2)
    metrics |= pretraining_gradient(policy, documents, coef=0.1, passes)
    norm = optimizer_step(optimizer, metrics["policy_loss"], max_grad_norm=1.0, where="prompts [3, 8]")

Advantages may come from anywhere (`advantages.py`). A loss is the mean over the sampled tokens of some rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from qwenkit.alignment import ppo_loss
from qwenkit.alignment.passes import Metrics, Passes
from qwenkit.alignment.trajectories import Trajectories
from qwenkit.model import Transformer
from qwenkit.model.logprobs import token_logprobs
from qwenkit.training import OptimizerSet, PackedBatch, StepBatch, clip_gradients, lm_objective, raise_alarm


def sampled_logprobs(model: Transformer, batch: Trajectories) -> tuple[Tensor, Tensor]:
    """Return the log-probability [N] of each sampled token, and the entropy [N] of the distribution that it was drawn
    from (without gradient), both in nats."""
    hidden_ND = batch.preceding(model.hidden(batch.ids_BT))
    result = token_logprobs(model, hidden_ND, batch.tokens_N, entropy=True)
    assert result.entropy is not None
    return result.logprobs, result.entropy


def policy_gradient(
    policy: Transformer,
    batch: Trajectories,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    rows: Sequence[int],
    passes: Passes,
    clip: float,
) -> Metrics:
    """Add the gradient of PPO's clipped surrogate over some rows; return its metrics: the loss, the share of clipped
    tokens, and how far the policy has moved from its old self (k3, nats a token)."""

    def loss(logprobs_N: Tensor, micro: Sequence[int]) -> dict[str, Tensor]:
        old_N, advantages_N = (batch.flat(x_BT, micro) for x_BT in (old_logprobs_BT, advantages_BT))
        loss_N, clipped_N = ppo_loss.policy_loss(logprobs_N, old_N, advantages_N, clip)
        moved_N = ppo_loss.kl_k3(old_N, logprobs_N)
        return {"policy_loss": loss_N, "clip_fraction": clipped_N, "update_kl": moved_N}

    return passes.gradient(batch, rows, lambda part: sampled_logprobs(policy, part)[0], loss)


def pretraining_gradient(policy: Transformer, batch: StepBatch[PackedBatch], coef: float, passes: Passes) -> Metrics:
    """Add the gradient of the pretraining term (PPO-ptx): `coef` times the mean loss over one batch of packed
    documents."""
    device, total = next(policy.parameters()).device, 0.0
    for micro_batch in batch.micro_batches:
        with passes.autocast(device):
            loss, _ = lm_objective(policy, micro_batch.to(device))
        (coef * loss / batch.weight).backward()
        total += float(loss.detach())
    return {"ptx_loss": total / batch.weight, "ptx_tokens": batch.weight}


def optimizer_step(optimizer: OptimizerSet, loss: float, max_grad_norm: float, where: str) -> float:
    """Clip the gradient and step; return its norm before. A loss or gradient that is not finite stops the run before
    the weights move, with an alarm that says `where`."""
    if not math.isfinite(loss):
        optimizer.zero_grad()
        raise_alarm("nonfinite-loss", loss, where)
    norm = clip_gradients(optimizer, max_grad_norm, lambda: where)
    optimizer.step()
    optimizer.zero_grad()
    return norm
