"""Alignment, section 3 of the report: comparisons, preference models and reward models, PPO.

    pairs, counts = make_pairs(rows_with_scored_answers)          # comparisons
    update = train_update(model, optimizer, PairBatches(pairs, 64, seed), schedule, objective=PairwiseObjective())
    ppo = PPO(policy, value, reference, rewards, prompts, PPOConfig(), sampler=engine, collect=SingleTurn(...))
    training.run(ppo.update, ppo.state(), until=500)

Reading order: `annotation` -> `comparisons` -> `pair_encoding` -> `pair_shards` -> `reward_model` -> `ranking` (which
pairs a model ranks correctly) -> `pair_training`. Then what every objective on samples is built of: `trajectory` ->
`trajectories` -> `collect` -> `rewards` (a user's own: `own_rewards` and `reward_worker`, with `reward_messages`
between them) -> `ppo_loss` -> `passes` -> `advantages` -> `policy_gradient`, and `ppo_config` -> `ppo_models` -> `ppo`,
which puts them together and which `gold_rubric` observes.
Supervised fine-tuning (§3.1) needs nothing from here: it is the stock update with the renderer's loss mask. Names load
on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "make_pairs": "comparisons",
    "STRATEGIES": "comparisons",
    "Pair": "pair_encoding",
    "PairBatch": "reward_model",
    "PairBatches": "reward_model",
    "PairwiseObjective": "reward_model",
    "answer_ids": "pair_encoding",
    "StoredPairs": "pair_encoding",
    "encode_pairs": "pair_encoding",
    "pair_accuracy": "reward_model",
    "pair_margins": "reward_model",
    "score_texts": "reward_model",
    "true_label": "ranking",
    "ranking_metrics": "ranking",
    "margin_rows": "ranking",
    "ranking_accuracy": "ranking",
    "Trajectory": "trajectory",
    "Trajectories": "trajectories",
    "Prompts": "collect",
    "RolloutEngine": "collect",
    "Collector": "collect",
    "SingleTurn": "collect",
    "Reward": "rewards",
    "Rewards": "rewards",
    "Weighted": "rewards",
    "Scores": "rewards",
    "ModelReward": "rewards",
    "OwnReward": "own_rewards",
    "find_reward": "reward_worker",
    "load_policy_and_reference": "ppo_models",
    "load_value_model": "ppo_models",
    "load_rewards": "ppo_models",
    "Passes": "passes",
    "Advantages": "advantages",
    "gae_advantages": "advantages",
    "value_gradient": "advantages",
    "sampled_logprobs": "policy_gradient",
    "pretraining_gradient": "policy_gradient",
    "optimizer_step": "policy_gradient",
    "PPO": "ppo",
    "rubric_metrics": "gold_rubric",
    "PPOConfig": "ppo_config",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
