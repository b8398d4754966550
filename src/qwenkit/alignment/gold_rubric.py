"""The gold rubric as an observer of PPO: what the samples are worth by the prompts' own rubrics, for the log only.

A learned reward that rises while the rubric falls is being gamed (Gao et al. 2022, "Scaling laws for reward model
overoptimization"); no gradient sees these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwenkit.evaluation.rubric import mean_rubric
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.alignment.ppo import Observe
    from qwenkit.alignment.rollouts import Prompts, Rollout
    from qwenkit.chat import ChatTokenizer


def rubric_observer(tok: ChatTokenizer, rows: Sequence[Row], prompts: Prompts) -> Observe:
    """Return an observer that scores the responses of a step by the rubrics of `rows`, the prompts as they were read.

    Its metrics are the means over responses to prompts that carry a rubric: `rubric`, and `rubric_<part>` for each
    part.
    """

    def observe(rollout: Rollout) -> dict[str, float]:
        texts = [tok.decode(response, skip_special_tokens=True) for response in rollout.responses()]
        scores = mean_rubric([rows[prompts.rows[i]] for i in rollout.prompts], texts)
        return {"rubric" if name == "total" else f"rubric_{name}": value for name, value in scores.items()}

    return observe
