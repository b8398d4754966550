"""The arithmetic of sampling: penalties, top-k, top-p and min-p, then the inverse of the cumulative distribution.

The random number of each row, in [0, 1), is made from (seed, request, sample, position), so a row's token depends on
nothing else in the batch. The order of the steps is Hugging Face's and the released Qwen's.

A vocabulary of 152k words is not sorted: the highest scores of a row are selected, 256 at first, and more of them only
where the row's edge does not lie among them. What remains of a row does not depend on how many were looked at, as its
sums run from the highest score down.

Legend: B rows, V vocabulary, R rows that are looked at together, K candidates of a row, N tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import Stopped

NEVER = float("-inf")
"""The logit of a token that cannot come."""
FIRST_CANDIDATES = 256
"""How many of the highest scores are looked at first; where they do not suffice, sixteen times as many, then all."""
_GROWTH = 16


def not_finite(label: str, position: int) -> Stopped:
    """Return the error for logits that are not finite, at a position of a prompt and its answer."""
    return Stopped(
        "the model's logits are NaN or infinite",
        where=f"{label}, position {position}",
        hint="look for such numbers in its weights, or compute in float32",
    )


def repetition_penalty(scores_N: Tensor, penalty: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of tokens that have come by the penalty (CTRL; Keskar et al.,
    2019)."""
    return torch.where(scores_N < 0, scores_N * penalty, scores_N / penalty)


def frequency_presence_penalty(scores_N: Tensor, counts_N: Tensor, frequency: float, presence: float) -> Tensor:
    """Subtract `frequency` times its count, and `presence` once, from the logit of each token of the answer so far
    (vLLM's rule)."""
    return scores_N - frequency * counts_N - presence * (counts_N > 0)


def force(scores_V: Tensor, id: int) -> None:
    """Leave one token as the only possible one, in place."""
    scores_V.fill_(NEVER)[id] = 0.0


class Truncation(NamedTuple):
    """Which tokens of each row may be sampled: top-k, then top-p (nucleus sampling; Holtzman et al., 2020), then
    min-p."""

    top_k_B: Tensor
    """This many of the highest scores, with all that equal the last of them; 0 or less: all."""
    top_p_B: Tensor
    """The smallest set of highest scores with this probability, in float64, as Python's numbers are; 1: all."""
    min_p_B: Tensor
    """Those with at least this share of the highest probability; 0: all."""

    def rows(self, rows_R: Tensor) -> Truncation:
        """Return the settings of some of the rows."""
        return Truncation(*(column[rows_R] for column in self))

    def limited(self, size: int) -> Tensor:
        """Return true [B] where something may be cut from a vocabulary of this size."""
        return (self.top_k_B > 0) & (self.top_k_B < size) | (self.top_p_B < 1) | (self.min_p_B > 0)


class Remaining(NamedTuple):
    """What remains of some rows after truncation."""

    rows_R: Tensor
    """Which rows of the batch these are."""
    ids_RK: Tensor
    """The tokens that were looked at, in the order of the vocabulary."""
    scores_RK: Tensor
    """Their scores; -inf: cut."""


def draw(scores_BV: Tensor, truncation: Truncation, uniform_B: Tensor) -> Tensor:
    """Return the token [B] of each row at which the cumulative distribution of what remains, in the order of the
    vocabulary, passes `uniform_B`. Scores are logits over the temperature."""
    ids_B = torch.empty(len(scores_BV), dtype=torch.long, device=scores_BV.device)
    limited_B = truncation.limited(scores_BV.shape[1])
    whole_R = (~limited_B).nonzero()[:, 0]
    if len(whole_R):
        ids_B[whole_R] = sample(_rows(scores_BV, whole_R).softmax(-1), uniform_B[whole_R])
    for rows_R, ids_RK, scores_RK in remaining(scores_BV, truncation, limited_B.nonzero()[:, 0]):
        weights_RK = (scores_RK - scores_RK.amax(-1, keepdim=True)).exp()
        places_R1 = sample(weights_RK, uniform_B[rows_R])[:, None]
        ids_B[rows_R] = ids_RK.gather(1, places_R1)[:, 0]
    return ids_B


def truncate(scores_BV: Tensor, truncation: Truncation) -> Tensor:
    """Return the scores [B, V] that remain; the others are -inf."""
    limited_B = truncation.limited(scores_BV.shape[1])
    kept_BV = scores_BV.masked_fill(limited_B[:, None], NEVER)
    for rows_R, ids_RK, scores_RK in remaining(scores_BV, truncation, limited_B.nonzero()[:, 0]):
        kept_BV[rows_R] = kept_BV[rows_R].scatter(1, ids_RK, scores_RK)
    return kept_BV


def remaining(
    scores_BV: Tensor, truncation: Truncation, rows_R: Tensor, first: int = FIRST_CANDIDATES
) -> Iterator[Remaining]:
    """Yield what remains of these rows, those first for which few candidates suffice."""
    size = scores_BV.shape[1]
    count = first
    while len(rows_R):
        limits = truncation.rows(rows_R)
        count = min(size, max(count, 2 * int(limits.top_k_B.max())))
        count = size if count * _GROWTH > size else count
        scores_RV = _rows(scores_BV, rows_R)
        ids_RK = _highest(scores_RV, count)
        scores_RK, complete_R = _truncated(scores_RV, scores_RV.gather(1, ids_RK), limits)
        yield Remaining(rows_R[complete_R], ids_RK[complete_R], scores_RK[complete_R])
        rows_R, count = rows_R[~complete_R], count * _GROWTH


