"""A batch of trajectories as tensors: what every objective of alignment learns from.

    batch = Trajectories.of(trajectories, device)
    batch.ids_BT, batch.sampled_BT                     # right-padded; the mask may have any pattern
    logprobs_N = ... batch.preceding(model.hidden(batch.ids_BT)) ... batch.tokens_N
    x_BT = batch.spread(x_N)                           # back to the tokens that the numbers belong to

Two shapes hold the same numbers: [B, T], aligned with `ids_BT` and zero where nothing was sampled, and [N], the sampled
tokens alone, row after row. For two trajectories, the second with two turns (`.` is padding, capitals were sampled):

    ids_BT        p p A B . .        sampled_BT    0 0 1 1 0 0        tokens_N             A B C D E
                  q C r r D E                      0 1 0 0 1 1        preceding(x_BT)      x at 1 2 | 0 3 4

A model chooses the token at position t from its state at t - 1: hence `preceding`.

Legend: B trajectories, T tokens of the longest, N sampled tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qwenkit.alignment.trajectory import Trajectory
from qwenkit.model.batching import pad_right


@dataclass(frozen=True)
class Trajectories:
    """Trajectories, and the tensors that objectives need of them."""

    items: tuple[Trajectory, ...]
    ids_BT: Tensor
    """All tokens of each trajectory, right-padded."""
    sampled_BT: Tensor
    """True at the tokens that the policy sampled."""
    logprobs_BT: Tensor
    """The sampler's log-probability of each sampled token in nats, zero elsewhere."""
    step_rewards_BT: Tensor
    """Rewards on the way, at the sampled tokens that they follow; zero elsewhere."""

    @classmethod
    def of(cls, items: Sequence[Trajectory], device: torch.device | str = "cpu") -> Trajectories:
        """Return trajectories as a batch."""
        ids_BT, _ = pad_right([each.ids for each in items])
        sampled_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
        rewards_BT = torch.zeros(ids_BT.shape)
        for row, each in enumerate(items):
            sampled_BT[row, : len(each.ids)] = torch.tensor(each.sampled)
            for position, reward in each.step_rewards.items():
                rewards_BT[row, position] = reward
        logprobs_BT = torch.zeros(ids_BT.shape)
        logprobs_BT[sampled_BT] = torch.tensor([x for each in items for x in each.logprobs])
        return cls(tuple(items), ids_BT, sampled_BT, logprobs_BT, rewards_BT).to(device)

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.items)

    def __iter__(self) -> Iterator[Trajectory]:
        """Yield the trajectories."""
        return iter(self.items)

    def to(self, device: torch.device | str) -> Trajectories:
        """Return the batch with its tensors on a device."""
        names = ("ids_BT", "sampled_BT", "logprobs_BT", "step_rewards_BT")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def select(self, rows: Sequence[int]) -> Trajectories:
        """Return some trajectories, in the order given, cut to the longest of them."""
        items = tuple(self.items[row] for row in rows)
        at, width = torch.tensor(rows, device=self.ids_BT.device), max(len(each.ids) for each in items)
        tensors = (self.ids_BT, self.sampled_BT, self.logprobs_BT, self.step_rewards_BT)
        return Trajectories(items, *(x_BT[at, :width] for x_BT in tensors))

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each trajectory, without padding."""
        return [len(each.ids) for each in self.items]

    @property
    def counts_B(self) -> Tensor:
        """Return the number of sampled tokens of each trajectory."""
        return self.sampled_BT.sum(1)

    @property
    def ended_B(self) -> Tensor:
        """Return which trajectories ended their last turn (`Trajectory.ended`)."""
        return torch.tensor([each.ended for each in self.items], device=self.ids_BT.device)

    @property
    def groups_B(self) -> Tensor:
        """Return the number of each trajectory's prompt: equal numbers are a group."""
        return torch.tensor([each.prompt for each in self.items], device=self.ids_BT.device)

    @property
    def tokens_N(self) -> Tensor:
        """Return the sampled tokens of all trajectories, row after row."""
        return self.ids_BT[self.sampled_BT]

    def describe(self, rows: Sequence[int]) -> str:
        """Return which prompts some trajectories answer, for an alarm."""
        return f"prompts {sorted({self.items[row].prompt for row in rows})[:16]}"

    def metrics(self) -> dict[str, float]:
        """Return the mean number of sampled tokens, the share that ended, and the number of all tokens."""
        length = float(self.counts_B.double().mean())
        return {
            "length": length,
            "response_tokens": length,  # the name that the sentinel's alarm for runaway length watches
            "finished": float(self.ended_B.double().mean()),
            "tokens": sum(self.lengths),
        }

    def preceding(self, x_BT: Tensor) -> Tensor:
        """Return x [N, ...] at the position before each sampled token: the state that chose the token."""
        rows_N, positions_N = self.sampled_BT.nonzero(as_tuple=True)
        return x_BT[rows_N, positions_N - 1]

    def flat(self, x_BT: Tensor, rows: Sequence[int]) -> Tensor:
        """Return x [N] at the sampled tokens of some rows in the order given: that of `select(rows).tokens_N`."""
        return x_BT[rows][self.sampled_BT[rows]]

    def spread(self, x_N: Tensor) -> Tensor:
        """Return numbers of the sampled tokens as [B, T], zero elsewhere."""
        x_BT = torch.zeros(self.sampled_BT.shape, dtype=x_N.dtype, device=x_N.device)
        x_BT[self.sampled_BT] = x_N
        return x_BT
