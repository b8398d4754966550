"""Other algorithms from the same parts: group-relative advantages without a critic, several turns with a reward in the
middle, and an objective on comparisons. Each learns a small task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit import Engine, SamplingParams
from qwenkit.alignment import (
    PPO,
    Passes,
    PPOConfig,
    Prompts,
    Rewards,
    SingleTurn,
    Trajectories,
    Trajectory,
    Weighted,
    optimizer_step,
    sampled_logprobs,
)
from qwenkit.alignment.collect import RolloutEngine
from qwenkit.alignment.policy_gradient import policy_gradient
from qwenkit.inference.outputs import Output
from qwenkit.training import build_optimizer

from .conftest import IM_END
from .test_trajectories import trajectory

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
ROWS = [{"answer": 11}, {"answer": 12}, {"answer": 13}, {"answer": 14}]


# ---- group-relative advantages (as in GRPO), with a verifier that reads the row -------------------------------------


def says_the_answer(rows: Sequence[Any], trajectories: Sequence[Trajectory]) -> list[float]:
    """1 where the first sampled token is the one that the prompt's row asks for."""
    return [float(each.ids[each.sampled.index(True)] == row["answer"]) for row, each in zip(rows, trajectories)]


def group_advantages(scores_B: Tensor, batch: Trajectories) -> Tensor:
    """The score against the mean of the prompt's samples, in deviations of these, at every sampled token."""
    advantages_B = torch.zeros_like(scores_B)
    for group in batch.groups_B.unique():
        here_B = batch.groups_B == group
        of_group = scores_B[here_B]
        advantages_B[here_B] = (of_group - of_group.mean()) / (of_group.std(correction=0) + 1e-6)
    return advantages_B[:, None] * batch.sampled_BT


def test_groups_without_a_value_model_learn_what_a_verifier_rewards(make_policy) -> None:
    """Each prompt has another right answer, which only its row says."""
    policy = make_policy(0, std=0.05)
    engine, optimizer = Engine(policy, None), build_optimizer(policy, "adamw", lr=1e-2, weight_decay=0.0)
    prompts = Prompts(PROMPTS, per_step=4, seed=0, rows=ROWS)
    collect = SingleTurn(im_end_id=IM_END, samples=24, max_tokens=2)
    rewards, passes = Rewards({"right": Weighted(1.0, says_the_answer)}), Passes(micro_tokens=256)
    means: list[float] = []
    for step in range(30):
        engine.update_weights()
        batch = collect(engine, prompts, step)
        scores = rewards(batch)
        advantages_BT = group_advantages(scores.total_B, batch)
        metrics = policy_gradient(policy, batch, batch.logprobs_BT, advantages_BT, range(len(batch)), passes, clip=0.2)
        optimizer_step(optimizer, metrics["policy_loss"], 1.0, "a test")
        means.append(scores.metrics()["reward_right"])
    assert means[0] < 0.2 and means[-1] > 0.9
    assert {version for each in batch for version in each.weight_versions} == {30}


# ---- two turns, with a reward in the first --------------------------------------------------------------------------

OBSERVATION = (20, 21)


@dataclass(frozen=True)
class TwoTurns:
    """Two sampled tokens, an observation that nobody sampled, two more; token 7 in the first turn is rewarded there."""

    def __call__(self, sampler: RolloutEngine, prompts: Prompts, step: int, /) -> Trajectories:
        params = SamplingParams.plain(max_tokens=2, temperature=1.0, ignore_eos=True, logprobs=True)
        chosen, rng_ids = prompts.at(step), prompts.rng_ids(step)
        with torch.inference_mode():
            first = sampler.generate([prompts.ids[i] for i in chosen], params, rng_ids)
            seen = [[*output.prompt_ids, *output.ids, *OBSERVATION] for output in first]
            second = sampler.generate(seen, replace(params, seed=1), rng_ids)
        return Trajectories.of([self.joined(*turns) for turns in zip(chosen, first, second)])

    def joined(self, prompt: int, first: Output, second: Output) -> Trajectory:
        before = len(first.prompt_ids)
        return Trajectory(
            ids=(*second.prompt_ids, *second.ids),
            sampled=(*[False] * before, True, True, False, False, True, True),
            logprobs=(*(first.logprobs or ()), *(second.logprobs or ())),
            weight_versions=(first.version,) * 2 + (second.version,) * 2,
            finish_reason="length", ended=True, row={}, prompt=prompt,
            step_rewards={before + 1: float(first.ids.count(7))},
        )  # fmt: skip


def test_a_reward_in_the_first_of_two_turns_is_learnt(make_policy, make_scalar) -> None:
    """By PPO itself, with another collector: what stands between the turns is read and not learnt, the ratio of the
    unchanged policy is 1 in both turns, and the task is learnt from a reward at a token in the middle."""
    policy = make_policy(0)
    config = PPOConfig(prompts_per_step=32, samples_per_prompt=1, value_warmup_steps=0, ptx_coef=0.0, policy_lr=1e-2,
                       value_lr=5e-3, minibatches=2, epochs=2, kl_coef=0.0)  # fmt: skip
    nothing = Rewards({"nothing": Weighted(1.0, lambda rows, items: [0.0] * len(items))})
    said: list[float] = []
    ppo = PPO(policy, make_scalar(1), make_policy(0), nothing, Prompts(PROMPTS, 32, seed=0), config,
              sampler=Engine(policy, None), collect=TwoTurns(),
              observe=lambda batch: said.append(float(batch.step_rewards_BT.sum()) / len(batch)) or {})  # fmt: skip
    state = ppo.state()
    metrics = [ppo.update(state, step) for step in range(16)]
    assert all(each["sampling_logp_difference"] < 1e-4 and each["length"] == 4 for each in metrics)
    assert said[0] < 0.5 and said[-1] > 1.5


# ---- comparisons: an objective for the stock update ------------------------------------------------------------------


def dpo_loss(model: Any, pairs: Trajectories, beta: float = 0.5) -> Tensor:
    """Direct preference optimisation of chosen sides, then rejected ones, whose sampler is the reference."""
    gains_BT = pairs.spread(sampled_logprobs(model, pairs)[0]) - pairs.logprobs_BT
    chosen_P, rejected_P = gains_BT.sum(1).chunk(2)
    return -F.logsigmoid(beta * (chosen_P - rejected_P)).sum()


def test_comparisons_are_trajectories_too(make_policy) -> None:
    """At the reference the loss of a pair is log 2; it falls: the chosen sides become likelier than the rejected."""
    model = make_policy(0)
    items = [
        trajectory([1, 2, 3, *answer], "00011", logprobs=(0.0, 0.0)) for answer in ([5, 6], [7, 8], [9, 6], [7, 9])
    ]
    (reference_BT,) = Passes(256).read(Trajectories.of(items), lambda part: sampled_logprobs(model, part)[:1])
    pairs = Trajectories.of([
        replace(each, logprobs=tuple(row[row != 0].tolist())) for each, row in zip(items, reference_BT)
    ])  # fmt: skip
    optimizer = build_optimizer(model, "adamw", lr=1e-3, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(10):
        loss = dpo_loss(model, pairs) / 2
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer_step(optimizer, losses[-1], 1.0, "a test")
    assert abs(losses[0] - 0.6931) < 1e-3 and losses[-1] < 0.3