def _highest(scores_RV: Tensor, count: int) -> Tensor:
    """Return the tokens [R, count] of the highest scores, in the order of the vocabulary."""
    if count == scores_RV.shape[1]:
        return torch.arange(count, device=scores_RV.device).expand(len(scores_RV), -1)
    return scores_RV.topk(count, sorted=False).indices.sort(-1).values


def _rows(scores_BV: Tensor, rows_R: Tensor) -> Tensor:
    """Return some of the rows; all of them without a copy."""
    return scores_BV if len(rows_R) == len(scores_BV) else scores_BV[rows_R]


def _truncated(scores_RV: Tensor, scores_RK: Tensor, limits: Truncation) -> tuple[Tensor, Tensor]:
    """Return the scores of the candidates that remain, -inf for the others, and true [R] where no token beyond the
    candidates could remain.

    Candidates are all of the highest scores, in the order of the vocabulary. Of equal scores at the edge top-k keeps
    all and top-p those of the highest ids, as a stable sort puts them last."""
    size, count = scores_RV.shape[1], scores_RK.shape[1]
    rising_RK = _ascending(scores_RK)
    highest_R1, lowest_R = rising_RK[:, -1:], rising_RK[:, 0]
    top_k_R = torch.where(limits.top_k_B > 0, limits.top_k_B, size).clamp(max=size)
    least_R1 = rising_RK.gather(1, (count - top_k_R).clamp(min=0)[:, None])
    kept_RK = scores_RK.masked_fill(scores_RK < least_R1, NEVER)
    if bool((limits.top_p_B < 1).any()):
        weights_RK = (rising_RK.masked_fill(rising_RK < least_R1, NEVER) - highest_R1).exp()
        low_R = _low_end(scores_RV, weights_RK, limits, top_k_R < size)
        kept_RK = kept_RK.masked_fill(~_above(scores_RK, rising_RK, low_R), NEVER)
    kept_RK = kept_RK.masked_fill((scores_RK - highest_R1).exp() < limits.min_p_B[:, None], NEVER)
    lowest_kept_R = kept_RK.masked_fill(kept_RK == NEVER, -NEVER).amin(-1)
    all_equals_R = (top_k_R == size) | (least_R1[:, 0] > lowest_R)  # otherwise more may lie beyond the candidates
    complete_R = (lowest_kept_R > lowest_R) & all_equals_R | (lowest_R == NEVER) | (count == size)
    return kept_RK, complete_R


def _ascending(scores_RK: Tensor) -> Tensor:
    """Sort each row from the lowest up. On a CPU numpy sorts ten times faster than torch."""
    if scores_RK.device.type != "cpu":
        return scores_RK.sort(-1).values
    return torch.from_numpy(np.sort(scores_RK.numpy(), axis=-1))


def _above(scores_RK: Tensor, rising_RK: Tensor, low_R: Tensor) -> Tensor:
    """Return true [R, K] at the scores that are not among the lowest `low_R`; of equals the lower ids count as
    lower."""
    floor_R1 = rising_RK.gather(1, low_R[:, None])
    below_R = (rising_RK < floor_R1).sum(-1)
    equal_RK = scores_RK == floor_R1
    return (scores_RK > floor_R1) | equal_RK & (equal_RK.cumsum(-1) > (low_R - below_R)[:, None])


def _low_end(scores_RV: Tensor, weights_RK: Tensor, limits: Truncation, top_k_R: Tensor) -> Tensor:
    """Return how many [R] of the rising scores, each with all below it, have at most the probability 1 - p; never the
    last. `weights_RK` are their probabilities up to a factor, `top_k_R` says where others than these have none."""
    falling_RK = weights_RK.double().flip(-1).cumsum(-1)
    above_RK = torch.cat([torch.zeros_like(falling_RK[:, :1]), falling_RK[:, :-1]], -1).flip(-1)
    total_R1 = falling_RK[:, -1:]
    if not bool(top_k_R.all()):
        total_RV = (scores_RV - scores_RV.amax(-1, keepdim=True)).exp()
        total_R1 = torch.where(top_k_R[:, None], total_R1, total_RV.sum(-1, keepdim=True, dtype=torch.float64))
    share_RK = (1 - above_RK / total_R1).float()
    low_RK = (share_RK <= (1 - limits.top_p_B).float()[:, None]) & (limits.top_p_B < 1)[:, None]
    return low_RK[:, :-1].sum(-1)


def sample(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return the place [B] in each row at which the sum of its weights passes the share `uniform_B` of all; never one
    of weight zero."""
    sums_BV = weights_BV.to(torch.float64, copy=True).cumsum_(-1)
    total_B1 = sums_BV[:, -1:].contiguous()
    place_B1 = torch.searchsorted(sums_BV, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(sums_BV, total_B1)
    return torch.minimum(place_B1, last_B1)[:, 0]
