"""PPO (Schulman et al., 2017) with a pretraining-gradient term (PPO-ptx; report §3.2.2): policy, value, reference and
reward model.

    ppo = PPO(policy, value, reference, reward, prompts, PPOConfig(), im_end_id=tok.im_end_id, ptx=batches)
    training.run(ppo.update, ppo.state(), until=500, log=log, checkpoint_dir=folder)

One step: sample two responses to each prompt; read the reward at `<|im_end|>` and subtract its running mean; subtract
`kl_coef` times the log-ratio to the reference at every token; estimate advantages (GAE); then a few minibatch updates
of the value model (squared error, clipped) and of the policy (clipped ratio). To each policy gradient that of

    - ptx_coef * mean log p(token)        over packed documents of the pretraining corpus

is added, from a stream of its own: `ptx(number of the update)` gives training batches. This is what keeps RLHF from
costing abilities (the alignment tax); the report says it needs much more pretraining data than prompts. In the first
`value_warmup_steps` steps the policy is frozen and only the value model learns.

`reward(ids_lists)` scores whole chats that end with `<|im_end|>`: `functools.partial(score_texts, reward_model)`, or
any function. Every model reads the same right-padded rows, batched by length; no attention mask is needed
(`model/batching.py`), and `mask_BR` alone decides which tokens count. Losses are means over the response tokens of a
minibatch.

A response cut by the length limit gets no value after its end and loses `missing_eos_penalty`. Dropout is off
throughout, since the ratio of an unchanged policy must be 1. The engine samples from the policy itself, not a copy.

State of a run: both models, both optimizers, the reward's running moments, the step. Everything else is a function of
(seed, step), so a resumed run is the uninterrupted one, bit for bit on a CPU.

Metrics: `kl` is nats per response (k3), `sampling_logp_difference` the largest gap between the sampler's and the
policy's log-probability of any token of a step, before its first update: above 1e-3 the two do not compute the same.
Losses, norms and the like are means over the updates of a step; `entropy` is that of the policy that sampled.

Legend: B responses, R response tokens (padded right), N real response tokens, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from qwenkit.alignment import ppo_loss
from qwenkit.alignment.ppo_config import PPOConfig
from qwenkit.alignment.ppo_loss import RunningMoments
from qwenkit.alignment.rollouts import Prompts, Rollout, rollout
from qwenkit.errors import UserError
from qwenkit.inference import Engine
from qwenkit.model import ScalarModel, Transformer
from qwenkit.model.batching import length_batches
from qwenkit.model.logprobs import token_logprobs
from qwenkit.model.modes import set_activation_checkpointing
from qwenkit.rng import derive_seed, permutation
from qwenkit.training import Batch, OptimizerSet, RunState, build_optimizer, clip_gradients, lm_objective, raise_alarm
from qwenkit.training.step_batch import StepBatches

Metrics = dict[str, float]


class Reward(Protocol):
    """A function that scores whole chats."""

    def __call__(self, ids_lists: list[list[int]], /) -> Tensor:
        """Return one reward [B] for each chat, given as token ids that end with `<|im_end|>`."""
        ...


class Observe(Protocol):
    """A function that measures the responses of a step, for the log only."""

    def __call__(self, rollout: Rollout, /) -> Mapping[str, float]:
        """Return metrics by name."""
        ...


@dataclass
class Experience:
    """The responses of a step, and everything that stays fixed while the models learn from them."""

    rollout: Rollout
    old_logprobs_BR: Tensor
    values_BR: Tensor
    advantages_BR: Tensor
    returns_BR: Tensor
    metrics: Metrics

    def flat(self, x_BR: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the values [N] at the real tokens of some rows, row after row: the order of `Rollout.tokens_N`."""
        return x_BR[rows][self.rollout.mask_BR[rows]]


def response_logprobs(model: Transformer, batch: Rollout) -> tuple[Tensor, Tensor]:
    """Return the log-probability [N] of each response token, and the entropy [N] of the distribution that it was drawn
    from (without gradient), both in nats."""
    result = token_logprobs(model, batch.preceding_hidden(model.hidden(batch.ids_BT)), batch.tokens_N, entropy=True)
    assert result.entropy is not None
    return result.logprobs, result.entropy


