"""The models and the rewards of PPO, loaded from folders: which of them share weights, and the dtype of each.

    trunks = Trunks("cpu")
    policy, reference = load_policy_and_reference(folder, trunks, lora=None, seed=1, bf16=False)
    value = load_value_model(reward_folder, trunks, lora=None, seed=2, bf16=False)
    rewards = load_rewards({"model": 1.0, "checks.py:score": 0.5}, value, reward_folder, im_end_id, seconds=60)

With full training every model has weights of its own. With an adapter (`lora`) all of them stand on the frozen weights
of their folders, which `Trunks` holds once, so four models take the memory of one or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from qwenkit.adapter_files import is_adapter
from qwenkit.alignment.own_rewards import OwnReward
from qwenkit.alignment.reward_worker import MODEL_REWARD, find_rewards
from qwenkit.alignment.rewards import ModelReward, Rewards, Weighted
from qwenkit.model import ScalarModel, Transformer, load_scalar
from qwenkit.model.adapted import Trunks, frozen_copy, load_trained, load_trained_scorer
from qwenkit.model.lora_config import LoRAConfig


def load_policy_and_reference(
    folder: Path, trunks: Trunks, lora: LoRAConfig | None, seed: int, *, bf16: bool
) -> tuple[Transformer, Transformer]:
    """Return the policy and its reference, both loaded from `folder`.

    The reference computes in the policy's dtype; otherwise their divergence would be that of two dtypes. With an
    adapter the reference is the policy's weights without one, or with the one that the policy begins with."""
    policy = load_trained(folder, trunks, lora, seed, bf16=bf16)
    if lora is None:
        return policy, load_trained(folder, trunks, None, seed)
    return policy, frozen_copy(policy, with_adapter=is_adapter(folder))


def load_value_model(folder: Path, trunks: Trunks, lora: LoRAConfig | None, seed: int, *, bf16: bool) -> ScalarModel:
    """Return the value model, which starts from the reward model of `folder`, or from a language model with a new head
    drawn from `seed`. Of an adapter's settings it has all but the modules that are trained as a whole."""
    settings = None if lora is None else replace(lora, modules_to_save=None)
    return load_trained_scorer(folder, trunks, settings, seed, bf16=bf16)


def load_rewards(
    weights: Mapping[str, float],
    value: ScalarModel,
    reward_model: Path | None,
    im_end_id: int,
    *,
    seconds: float,
    device: str = "cpu",
    share_weights: bool = False,
) -> Rewards:
    """Return the rewards of a table of weights: `model` is the reward model, every other name a function.

    `share_weights`: the reward model is a frozen copy of `value`, which has just been loaded from the same folder;
    otherwise it is loaded in the dtype in which it is stored. A function has `seconds` for the answers of a step.
    Raises a `UserError` for a function that does not exist."""
    functions, parts = find_rewards(weights), dict[str, Weighted]()
    for name, weight in sorted(weights.items()):  # the sum does not depend on the order in the recipe
        if name in functions:
            parts[name] = Weighted(weight, OwnReward(functions[name], seconds))
        elif name == MODEL_REWARD and reward_model is not None:
            shared = frozen_copy(value, is_adapter(reward_model)) if share_weights else None
            scorer = load_scalar(reward_model, "auto", device) if shared is None else shared
            parts[name] = Weighted(weight, ModelReward(scorer, im_end_id))
    return Rewards(parts)
