"""PPO (Schulman et al., 2017) with a pretraining-gradient term (PPO-ptx; report §3.2.2): policy, value, reference and
reward model.

    ppo = PPO(policy, value, reference, rewards, prompts, PPOConfig(), sampler=Engine(policy, None),
              collect=SingleTurn(...), ptx=batches)
    training.run(ppo.update, ppo.state(), until=500, log=log, checkpoint_dir=folder)

This module puts four parts together, and each can be exchanged: `collect` samples trajectories of prompts, `rewards`
scores them, `advantages` says how much better than expected each token was, `policy_gradient` learns from that. One
step: two responses to each prompt; their reward, minus its running mean, at the last sampled token; minus `kl_coef`
times the log-ratio to the reference at every token; advantages (GAE); then a few minibatch updates of the value model
(squared error, clipped) and of the policy (clipped ratio). To each policy gradient that of

    - ptx_coef * mean log p(token)        over packed documents of the pretraining corpus

is added, from a stream of its own: `ptx(number of the update)` gives a batch of them. This is what keeps RLHF from
costing abilities (the alignment tax); the report says it needs much more pretraining data than prompts. In the first
`value_warmup_steps` steps the policy is frozen and only the value model learns.

A response cut by the length limit gets no value after its end and loses `missing_eos_penalty`. Dropout is off
throughout, since the ratio of an unchanged policy must be 1. The engine samples from the policy itself, not a copy.

State of a run: both models, both optimizers, the reward's running moments, the step. Everything else is a function of
(seed, step), so a resumed run is the uninterrupted one, bit for bit on a CPU. It is one process today: it knows nothing
of a `World`.

Metrics: `kl` is nats per response (k3), `sampling_logp_difference` the largest gap between the sampler's and the
policy's log-probability of any token of a step, before its first update: above 1e-3 the two do not compute the same.
Losses, norms and the like are means over the updates of a step; `entropy` is that of the policy that sampled.

Legend: B trajectories, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwenkit.alignment import ppo_loss
from qwenkit.alignment.advantages import Advantages, gae_advantages, value_gradient
from qwenkit.alignment.collect import Collector, Prompts, RolloutEngine
from qwenkit.alignment.passes import Metrics, Passes, add_to, minibatches
from qwenkit.alignment.policy_gradient import (
    optimizer_step,
    policy_gradient,
    pretraining_gradient,
    sampled_logprobs,
)
from qwenkit.alignment.ppo_config import PPOConfig
from qwenkit.alignment.ppo_loss import RunningMoments
from qwenkit.alignment.rewards import Rewards
from qwenkit.alignment.trajectories import Trajectories
from qwenkit.errors import UserError
from qwenkit.model import ScalarModel, Transformer
from qwenkit.model.modes import set_activation_checkpointing
from qwenkit.training import PackedBatch, RunState, StepBatch, build_optimizer


class Observe(Protocol):
    """A function that measures the trajectories of a step, for the log only."""

    def __call__(self, batch: Trajectories, /) -> Mapping[str, float]:
        """Return metrics by name."""
        ...


@dataclass(frozen=True)
class Experience:
    """The trajectories of a step, and everything that stays fixed while the models learn from them."""

    batch: Trajectories
    old_logprobs_BT: Tensor
    advantages: Advantages
    metrics: Metrics


class PPO:
    """PPO (Schulman et al., 2017; for language models Ouyang et al., 2022): the models, the parts and the optimizers.
    `update` is one step for `training.run`."""

    def __init__(
        self,
        policy: Transformer,
        value: ScalarModel,
        reference: Transformer,
        rewards: Rewards,
        prompts: Prompts,
        config: PPOConfig,
        *,
        sampler: RolloutEngine,
        collect: Collector,
        ptx: Callable[[int], StepBatch[PackedBatch]] | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Set up a run of PPO: the models are put into eval mode, and the reference needs no gradients.

        `ptx(update)` gives the batch of pretraining documents for the update of that number; `observe(batch)`
        adds metrics to a step, such as those of the gold rubric. Raises a `UserError` for a `ptx_coef` without `ptx`,
        for prompts that come in other numbers per step, and for a model with dynamic NTK where prompts and responses
        may pass the length that it was trained at."""
        if config.ptx_coef and ptx is None:
            raise UserError(f"ptx_coef = {config.ptx_coef}, but there is no pretraining corpus", where="PPO",
                            hint="name a corpus, or set ptx_coef = 0")  # fmt: skip
        if prompts.per_step != config.prompts_per_step:
            raise UserError(f"the prompts come {prompts.per_step} a step", where="PPO",
                            expected=f"prompts_per_step = {config.prompts_per_step}")  # fmt: skip
        self.policy, self.value, self.reference = policy.eval(), value.eval(), reference.eval().requires_grad_(False)
        self._refuse_dynamic_ntk(max(map(len, prompts.ids)) + config.max_response_tokens)
        for model in (policy, value):
            set_activation_checkpointing(model, config.activation_checkpointing)
        self.rewards, self.prompts, self.config = rewards, prompts, config
        self.sampler, self.collect, self.ptx, self.observe = sampler, collect, ptx, observe
        self.passes = Passes(config.micro_tokens, bf16=config.precision == "bf16")
        self.policy_optimizer, self.value_optimizer = (
            build_optimizer(model, "adamw", lr=lr, weight_decay=config.weight_decay)
            for model, lr in ((policy, config.policy_lr), (value, config.value_lr))
        )

    def state(self) -> RunState:
        """Return the run state that a checkpoint holds."""
        modules = {"policy": self.policy, "value": self.value}
        optimizers = {"policy": self.policy_optimizer, "value": self.value_optimizer}
        return RunState(modules, optimizers, {"reward": asdict(RunningMoments())})

    def update(self, state: RunState, step: int) -> Metrics:
        """Train one step: collect trajectories, compute rewards and advantages, and learn from them. Return the step's
        metrics."""
        config = self.config
        self.policy.eval()
        self.value.eval()
        frozen = step < config.value_warmup_steps
        experience = self.compute_experience(self.sample(step), state)
        parts = [
            rows
            for epoch in range(config.epochs)
            for rows in minibatches(len(experience.batch), config.minibatches, config.seed, step, epoch)
        ]
        sums: Metrics = {}
        for part, rows in enumerate(parts):
            add_to(sums, self._learn_value(experience, rows))
            if not frozen:
                add_to(sums, self._learn_policy(experience, rows, step * len(parts) + part))
        metrics = {**{name: total / len(parts) for name, total in sums.items()}, **experience.metrics}
        return {**metrics, "lr": self.policy_optimizer.lr, "policy_frozen": float(frozen)}

    def sample(self, step: int) -> Trajectories:
        """Return the trajectories of a step, sampled from the present policy. Raises a `UserError` where the collector
        returns fewer than there are minibatches, and for longer ones than a model with dynamic NTK can judge."""
        self.sampler.update_weights()
        batch = self.collect(self.sampler, self.prompts, step)
        self.sampler.release_cache()  # learning needs the memory
        if len(batch) < self.config.minibatches:
            raise UserError(f"the collector returned {len(batch)} trajectories", where=f"PPO, step {step}",
                            expected=f"{self.config.minibatches} or more: minibatches")  # fmt: skip
        self._refuse_dynamic_ntk(max(batch.lengths))
        return batch.to(next(self.policy.parameters()).device)

    @torch.no_grad()
    def compute_experience(self, batch: Trajectories, state: RunState) -> Experience:
        """Return rewards and advantages: everything that does not change while a step is learnt from.

        The policy scores every token once more, so that a sampler that computes something else shows at any of them."""
        config, mask_BT = self.config, batch.sampled_BT
        scores = self.rewards(batch)
        moments = RunningMoments.updated(state.numbers, scores.total_B)
        normalised_B = moments.normalise(scores.total_B, config.reward_norm)
        normalised_B = normalised_B - config.missing_eos_penalty * (~batch.ended_B)

        own_BT, entropy_BT = self.passes.read(batch, lambda part: sampled_logprobs(self.policy, part))
        old_BT = own_BT if config.own_logprobs else batch.logprobs_BT
        (ref_BT,) = self.passes.read(batch, lambda part: sampled_logprobs(self.reference, part)[:1])
        scores_BT = ppo_loss.at_last(normalised_B, mask_BT) + batch.step_rewards_BT
        rewards_BT = ppo_loss.token_rewards(scores_BT, ppo_loss.kl_k1(old_BT, ref_BT), mask_BT, config.kl_coef)
        advantages = gae_advantages(self.value, batch, rewards_BT, self.passes, gamma=config.gamma,
                                    gae_lambda=config.gae_lambda, whiten=config.whiten_advantages)  # fmt: skip
        metrics = {
            **scores.metrics(),
            **batch.metrics(),
            **advantages.metrics(mask_BT),
            "normalised_reward": float(normalised_B.double().mean()),
            "entropy": float(entropy_BT[mask_BT].mean()),
            "sampling_logp_difference": float((own_BT - batch.logprobs_BT).abs().max()),
            "kl": float(ppo_loss.compact(ppo_loss.kl_k3(old_BT, ref_BT), mask_BT).sum(1).mean()),
            **(self.observe(batch) if self.observe else {}),
        }
        return Experience(batch, old_BT, advantages, metrics)

    def value_gradient(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        """Add the gradient of the value loss over some rows; return its metrics."""
        clip = self.config.value_clip
        return value_gradient(self.value, experience.batch, experience.advantages, rows, self.passes, clip)

    def policy_gradient(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        """Add the gradient of the clipped surrogate over some rows; return its metrics."""
        old_BT, advantages_BT = experience.old_logprobs_BT, experience.advantages.advantages_BT
        clip = self.config.policy_clip
        return policy_gradient(self.policy, experience.batch, old_BT, advantages_BT, rows, self.passes, clip)

    def ptx_gradient(self, number: int) -> Metrics:
        """Add the gradient of the pretraining term for the update of that number; return its metrics."""
        if not self.config.ptx_coef or self.ptx is None:
            return {}
        return pretraining_gradient(self.policy, self.ptx(number), self.config.ptx_coef, self.passes)

    def _refuse_dynamic_ntk(self, longest: int) -> None:
        """Raise a `UserError` for a model with dynamic NTK and trajectories beyond its trained length.

        The sampler fixes alpha by the prompt; a pass over whole rows would by what follows it, padding included."""
        for name in ("policy", "value", "reference"):
            extension = getattr(self, name).config.extension
            if extension is not None and extension.dynamic_ntk and longest > extension.seq_length:
                raise UserError(
                    f"prompts with their responses have up to {longest} tokens, and the {name} model has dynamic NTK "
                    f"beyond {extension.seq_length}, which would be another in learning than in sampling",
                    where="PPO",
                    expected=f"{extension.seq_length} tokens at most, or a model without dynamic NTK",
                    hint="lower `seq_length`, or set `use_dynamic_ntk` to false in the model's config.json",
                )

    def _learn_value(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        metrics = self.value_gradient(experience, rows)
        where, most = experience.batch.describe(rows), self.config.max_grad_norm
        metrics["value_grad_norm"] = optimizer_step(self.value_optimizer, metrics["value_loss"], most, where)
        return metrics

    def _learn_policy(self, experience: Experience, rows: Sequence[int], number: int) -> Metrics:
        metrics = {**self.policy_gradient(experience, rows), **self.ptx_gradient(number)}
        loss = metrics["policy_loss"] + metrics.get("ptx_loss", 0.0)
        where, most = experience.batch.describe(rows), self.config.max_grad_norm
        metrics["policy_grad_norm"] = optimizer_step(self.policy_optimizer, loss, most, where)
        return metrics
