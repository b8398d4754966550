"""The gold rubric as an observer of PPO: what the samples are worth by the prompts' own rubrics, for the log only.

A learned reward that rises while the rubric falls is being gamed (Gao et al. 2022, "Scaling laws for reward model
overoptimization"); no gradient sees these numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenkit.evaluation.rubric import mean_rubric

if TYPE_CHECKING:
    from qwenkit.alignment.trajectories import Trajectories


def rubric_metrics(batch: Trajectories) -> dict[str, float]:
    """Return the means over trajectories whose prompts carry a rubric: `rubric`, and `rubric_PART` for each part."""
    scores = mean_rubric([dict(each.row) for each in batch], [each.text for each in batch])
    return {"rubric" if name == "total" else f"rubric_{name}": value for name, value in scores.items()}
