"""Rewards: named functions of trajectories and their rows of data, and their weighted sum.

    rewards = Rewards({"model": Weighted(1.0, ModelReward(reward_model, im_end_id)),
                       "checks.py:score": Weighted(0.5, OwnReward(find_reward("checks.py:score"), seconds=60))})
    scores = rewards(batch)
    scores.total_B, scores.metrics()

A reward is `score(rows, trajectories)` and returns one finite number for each trajectory. That of a reward model runs
here; a function of a user's own runs in a process that can be stopped (`own_rewards.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from qwenkit.alignment.reward_model import score_texts
from qwenkit.alignment.reward_worker import as_float
from qwenkit.alignment.trajectories import Trajectories
from qwenkit.alignment.trajectory import Trajectory
from qwenkit.errors import UserError, listed
from qwenkit.model import ScalarModel
from qwenkit.training import raise_alarm


class Reward(Protocol):
    """A function that scores trajectories: a reward model, a verifier, a rule."""

    def __call__(self, rows: Sequence[Mapping[str, Any]], trajectories: Sequence[Trajectory], /) -> Sequence[float]:
        """Return one number for each trajectory; `rows` are the rows of data of their prompts."""
        ...


class Weighted(NamedTuple):
    """A reward and what it counts in the sum. A weight of 0 only logs it."""

    weight: float
    score: Reward


class Scores(NamedTuple):
    """The rewards of a batch: their weighted sum [B] in float32, and each by name, without its weight."""

    total_B: Tensor
    by_name: dict[str, list[float]]

    def metrics(self) -> dict[str, float]:
        """Return the mean and the deviation of the sum, and the mean of each reward, `reward_NAME`."""
        total_B = self.total_B.double()
        return {
            "reward": float(total_B.mean()),
            "reward_std": float(total_B.std(correction=0)),
            **{f"reward_{name}": fmean(values) for name, values in self.by_name.items()},
        }


@dataclass(frozen=True)
class Rewards:
    """The rewards of a run by name, with their weights."""

    parts: Mapping[str, Weighted]

    def __call__(self, batch: Trajectories) -> Scores:
        """Return the scores of a batch.

        Raises a `UserError` for a reward that does not return one number for each trajectory, and the alarm
        `nonfinite-reward` for a number that is not finite."""
        rows = [each.row for each in batch]
        by_name: dict[str, list[float]] = {}
        for name, (_, score) in self.parts.items():
            by_name[name] = one_for_each(name, score(rows, batch.items), batch.items)
            _refuse_not_finite(name, by_name[name], batch)
        columns = [torch.tensor(by_name[name], dtype=torch.float64) * part.weight for name, part in self.parts.items()]
        return Scores(torch.stack(columns).sum(0).float().to(batch.ids_BT.device), by_name)


@dataclass(frozen=True)
class ModelReward:
    """A reward model as a reward: its score at the `<|im_end|>` of the whole chat, which is appended where the
    trajectory did not end with it."""

    model: ScalarModel
    im_end_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]], trajectories: Sequence[Trajectory], /) -> list[float]:
        """Return the scores of trajectories; the rows are not read."""
        return score_texts(self.model, [self.text(each) for each in trajectories]).tolist()

    def text(self, trajectory: Trajectory) -> list[int]:
        """Return the ids that the model scores."""
        return [*trajectory.ids] if trajectory.ended else [*trajectory.ids, self.im_end_id]


def one_for_each(name: str, values: Any, trajectories: Sequence[Trajectory]) -> list[float]:
    """Return what a reward returned as one float for each trajectory; a `UserError` names the reward otherwise, and
    the trajectory."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise UserError(f"the reward returned {values!r:.60}", where=reward_place(name, trajectories),
                        expected="a list of numbers, one for each trajectory")  # fmt: skip
    if len(values) != len(trajectories):
        raise UserError(f"the reward returned {len(values)} values", where=reward_place(name, trajectories),
                        expected=f"{len(trajectories)}, one for each trajectory")  # fmt: skip
    for value, trajectory in zip(values, trajectories):
        if not isinstance(value, Real):
            raise UserError(f"the reward returned {value!r:.60}", where=reward_place(name, [trajectory]),
                            expected="a finite number for each trajectory")  # fmt: skip
    return [as_float(value) for value in values]


def reward_place(name: str, trajectories: Sequence[Trajectory]) -> str:
    """Return the place of messages about a reward: its name and the trajectories in question."""
    return f"reward {name}, {listed([each.name for each in trajectories], 4)}"


def _refuse_not_finite(name: str, values: Sequence[float], batch: Trajectories) -> None:
    """Raise an alarm for a reward that is NaN or infinite, before anything learns from it."""
    broken = [row for row, value in enumerate(values) if not math.isfinite(value)]
    if broken:
        raise_alarm("nonfinite-reward", values[broken[0]], f"reward {name}, {batch.describe(broken)}")
