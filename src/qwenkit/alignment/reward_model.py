"""Preference-model pretraining and the reward model (report §3.2.1): one code, two first weights.

    pairs, counts = encode_pairs(rows, tok, max_tokens=2048)
    batches = PairBatches(pairs, batch_pairs=64, seed=0)
    update = lm_update(model, optimizer, batches, schedule, objective=PairwiseObjective())   # training's stock update
    rewards = score_texts(model, [pair.chosen for pair in pairs])
    accuracy = pair_accuracy(model, pairs)

Preference-model pretraining (PMP) starts from the base model and vast, noisy pairs; the reward model goes on from PMP
with fewer and better ones. Report: constant learning rate 3e-6, batch of 64, 2048 tokens, one epoch.

A text is the whole chat in ChatML and ends with `<|im_end|>`, **without** the newline that the template puts after it:
the reward is read at that last token (the report: "a pooling layer that extracts the reward at a specific end token").
Hugging Face's sequence classification reads the last token that is not padding, so both read the same number.

An answer is never cut: it would be judged at another token (`encoding`).
Not given by the report and ours: the loss (the pairwise logistic one is implied) and which token is the end token.

Legend: P pairs, B = 2P rows (the chosen sides, then the rejected), T tokens.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.alignment.padding import length_batches, pad_right
from qwenkit.alignment.pair_encoding import Pair
from qwenkit.errors import UserError
from qwenkit.model import ScalarModel
from qwenkit.rng import derive_seed, permutation


@dataclass(frozen=True)
class PairBatch:
    """The chosen sides of P pairs, then their rejected sides, right-padded."""

    ids_BT: Tensor
    lengths_B: Tensor
    pairs: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairBatch:
        """Pad both sides of all pairs to one width: one forward pass scores them all."""
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        return cls(*pad_right(rows), tuple(pair.id for pair in pairs))

    @property
    def weight(self) -> float:
        """Pairs: what this batch adds to the divisor of the loss."""
        return float(len(self.pairs))

    @property
    def content(self) -> int:
        """Pairs again: each is content to learn from."""
        return len(self.pairs)

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return int(self.lengths_B.sum())

    @property
    def fingerprint(self) -> int:
        """Equal for equal ids."""
        return zlib.crc32(self.ids_BT.cpu().numpy().tobytes())

    def to(self, device: torch.device | str) -> PairBatch:
        """The batch on a device."""
        return PairBatch(self.ids_BT.to(device), self.lengths_B.to(device), self.pairs)

    def describe(self) -> str:
        """Which pairs, for an alarm."""
        more = f" and {len(self.pairs) - 8} more" if len(self.pairs) > 8 else ""
        return f"pairs {', '.join(self.pairs[:8])}{more}"


class PairBatches:
    """The micro-batches of a step, a pure function of (seed, step): every epoch is a new permutation, and a batch may
    reach over into the next, so that all are full and every pair is seen once an epoch.

    A micro-batch holds at most `micro_pairs` pairs (None: the whole batch), both sides of each, the longest first.
    """

    def __init__(self, pairs: Sequence[Pair], batch_pairs: int, seed: int, micro_pairs: int | None = None) -> None:
        if not pairs:
            raise UserError("there is no comparison pair to learn from", expected="at least one pair within max_tokens")
        self.pairs, self.batch_pairs, self.micro_pairs = pairs, batch_pairs, micro_pairs or batch_pairs
        self.seed = derive_seed(seed, "pairs")
        self._epoch, self._order = -1, permutation(0, 0)

    def steps(self, epochs: float) -> int:
        """Steps after which every pair has been seen so often (the report: once); the last batch may reach over."""
        return max(1, math.ceil(epochs * len(self.pairs) / self.batch_pairs))

    def rows(self, step: int) -> list[int]:
        """Which pairs step `step` learns from."""
        places = range(step * self.batch_pairs, (step + 1) * self.batch_pairs)
        return [self._row(*divmod(place, len(self.pairs))) for place in places]

    def __call__(self, step: int) -> list[PairBatch]:
        found = sorted((self.pairs[row] for row in self.rows(step)), key=lambda pair: -pair.tokens)
        size = self.micro_pairs
        return [PairBatch.of(found[at : at + size]) for at in range(0, len(found), size)]

    def _row(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, permutation(self.seed, len(self.pairs), epoch)
        return int(self._order[place])


def last_scores(model: Any, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The model's number at the last real token of every row."""
    return model.score(ids_BT).gather(1, lengths_B[:, None] - 1).squeeze(1)


def pairwise_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected) of each pair: the Bradley-Terry model's negative log-likelihood."""
    return -F.logsigmoid(chosen_P - rejected_P)


class PairwiseObjective:
    """The objective of PMP and of the reward model for training's stock update: the sum over pairs, and the sums of
    `accuracy` (share ranked rightly), `margin` and `reward` (whose level the loss leaves free) for the log."""

    def __call__(self, model: Any, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen_P, rejected_P = last_scores(model, batch.ids_BT, batch.lengths_B).chunk(2)
        margin_P = (chosen_P - rejected_P).detach()
        rewards_P = 0.5 * (chosen_P + rejected_P).detach()
        sums = {"accuracy": (margin_P > 0).sum(), "margin": margin_P.sum(), "reward": rewards_P.sum()}
        return pairwise_loss(chosen_P, rejected_P).sum(), sums


@torch.no_grad()
def score_texts(model: ScalarModel, ids_list: Sequence[Sequence[int]], max_tokens: int = 16384) -> Tensor:
    """The reward of each text (token ids ending with `<|im_end|>`), float32, in the order given."""
    lengths = [len(ids) for ids in ids_list]
    if min(lengths, default=1) == 0:
        raise UserError("an empty text has no end token to read a reward at", expected="at least one token")
    device = next(model.parameters()).device
    rewards_B = torch.zeros(len(ids_list), device=device)
    with _evaluating(model):
        for rows in length_batches(lengths, max_tokens):
            batch = pad_right([ids_list[row] for row in rows], device)
            rewards_B[torch.tensor(rows, device=device)] = last_scores(model, *batch).float()
    return rewards_B


def pair_margins(model: ScalarModel, pairs: Sequence[Pair], max_tokens: int = 16384) -> list[float]:
    """Reward of the chosen side minus that of the rejected one, per pair: what intervals are computed from."""
    rewards_B = score_texts(model, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], max_tokens)
    chosen_P, rejected_P = rewards_B.chunk(2)
    return (chosen_P - rejected_P).tolist() if pairs else []


def pair_accuracy(model: ScalarModel, pairs: Sequence[Pair], max_tokens: int = 16384) -> float:
    """Share of pairs ranked rightly; a tie counts one half, so that a constant model has 0.5 and not 0 or 1."""
    margins = pair_margins(model, pairs, max_tokens)
    if not margins:
        raise UserError("there is no comparison pair to test with", expected="at least one pair within max_tokens")
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(margins)


class _evaluating:
    """Dropout off inside the block, and the model's mode put back after it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)
