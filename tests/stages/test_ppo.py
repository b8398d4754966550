"""The rewards of PPO as a recipe names them: a reward model, functions of a user's own, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwenkit import alignment
from qwenkit.model import load_model
from qwenkit.stages import ppo
from tests.stages.conftest import Desk
from tests.stages.test_training import PPO, prompts, run_ppo


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A reward that reads the row and the text: the number of the row, and a hundredth of the length of the answer."""
    value = "row['points'] + len(each.text) / 100"
    text = f"def score(rows, trajectories):\n    return [{value} for row, each in zip(rows, trajectories)]\n"
    (tmp_path / "checks.py").write_text(text)
    return f"{tmp_path}/checks.py:score"


def edges(desk: Desk, folder: Callable[..., Path]) -> dict[str, Path]:
    rows = [{**row, "points": float(n)} for n, row in enumerate(prompts())]
    return {"model": folder("chat"), "prompts": desk.rows("prompts.jsonl", rows)}


def steps_of(desk: Desk) -> list[dict[str, Any]]:
    return [event for event in desk.events if event["event"] == "step"]


def test_a_reward_of_one_s_own_needs_no_reward_model(
    desk: Desk, folder: Callable[..., Path], own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the rows of data. The value model is the policy's own trunk, with a head that the seed draws."""
    made: list[Any] = []
    usual = alignment.PPO

    def watched(*given: Any, **rest: Any) -> Any:
        value = given[1]
        made.append({name: tensor.clone() for name, tensor in value.state_dict().items()})
        return usual(*given, **rest)

    monkeypatch.setattr(alignment, "PPO", watched)
    for _ in range(2):
        desk.run(ppo, edges(desk, folder), **{**PPO, "steps": 2, "reward": {own: 1.0}})
    trunk = load_model(desk.tmp / "chat", "float32").state_dict()
    values, again = made
    shared = [name for name in trunk if name in values]
    assert len(shared) > 10 and all(torch.equal(values[name], trunk[name]) for name in shared)
    head = [name for name in values if name not in trunk]
    assert head and all(torch.equal(values[name], again[name]) and values[name].any() for name in head)
    for event in steps_of(desk):
        assert event["reward"] == pytest.approx(event[f"reward_{own}"]) and "reward_model" not in event
        assert 0 < event["reward"] < 8


def test_rewards_are_summed_by_their_weights(desk: Desk, folder: Callable[..., Path], own: str) -> None:
    inputs = {**edges(desk, folder), "reward_model": folder("reward", scalar=True)}
    desk.run(ppo, inputs, **{**PPO, "steps": 2, "reward": {"model": 0.5, own: 0.25}})
    for event in steps_of(desk):
        expected = 0.5 * event["reward_model"] + 0.25 * event[f"reward_{own}"]
        assert event["reward"] == pytest.approx(expected, rel=1e-6)


def test_a_reward_model_alone_is_the_sum(desk: Desk, folder: Callable[..., Path]) -> None:
    run_ppo(desk, folder, torch.float32, steps=1)
    (event,) = steps_of(desk)
    assert event["reward"] == event["reward_model"] and event["normalised_reward"] != event["reward"]
