"""Preference-model pretraining and the reward model (report §3.2.1): one code, two first weights.

    pairs, counts = encode_pairs(rows, tok, max_tokens=2048)
    batches = PairBatches(pairs, batch_pairs=64, seed=0)
    update = train_update(model, optimizer, batches, schedule, objective=PairwiseObjective())
    rewards = score_texts(model, [pair.chosen for pair in pairs])
    accuracy = pair_accuracy(model, pairs)

Preference-model pretraining (PMP) starts from the base model and vast, noisy pairs; the reward model continues from PMP
with fewer and better ones. Report: constant learning rate 3e-6, batch of 64, 2048 tokens, one epoch.

A text is the whole chat in ChatML and ends with `<|im_end|>`, **without** the newline that the template puts after it:
the reward is read at that last token (the report: "a pooling layer that extracts the reward at a specific end token").
Hugging Face's sequence classification reads the last token that is not padding, so both read the same number.

An answer is never cut: it would be scored at another token (`pair_encoding`). Not given by the report and ours: the
loss (the pairwise logistic one is implied) and which token is the end token.

Legend: P pairs, B = 2P rows (the chosen sides, then the rejected), T tokens.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.alignment.pair_encoding import Pair
from qwenkit.data.shuffled_order import ShuffledOrder
from qwenkit.errors import UserError
from qwenkit.model import ScalarModel
from qwenkit.model.batching import length_batches, pad_right, padding_documents
from qwenkit.model.modes import evaluating
from qwenkit.rng import derive_seed
from qwenkit.training.step_batch import StepBatch, share_of
from qwenkit.training.world import ALONE, World


@dataclass(frozen=True)
class PairBatch:
    """The chosen sides of P pairs, then their rejected sides, right-padded. Counts are taken when it is built."""

    ids_BT: Tensor
    lengths_B: Tensor
    pairs: tuple[str, ...]
    """The ids of the pairs."""
    tokens: int
    """Tokens in it, without padding."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairBatch:
        """Return both sides of all pairs, padded to one width: one forward pass scores them all."""
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        ids_BT, lengths_B = pad_right(rows)
        return cls(ids_BT, lengths_B, tuple(pair.id for pair in pairs), sum(map(len, rows)))

    @property
    def weight(self) -> float:
        """Return the number of pairs: what this batch adds to the divisor of the loss."""
        return float(len(self.pairs))

    @property
    def content(self) -> int:
        """Return the number of pairs: each has content to learn from."""
        return len(self.pairs)

    def to(self, device: torch.device | str) -> PairBatch:
        """Return the batch with its tensors on a device."""
        return replace(self, ids_BT=self.ids_BT.to(device), lengths_B=self.lengths_B.to(device))

    def describe(self) -> str:
        """Return which pairs these are, for an alarm."""
        more = f" and {len(self.pairs) - 8} more" if len(self.pairs) > 8 else ""
        return f"pairs {', '.join(self.pairs[:8])}{more}"


class PairBatches:
    """The batch of a step, a pure function of (seed, step): every pair comes once an epoch (`ShuffledOrder`).

    A micro-batch holds at most `micro_pairs` pairs (None: all of the process's), both sides of each, the longest first.
    In a world of n processes each reads every n-th pair of a step by length, and the numbers of the step are those of
    all."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_pairs: int,
        seed: int,
        micro_pairs: int | None = None,
        world: World = ALONE,
    ) -> None:
        """Draw batches of `batch_pairs` pairs from these; raises a `UserError` where there are none, and where a batch
        has no equal shares for all processes."""
        if not pairs:
            raise UserError("there is no comparison pair to learn from", expected="at least one pair within max_tokens")
        share = share_of(batch_pairs, world)
        self.pairs, self.batch_pairs, self.micro_pairs, self.world = pairs, batch_pairs, micro_pairs or share, world
        self.order = ShuffledOrder(len(pairs), derive_seed(seed, "pairs"))

    def steps(self, epochs: float) -> int:
        """Return the number of steps that cover so many epochs (report: one); the last may reach into the next."""
        return max(1, math.ceil(epochs * len(self.pairs) / self.batch_pairs))

    def rows(self, step: int) -> list[int]:
        """Return the indices of the pairs that a step learns from."""
        return self.order.at(step, self.batch_pairs)

    def __call__(self, step: int) -> StepBatch[PairBatch]:
        """Return this process's micro-batches of a step, with the numbers of the whole step."""
        longest_first = sorted((self.pairs[row] for row in self.rows(step)), key=lambda pair: -pair.tokens)
        mine = longest_first[self.world.rank :: self.world.size]
        parts = (mine[at : at + self.micro_pairs] for at in range(0, len(mine), self.micro_pairs))
        pairs = len(longest_first)
        tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in longest_first)
        micro_batches = [PairBatch.of(part) for part in parts]
        return StepBatch(micro_batches, float(pairs), pairs, tokens, pairs_fingerprint(longest_first))


