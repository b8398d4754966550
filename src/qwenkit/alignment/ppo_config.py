"""The settings of PPO (report §3.2.2). No torch here: a recipe is checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenkit.errors import UserError
from qwenkit.settings import setting
from qwenkit.training.settings import CHECKPOINTING

REWARD_NORMS = ("mean", "mean_std", "none")


PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """The settings of a PPO run: the report's, or marked ours where it gives none. Each is a key of `ppo` in
    recipes."""

    prompts_per_step: int = setting(64, doc="prompts in a step (ours)", ge=1)
    samples_per_prompt: int = setting(2, doc="responses to each prompt", ge=1)
    temperature: float = setting(1.0, doc="sampling temperature (ours)", gt=0)
    top_p: float = setting(0.9, doc="sample from the likeliest tokens that together have this probability", gt=0, le=1)
    kl_coef: float = setting(
        0.04, doc="price of a nat of KL to the reference; paid token by token, within the reward (so ours)", ge=0
    )
    reward_norm: Literal["mean", "mean_std", "none"] = setting(
        "mean", doc="mean subtracts the running mean of rewards; mean_std also divides by their deviation"
    )
    missing_eos_penalty: float = setting(1.0, doc="reward taken off a response that did not end its turn (ours)", ge=0)
    gamma: float = setting(1.0, doc="discount of GAE (ours)", ge=0, le=1)
    gae_lambda: float = setting(0.95, doc="lambda of GAE (ours)", ge=0, le=1)
    whiten_advantages: bool = setting(
        True, doc="advantages of a step get mean 0 and deviation 1: the learning rate knows no scale of rewards (ours)"
    )
    policy_clip: float = setting(0.2, doc="clip range of the probability ratio (ours)", gt=0)
    value_clip: float = setting(0.15, doc="clip range of the value's change from its old estimate", gt=0)
    value_warmup_steps: int = setting(50, doc="steps in which only the value model learns", ge=0)
    epochs: int = setting(1, doc="passes over a step's responses (ours)", ge=1)
    minibatches: int = setting(4, doc="updates in a pass (ours)", ge=1)
    micro_tokens: int = setting(16384, doc="padded tokens in one forward pass; changes only rounding (ours)", ge=64)
    policy_lr: float = setting(1e-6, doc="learning rate of the policy", gt=0)
    value_lr: float = setting(5e-6, doc="learning rate of the value model", gt=0)
    weight_decay: float = setting(
        0.0, doc="weight decay of matrices; the KL penalty holds the policy already (ours)", ge=0
    )
    max_grad_norm: float = setting(1.0, doc="largest gradient norm of either model, as in SFT (ours)", gt=0)
    recompute_logprobs: bool = setting(
        False,
        doc="start the ratio from the policy's own log-probabilities, not the sampler's: where the two differ in"
        " precision (ours)",
    )
    precision: Literal["fp32", "bf16"] = setting(
        "fp32",
        doc="precision of the matrix products in learning; bf16 implies recompute_logprobs, for sampling stays in"
        " fp32 (ours)",
    )
    activation_checkpointing: Literal["none", "full"] = setting("none", doc=CHECKPOINTING, role="runtime")
    ptx_coef: float = setting(0.1, doc="weight of the pretraining gradient (ours: the report gives none)", ge=0)
    max_response_tokens: int = 512
    """Ours: a response is cut there (the key `max_tokens`)."""
    seed: int = 0
    """The seed of minibatches; prompts and sampling have theirs in `Prompts`."""

    def __post_init__(self) -> None:
        """Raise a `UserError` for a value that cannot be used."""
        for name in ("prompts_per_step", "samples_per_prompt", "max_response_tokens", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}", where="PPO", expected="1 or more")
        if self.minibatches > self.prompts_per_step * self.samples_per_prompt:
            raise UserError(f"minibatches = {self.minibatches}, but a step has fewer responses", where="PPO")
        for name, known in (("reward_norm", REWARD_NORMS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r}", where="PPO", expected=", ".join(known))

    @property
    def own_logprobs(self) -> bool:
        """Return whether the old log-probabilities are computed by the policy, instead of taken from the sampler."""
        return self.recompute_logprobs or self.precision != "fp32"

    @property
    def alarm_limits(self) -> dict[str, dict[str, float]]:
        """Return the limits of alarms that differ from the table.

        A policy that computes its own log-probabilities has a sampler in another precision, whose log-probabilities may
        differ by a nat."""
        return {"sampling-mismatch": {"threshold": 1.0}} if self.own_logprobs else {}
