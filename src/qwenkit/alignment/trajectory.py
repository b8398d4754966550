"""One trajectory: everything that was written after one prompt, and which of its tokens the policy sampled.

    Trajectory(ids=(5, 6, 7, 8), sampled=(False, False, True, True), logprobs=(-0.1, -0.7), weight_versions=(3, 3),
               finish_reason="stop", ended=True, row={"id": "q1", "messages": [...]}, prompt=1, sample=0)

The mask may have any pattern: an answer to one prompt is a run of sampled tokens at the end, a dialogue with a tool has
several, with the tool's text between them. This is what a reward is given (`rewards.py`), so there is no torch here: a
reward of a user's own runs in a process that starts at once (`reward_worker.py`). `trajectories.py` makes tensors of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A prompt with all that followed it. Raises a `UserError` where its parts do not fit together."""

    ids: tuple[int, ...]
    """All tokens in order: the prompt, what the policy sampled, and what others wrote in between."""
    sampled: tuple[bool, ...]
    """For each token whether the policy sampled it. The first cannot be: a token is sampled after another one."""
    logprobs: tuple[float, ...]
    """The sampler's log-probability of each sampled token, in nats."""
    weight_versions: tuple[int, ...]
    """The version of the weights that sampled each sampled token (`inference.Output.version`). PPO samples a step from
    one version and reads none; a collector that goes on while the policy learns tells by them how stale a token is."""
    finish_reason: str
    """Why it ended, in the sampler's words: "stop", "length"."""
    ended: bool
    """Whether its last turn ended as a reward model wants it, with `<|im_end|>`: not at a limit, nor with another stop
    token."""
    row: Mapping[str, Any]
    """The prompt's row of data: a reward may read a reference answer there."""
    prompt: int
    """The number of the prompt, in the caller's numbering: trajectories of one prompt are a group."""
    sample: int = 0
    """Its number in the group."""
    step_rewards: Mapping[int, float] = field(default_factory=dict)
    """Rewards on the way, such as an environment's, by the position of the sampled token that each follows."""
    turns: tuple[str, ...] = ()
    """The text of each run of sampled tokens, without special tokens; empty where nothing decodes."""

    def __post_init__(self) -> None:
        """Refuse a mask that does not fit the ids, or without one true, and numbers that do not fit the mask."""
        count = sum(self.sampled)
        if len(self.sampled) != len(self.ids):
            raise self._wrong(f"a mask of {len(self.sampled)} for {len(self.ids)} tokens", "one for each token")
        if not count:
            raise self._wrong("no token was sampled: the mask is nowhere true", "at least one sampled token")
        if self.sampled[0]:
            raise self._wrong("the first token counts as sampled", "a token before the first sampled one")
        for what, numbers in (("log-probabilities", self.logprobs), ("weight versions", self.weight_versions)):
            if len(numbers) != count:
                raise self._wrong(f"{len(numbers)} {what} for {count} sampled tokens", "one for each")
        for position in self.step_rewards:
            if not 0 <= position < len(self.ids) or not self.sampled[position]:
                raise self._wrong(f"a reward at token {position}", "the position of a sampled token")

    @property
    def name(self) -> str:
        """Return what messages call it: its sample, and its prompt by the row's id or else by its number."""
        return f"sample {self.sample} of prompt {self.row.get('id', self.prompt)}"

    @property
    def text(self) -> str:
        """Return the text of the last run of sampled tokens: the answer."""
        return self.turns[-1] if self.turns else ""

    def _wrong(self, what: str, expected: str) -> UserError:
        return UserError(what, where=f"trajectory, {self.name}", expected=expected)