def pairs_fingerprint(pairs: Sequence[Pair]) -> int:
    """Return a number that is equal for equal ids in the same order (CRC-32)."""
    fingerprint = 0
    for pair in pairs:
        for ids in (pair.chosen, pair.rejected):
            fingerprint = zlib.crc32(np.asarray(ids, dtype="<u4").tobytes(), fingerprint)
    return fingerprint


class Scorer(Protocol):
    """What the loss needs of a reward model; `qwenkit.model.ScalarModel` is one."""

    def score(self, ids_BT: Tensor, documents_BT: Tensor | None = None, /) -> Tensor:
        """Return a number for every token, [B, T]; attention stays inside a document."""
        ...


def eos_scores(model: Scorer, ids_BT: Tensor, lengths_B: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """Return the model's score at the last real token of every row, [B].

    A model with dynamic NTK, outside training, must be given the documents of `padding_documents`."""
    return model.score(ids_BT, documents_BT).gather(1, lengths_B[:, None] - 1).squeeze(1)


def pairwise_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Return -log sigmoid(chosen - rejected) of each pair [P]: the negative log-likelihood of the Bradley-Terry model
    (Bradley and Terry, 1952; for reward models Ouyang et al., 2022)."""
    return -F.logsigmoid(chosen_P - rejected_P)


class PairwiseObjective:
    """The objective of PMP and of the reward model for the stock update: the pairwise loss (Bradley and Terry, 1952)
    summed over pairs.

    For the log it sums `accuracy` (pairs ranked correctly), `margin` and `reward` (whose level the loss leaves
    free)."""

    def __call__(self, model: Scorer, batch: PairBatch, /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the pairs of a batch, and the sums of the metrics."""
        chosen_P, rejected_P = eos_scores(model, batch.ids_BT, batch.lengths_B).chunk(2)
        margin_P = (chosen_P - rejected_P).detach()
        rewards_P = 0.5 * (chosen_P + rejected_P).detach()
        sums = {"accuracy": (margin_P > 0).sum(), "margin": margin_P.sum(), "reward": rewards_P.sum()}
        return pairwise_loss(chosen_P, rejected_P).sum(), sums


@torch.no_grad()
def score_texts(model: ScalarModel, ids_list: Sequence[Sequence[int]], max_tokens: int = 16384) -> Tensor:
    """Return the reward [B] of each text (token ids that end with `<|im_end|>`) in float32, in the order given.

    A forward pass holds at most `max_tokens` padded tokens, or one text. Raises a `UserError` for an empty text."""
    lengths = [len(ids) for ids in ids_list]
    if min(lengths, default=1) == 0:
        raise UserError("an empty text has no end token to read a reward at", expected="at least one token")
    device = next(model.parameters()).device
    rewards_B = torch.zeros(len(ids_list), device=device)
    with evaluating(model):
        for rows in length_batches(lengths, max_tokens):
            ids_BT, lengths_B = pad_right([ids_list[row] for row in rows], device)
            documents_BT = padding_documents(model.config, lengths_B, ids_BT.shape[1])
            scores_B = eos_scores(model, ids_BT, lengths_B, documents_BT)
            rewards_B[torch.tensor(rows, device=device)] = scores_B.float()
    return rewards_B


def pair_margins(model: ScalarModel, pairs: Sequence[Pair], max_tokens: int = 16384) -> list[float]:
    """Return the reward of the chosen side minus that of the rejected one, for each pair."""
    rewards_B = score_texts(model, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], max_tokens)
    chosen_P, rejected_P = rewards_B.chunk(2)
    return (chosen_P - rejected_P).tolist() if pairs else []


def pair_accuracy(model: ScalarModel, pairs: Sequence[Pair], max_tokens: int = 16384) -> float:
    """Return the share of pairs ranked correctly; a tie counts one half, so that a constant model has 0.5."""
    margins = pair_margins(model, pairs, max_tokens)
    if not margins:
        raise UserError("there is no comparison pair to test with", expected="at least one pair within max_tokens")
    return sum(map(ranked_correctly, margins)) / len(margins)


def ranked_correctly(margin: float) -> float:
    """Return how far a pair with this margin counts as ranked correctly: 1, 0, or one half for a tie."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
