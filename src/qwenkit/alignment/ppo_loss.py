"""The PPO loss and what it is made of: KL, rewards by token, GAE, whitening (report §3.2.2). Plain tensors only.

Legend: B trajectories, T tokens (padded right), N the sampled tokens of a batch in one row, R the most sampled tokens
of a trajectory. Every [B, T] tensor goes with `mask_BT`, true at the tokens that the policy sampled: any pattern. What
stands elsewhere is never read, and results are zero there. `compact` moves the sampled tokens of each row to the left:

    x_BT = [[., a, ., b, c],     mask_BT = [[0, 1, 0, 1, 1],     compact(x_BT, mask_BT) = [[a, b, c],
            [., ., d, e, .]]                [0, 0, 1, 1, 0]]                               [d, e, 0]]

Conventions: `values[t]` is read *before* token t is chosen (the state), `logprobs[t]` belongs to token t (the action),
`rewards[t]` follows it. The token after t is the next *sampled* one: what others write in between is the environment's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return log p - log q of the sampled token, in nats: the estimator k1 of KL(p || q) (Schulman, 2020,
    "Approximating KL divergence"). It is unbiased and may be negative. This one is the penalty."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return (q/p - 1) - log(q/p) of the sampled token, in nats: the estimator k3 (Schulman, 2020). It is unbiased as
    well, never negative and far less noisy. This one is reported."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def compact(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the values at true places of the mask, moved to the left of each row: [B, R], zero at padding."""
    counts_B = mask_BT.sum(1)
    left_BR = torch.arange(int(counts_B.max()), device=x_BT.device) < counts_B[:, None]
    x_BR = torch.zeros(left_BR.shape, dtype=x_BT.dtype, device=x_BT.device)
    x_BR[left_BR] = x_BT[mask_BT]
    return x_BR


def spread(x_BR: Tensor, mask_BT: Tensor) -> Tensor:
    """Return compact values at the true places of the mask again, [B, T]: the inverse of `compact`."""
    left_BR = torch.arange(x_BR.shape[1], device=x_BR.device) < mask_BT.sum(1)[:, None]
    x_BT = torch.zeros(mask_BT.shape, dtype=x_BR.dtype, device=x_BR.device)
    x_BT[mask_BT] = x_BR[left_BR]
    return x_BT


def at_last(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each trajectory's score at its last sampled token, [B, T], zero elsewhere."""
    scores_BT = torch.zeros(mask_BT.shape, dtype=scores_B.dtype, device=scores_B.device)
    last_B = mask_BT.long().cumsum(1).argmax(1)
    scores_BT[torch.arange(len(scores_B), device=scores_B.device), last_B] = scores_B
    return scores_BT


def token_rewards(scores_BT: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Return rewards [B, T]: minus the KL penalty at every sampled token, plus its score, whichever tokens have one."""
    return (-kl_coef * kl_BT + scores_BT.to(kl_BT.dtype)).masked_fill(~mask_BT, 0.0)


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both [B, T], by generalised advantage estimation (GAE; Schulman et al., 2016) over
    the sampled tokens of each trajectory in order.

    The value after the last token is 0, also where a response was cut by the length limit (the penalty for that is in
    the reward)."""
    rewards_BR, values_BR = compact(rewards_BT, mask_BT), compact(values_BT, mask_BT)
    advantages_BR = torch.zeros_like(rewards_BR)
    carry_B = torch.zeros_like(rewards_BR[:, 0])
    next_B = torch.zeros_like(carry_B)
    for t in reversed(range(rewards_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_B - values_BR[:, t]
        carry_B = delta_B + gamma * gae_lambda * carry_B
        advantages_BR[:, t] = carry_B
        next_B = values_BR[:, t]
    return spread(advantages_BR, mask_BT), spread(advantages_BR + values_BR, mask_BT)


def whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return x with zero mean and unit variance over the sampled tokens."""
    x_N = x_BT[mask_BT]
    return ((x_BT - x_N.mean()) * torch.rsqrt(x_N.var(correction=0) + 1e-8)).masked_fill(~mask_BT, 0.0)


def policy_loss(logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped surrogate loss [N] (Schulman et al., 2017), and 1 at tokens where the clip removes the
    gradient."""
    ratio_N = torch.exp(logprobs_N - old_logprobs_N)
    plain_N = -advantages_N * ratio_N
    clipped_N = -advantages_N * ratio_N.clamp(1.0 - clip, 1.0 + clip)
    return torch.maximum(plain_N, clipped_N), (clipped_N > plain_N).to(ratio_N.dtype)


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return half the squared error [N] of clipped values, and 1 at tokens where the clip removes the gradient.

    Moving further than `clip` away from the old value gains nothing."""
    near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    plain_N, clipped_N = (values_N - returns_N).square(), (near_N - returns_N).square()
    return 0.5 * torch.maximum(plain_N, clipped_N), (clipped_N > plain_N).to(values_N.dtype)


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for one that always predicts the
    mean."""
    variance = returns_N.var(correction=0)
    return float(1.0 - (returns_N - values_N).var(correction=0) / variance.clamp_min(1e-12))


@dataclass
class RunningMoments:
    """Mean and variance of all rewards so far (Welford, 1962; in float64 of Python), kept in the run's state."""

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def update(self, x_B: Tensor) -> None:
        """Add a batch of rewards."""
        n, mean = float(x_B.numel()), float(x_B.double().mean())
        m2 = float((x_B.double() - mean).square().sum())
        total, gap = self.count + n, mean - self.mean
        self.m2 += m2 + gap * gap * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Return the standard deviation; 1 before there are two different rewards."""
        return (self.m2 / self.count) ** 0.5 if self.m2 > 0.0 else 1.0

    @classmethod
    def updated(cls, numbers: dict[str, Any], x_B: Tensor) -> RunningMoments:
        """Return the moments kept in a run's state (`numbers["reward"]`) with a batch of rewards, which are kept there
        from now on."""
        moments = cls(**numbers["reward"])
        moments.update(x_B)
        numbers["reward"] = asdict(moments)
        return moments

    def normalise(self, x_B: Tensor, how: str) -> Tensor:
        """Return rewards minus the running mean (`mean`, the report's choice), also divided by the running deviation
        (`mean_std`), or unchanged (`none`)."""
        if how == "none":
            return x_B
        centred_B = x_B - self.mean
        return centred_B / self.std if how == "mean_std" else centred_B
