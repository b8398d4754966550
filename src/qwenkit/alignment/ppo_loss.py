"""The PPO loss and what it is made of: KL, rewards by token, GAE, whitening (report §3.2.2). Plain tensors only.

Legend: B responses, R response tokens (padded right), N the real response tokens of a batch in one row. Every [B, R]
tensor goes with `mask_BR`, true at real tokens, which are left-aligned: a row is a run of true, then false.

Conventions: `values[t]` is read *before* token t is chosen (the state), `logprobs[t]` belongs to token t (the action),
`rewards[t]` follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def token_rewards(scores_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, kl_coef: float) -> Tensor:
    """Return rewards [B, R]: minus the KL penalty at every token, plus the response's score at its last token."""
    rewards_BR = -kl_coef * kl_BR * mask_BR
    last_B = mask_BR.sum(1) - 1
    rewards_BR[torch.arange(len(scores_B), device=scores_B.device), last_B] += scores_B.to(rewards_BR.dtype)
    return rewards_BR


def gae(
    rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both [B, R] and zero at padding, by generalised advantage estimation (GAE;
    Schulman et al., 2016).

    The value after the last token is 0, also where a response was cut by the length limit (the penalty for that is in
    the reward)."""
    values_BR, rewards_BR = values_BR * mask_BR, rewards_BR * mask_BR
    advantages_BR = torch.zeros_like(rewards_BR)
    carry_B = torch.zeros_like(rewards_BR[:, 0])
    next_B = torch.zeros_like(carry_B)
    for t in reversed(range(rewards_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_B - values_BR[:, t]
        carry_B = delta_B + gamma * gae_lambda * carry_B
        advantages_BR[:, t] = carry_B
        next_B = values_BR[:, t]
    advantages_BR = advantages_BR * mask_BR
    return advantages_BR, (advantages_BR + values_BR) * mask_BR


def whiten(x_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return x with zero mean and unit variance over the real tokens, zero at padding."""
    x_N = x_BR[mask_BR]
    return (x_BR - x_N.mean()) * torch.rsqrt(x_N.var(correction=0) + 1e-8) * mask_BR


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

    def normalise(self, x_B: Tensor, how: str) -> Tensor:
        """Return rewards minus the running mean (`mean`, the report's choice), also divided by the running deviation
        (`mean_std`), or unchanged (`none`)."""
        if how == "none":
            return x_B
        centred_B = x_B - self.mean
        return centred_B / self.std if how == "mean_std" else centred_B