def response_values(model: ScalarModel, batch: Rollout) -> Tensor:
    """Return the value [N] of the state before each response token."""
    values_N = batch.preceding_hidden(model.score(batch.ids_BT))
    return values_N.to(torch.promote_types(values_N.dtype, torch.float32))


class PPO:
    """PPO (Schulman et al., 2017; for language models Ouyang et al., 2022): the four models, the prompts and the
    optimizers. `update` is one step for `training.run`."""

    def __init__(
        self,
        policy: Transformer,
        value: ScalarModel,
        reference: Transformer,
        reward: Reward,
        prompts: Prompts,
        config: PPOConfig,
        *,
        im_end_id: int,
        stop_token_ids: Sequence[int] = (),
        vocabulary: int | None = None,
        ptx: StepBatches[Batch] | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Set up a run of PPO: the models are put into eval mode, and the reference needs no gradients.

        `ptx(update)` gives the batch of pretraining documents for the update of that number; `observe(rollout)`
        adds metrics to a step, such as those of the gold rubric. `stop_token_ids` end a response as they end a turn in
        a chat (`chat.stop_token_ids`); only `im_end_id` ends it as the reward model wants it.

        Raises a `UserError` for a `ptx_coef` without `ptx`, and for prompts that come in other numbers per step."""
        if config.ptx_coef and ptx is None:
            raise UserError(f"ptx_coef = {config.ptx_coef}, but there is no pretraining corpus", where="PPO",
                            hint="name a corpus, or set ptx_coef = 0")  # fmt: skip
        if prompts.per_step != config.prompts_per_step:
            raise UserError(f"the prompts come {prompts.per_step} a step", where="PPO",
                            expected=f"prompts_per_step = {config.prompts_per_step}")  # fmt: skip
        self.policy, self.value, self.reference = policy.eval(), value.eval(), reference.eval().requires_grad_(False)
        for model in (policy, value):
            set_activation_checkpointing(model, config.activation_checkpointing)
        self.reward, self.prompts, self.config, self.im_end_id = reward, prompts, config, im_end_id
        self.ptx, self.observe, self.stop_token_ids = ptx, observe, tuple(stop_token_ids)
        self.engine = Engine(policy, None, max_batch=config.prompts_per_step * config.samples_per_prompt,
                             vocabulary=vocabulary)  # fmt: skip
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
        """Train one step: sample responses, compute rewards and advantages, and learn from them. Return the step's
        metrics."""
        config = self.config
        self.policy.eval()
        self.value.eval()
        frozen = step < config.value_warmup_steps
        experience = self.compute_experience(self.sample(step), state)
        parts = [rows for epoch in range(config.epochs) for rows in self.minibatches(step, epoch)]
        sums: Metrics = {}
        for part, rows in enumerate(parts):
            _add(sums, self._learn_value(experience, rows))
            if not frozen:
                _add(sums, self._learn_policy(experience, rows, step * len(parts) + part))
        metrics = {**{name: total / len(parts) for name, total in sums.items()}, **experience.metrics}
        return {**metrics, "lr": self.policy_optimizer.lr, "policy_frozen": float(frozen)}

    def sample(self, step: int) -> Rollout:
        """Return the responses of a step, sampled from the present policy."""
        config = self.config
        self.engine.update_weights()
        return rollout(self.engine, self.prompts, step, samples=config.samples_per_prompt, top_p=config.top_p,
                       max_tokens=config.max_response_tokens, temperature=config.temperature,
                       im_end_id=self.im_end_id, stop_token_ids=self.stop_token_ids)  # fmt: skip

    @torch.no_grad()
    def compute_experience(self, batch: Rollout, state: RunState) -> Experience:
        """Return rewards, values and advantages: everything that does not change while a step is learnt from.

        The policy scores every response once more, so that a sampler that computes something else shows at any
        token."""
        config, mask_BR = self.config, batch.mask_BR
        moments = RunningMoments(**state.numbers["reward"])
        scores_B = self.reward(batch.texts(self.im_end_id)).to(mask_BR.device)
        moments.update(scores_B)
        state.numbers["reward"] = asdict(moments)
        normalised_B = moments.normalise(scores_B, config.reward_norm)
        normalised_B = normalised_B - config.missing_eos_penalty * (~batch.finished_B)

        metrics = _describe(batch, scores_B, normalised_B)
        own_BR, entropy_BR = self._map(batch, lambda part: response_logprobs(self.policy, part))
        metrics["entropy"] = float(entropy_BR[mask_BR].mean())
        metrics["sampling_logp_difference"] = float((own_BR - batch.logprobs_BR).abs().max())
        old_BR = own_BR if config.own_logprobs else batch.logprobs_BR
        (ref_BR,) = self._map(batch, lambda part: response_logprobs(self.reference, part)[:1])
        (values_BR,) = self._map(batch, lambda part: (response_values(self.value, part),))

        rewards_BR = ppo_loss.token_rewards(normalised_B, ppo_loss.kl_k1(old_BR, ref_BR), mask_BR, config.kl_coef)
        advantages_BR, returns_BR = ppo_loss.gae(rewards_BR, values_BR, mask_BR, config.gamma, config.gae_lambda)
        metrics["kl"] = float((ppo_loss.kl_k3(old_BR, ref_BR) * mask_BR).sum(1).mean())
        metrics["explained_variance"] = ppo_loss.explained_variance(values_BR[mask_BR], returns_BR[mask_BR])
        metrics["value"] = float(values_BR[mask_BR].mean())
        if config.whiten_advantages:
            advantages_BR = ppo_loss.whiten(advantages_BR, mask_BR)
        if self.observe:
            metrics.update(self.observe(batch))
        return Experience(batch, old_BR, values_BR, advantages_BR, returns_BR, metrics)

    def minibatches(self, step: int, epoch: int) -> list[list[int]]:
        """Return the rows of each update: a permutation, divided into parts that differ by at most one row."""
        count, parts = self.config.prompts_per_step * self.config.samples_per_prompt, self.config.minibatches
        order = permutation(derive_seed(self.config.seed, "minibatches"), count, step, epoch).tolist()
        cuts = [part * count // parts for part in range(parts + 1)]
        return [order[start:stop] for start, stop in pairwise(cuts)]

    def value_gradient(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        """Add the gradient of the value loss over some rows; return its metrics."""
        total, sums = int(experience.rollout.mask_BR[rows].sum()), {}
        for micro in self._micro(experience.rollout, rows):
            with self._autocast():
                values_N = response_values(self.value, experience.rollout.select(micro))
            old_N, returns_N = (experience.flat(x, micro) for x in (experience.values_BR, experience.returns_BR))
            loss_N, clipped_N = ppo_loss.value_loss(values_N, old_N, returns_N, self.config.value_clip)
            (loss_N.sum() / total).backward()
            parts = {"value_loss": loss_N, "value_clip_fraction": clipped_N}
            _add(sums, {name: float(x_N.detach().sum()) / total for name, x_N in parts.items()})
        return sums

    def policy_gradient(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        """Add the gradient of the clipped surrogate over some rows; return its metrics."""
        total, sums = int(experience.rollout.mask_BR[rows].sum()), {}
        for micro in self._micro(experience.rollout, rows):
            with self._autocast():
                logprobs_N, _ = response_logprobs(self.policy, experience.rollout.select(micro))
            old_N, advantages_N = (
                experience.flat(x, micro) for x in (experience.old_logprobs_BR, experience.advantages_BR)
            )
            loss_N, clipped_N = ppo_loss.policy_loss(logprobs_N, old_N, advantages_N, self.config.policy_clip)
            (loss_N.sum() / total).backward()
            moved_N = ppo_loss.kl_k3(old_N, logprobs_N)
            parts = {"policy_loss": loss_N, "clip_fraction": clipped_N, "update_kl": moved_N}
            _add(sums, {name: float(x_N.detach().sum()) / total for name, x_N in parts.items()})
        return sums

    def ptx_gradient(self, number: int) -> Metrics:
        """Add the gradient of the pretraining term: `ptx_coef` times the mean loss over one batch of documents."""
        if not self.config.ptx_coef or self.ptx is None:
            return {}
        device = next(self.policy.parameters()).device
        batch, total = self.ptx(number), 0.0
        weight = batch.weight
        for micro_batch in batch.micro_batches:
            with self._autocast():
                loss, _ = lm_objective(self.policy, micro_batch.to(device))
            (self.config.ptx_coef * loss / weight).backward()
            total += float(loss.detach())
        return {"ptx_loss": total / weight, "ptx_tokens": weight}

    def _learn_value(self, experience: Experience, rows: Sequence[int]) -> Metrics:
        metrics = self.value_gradient(experience, rows)
        metrics["value_grad_norm"] = self._step(self.value_optimizer, metrics["value_loss"], experience, rows)
        return metrics

    def _learn_policy(self, experience: Experience, rows: Sequence[int], number: int) -> Metrics:
        metrics = self.policy_gradient(experience, rows)
        metrics.update(self.ptx_gradient(number))
        loss = metrics["policy_loss"] + metrics.get("ptx_loss", 0.0)
        metrics["policy_grad_norm"] = self._step(self.policy_optimizer, loss, experience, rows)
        return metrics

    def _step(self, optimizer: OptimizerSet, loss: float, experience: Experience, rows: Sequence[int]) -> float:
        """Clip the gradient and step; return its norm. A loss or gradient that is not finite stops the run before."""
        where = f"prompts {sorted({self.prompts.rows[experience.rollout.prompts[row]] for row in rows})[:16]}"
        if loss != loss or abs(loss) == float("inf"):
            optimizer.zero_grad()
            raise_alarm("nonfinite-loss", loss, where)
        norm = clip_gradients(optimizer, self.config.max_grad_norm, lambda: where)
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def _autocast(self) -> torch.autocast:
        device = next(self.policy.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _micro(self, batch: Rollout, rows: Sequence[int] | None = None) -> list[list[int]]:
        return length_batches(batch.lengths, self.config.micro_tokens, rows)

    def _map(self, batch: Rollout, read: Callable[[Rollout], tuple[Tensor, ...]]) -> list[Tensor]:
        """Return what a model gives for each response token as [B, R], zero at padding.

        `read` returns values [N] of a micro-batch; `flat` is the way back. For example, responses of 2 and 3 tokens:

            mask_BR = [[1, 1, 0],       read(both rows) = [a, b, c, d, e]        row after row
                       [1, 1, 1]]       x_BR[mask_BR] = [a, b, c, d, e]  gives   [[a, b, 0], [c, d, e]]

        A micro-batch holds its rows by length, and a mask assigns in the order of rows: hence `sorted`."""
        values_BR: list[Tensor] = []
        for rows in self._micro(batch):
            here_BR = torch.zeros_like(batch.mask_BR)
            here_BR[rows] = batch.mask_BR[rows]
            with self._autocast():
                values_N = read(batch.select(sorted(rows)))
            for i, x_N in enumerate(values_N):
                if i == len(values_BR):
                    values_BR.append(torch.zeros(here_BR.shape, dtype=x_N.dtype, device=x_N.device))
                values_BR[i][here_BR] = x_N
        return values_BR


def _describe(batch: Rollout, scores_B: Tensor, normalised_B: Tensor) -> Metrics:
    """Return metrics of the responses of a step, before anything is learnt."""
    length = float(batch.mask_BR.sum(1).double().mean())
    return {
        "reward": float(scores_B.double().mean()),
        "reward_std": float(scores_B.double().std(correction=0)),
        "normalised_reward": float(normalised_B.double().mean()),
        "length": length,
        "response_tokens": length,  # the name that the sentinel's alarm for runaway length watches
        "finished": float(batch.finished_B.double().mean()),
        "tokens": sum(batch.lengths),
    }


def _add(sums: Metrics, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value
