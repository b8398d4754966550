"""The models of PPO from folders: what each starts from, what they share; and the table of rewards."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qwenkit.alignment import ModelReward, OwnReward, load_policy_and_reference, load_rewards, load_value_model
from qwenkit.alignment.collect import longest_prompt
from qwenkit.alignment.reward_worker import check_reward_weights, find_rewards
from qwenkit.errors import UserError
from qwenkit.model import ScalarModel, Transformer, save_model, save_scalar
from qwenkit.model.adapted import Trunks
from qwenkit.model.lora_config import LoRAConfig

from .conftest import IM_END


@pytest.fixture
def chat(tmp_path: Path, make_policy: Callable[..., Transformer]) -> Path:
    save_model(make_policy(), tmp_path / "chat")
    return tmp_path / "chat"


@pytest.fixture
def scorer(tmp_path: Path, make_scalar: Callable[..., ScalarModel]) -> Path:
    save_scalar(make_scalar(1), tmp_path / "reward")
    return tmp_path / "reward"


@pytest.fixture
def function(tmp_path: Path) -> str:
    (tmp_path / "checks.py").write_text("def score(rows, trajectories):\n    return [1.0 for _ in rows]\n")
    return f"{tmp_path}/checks.py:score"


def test_policy_and_reference_start_equal_and_share_weights_with_an_adapter_alone(chat: Path) -> None:
    policy, reference = load_policy_and_reference(chat, Trunks("cpu"), None, 1, bf16=False)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(policy(ids), reference(ids))
    own, others = ({tensor.data_ptr() for tensor in model.parameters()} for model in (policy, reference))
    assert not own & others

    policy, reference = load_policy_and_reference(chat, Trunks("cpu"), LoRAConfig(rank=2), 1, bf16=False)
    assert torch.equal(policy(ids), reference(ids)) and reference.adapter is None
    frozen = {tensor.data_ptr() for tensor in policy.parameters() if not tensor.requires_grad}
    assert {tensor.data_ptr() for tensor in reference.parameters()} <= frozen


def test_the_value_model_is_the_reward_model_or_the_policy_with_a_drawn_head(chat: Path, scorer: Path) -> None:
    of_scorer = load_value_model(scorer, Trunks("cpu"), None, 1, bf16=False)
    other_seed = load_value_model(scorer, Trunks("cpu"), None, 2, bf16=False)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(of_scorer.score(ids), other_seed.score(ids))
    drawn, again, other = (load_value_model(chat, Trunks("cpu"), None, seed, bf16=False) for seed in (1, 1, 2))
    assert torch.equal(drawn.score(ids), again.score(ids)) and not torch.equal(drawn.score(ids), other.score(ids))


def test_a_table_of_rewards_names_the_reward_model_and_functions(scorer: Path, function: str) -> None:
    value = load_value_model(scorer, Trunks("cpu"), None, 1, bf16=False)
    rewards = load_rewards({function: 0.5, "model": 2.0}, value, scorer, IM_END, seconds=60)
    assert list(rewards.parts) == sorted([function, "model"])
    assert rewards.parts["model"].weight == 2 and rewards.parts[function].weight == 0.5
    own, model = rewards.parts[function].score, rewards.parts["model"].score
    assert isinstance(own, OwnReward) and isinstance(model, ModelReward)
    assert model.model is not value and list(find_rewards(["model", function])) == [function]


@pytest.mark.parametrize(("weights", "has_reward_model", "message"), [
    ({}, True, "`reward` is empty"),
    ({"model": 1.0}, False, "there is no `reward_model`"),
    ({"modle": 1.0}, True, "no reward `modle`"),
])  # fmt: skip
def test_a_table_that_cannot_be_meant_is_refused(
    weights: dict[str, float], has_reward_model: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_reward_weights(weights, has_reward_model)


def test_a_prompt_may_be_as_long_as_its_answer_leaves_room() -> None:
    assert longest_prompt([[1] * 9, [1] * 3], seq_length=10, max_tokens=6) == 4
    with pytest.raises(UserError, match="the shortest has 3 tokens"):
        longest_prompt([[1] * 3], seq_length=8, max_tokens=6)
