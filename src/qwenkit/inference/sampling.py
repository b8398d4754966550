"""The arithmetic of sampling: penalties, top-k, top-p and min-p, then the inverse of the cumulative distribution.

The random number of each row, in [0, 1), is made from (seed, request, sample, position), so a row's token depends on
nothing else in the batch. The order of the steps is Hugging Face's and the released Qwen's.

A vocabulary of 152k words is not sorted: the tokens that reach a bound are looked at, 256 or a few more at first, and
more of them only where a row's edge does not lie among them: sixteen times as many, then all; all at once where sixteen
times as many cannot have the probability that top-p asks for, and for min-p alone just those that remain. What remains
of a row does not depend on how many were looked at, as its sums run from the highest score down.

Legend: B rows, V vocabulary, R rows that are looked at together, K candidates of a row, N tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import Stopped
from qwenkit.inference.transfer import to_device

NEVER = float("-inf")
"""The logit of a token that cannot come."""
FIRST_CANDIDATES = 256
"""How many tokens at least are looked at first."""
_GROWTH = 16
_GROUP = 128


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


class Limits(NamedTuple):
    """One row of a `Truncation`, as the host knows it."""

    top_k: int
    top_p: float
    min_p: float

    def cuts(self, size: int) -> bool:
        """Return whether something may be cut from a vocabulary of this size."""
        return 0 < self.top_k < size or self.top_p < 1 or self.min_p > 0


class _Cuts(NamedTuple):
    """What the host knows of the limits of some rows."""

    any_top_k: bool
    all_top_k: bool
    any_top_p: bool
    any_min_p: bool


class Remaining(NamedTuple):
    """What remains of some rows after truncation."""

    rows_R: Tensor
    """Which rows of the batch these are."""
    ids_RK: Tensor
    """The tokens that were looked at, in the order of the vocabulary."""
    scores_RK: Tensor
    """Their scores."""
    kept_RK: Tensor
    """True where they remain."""


def draw(scores_BV: Tensor, truncation: Truncation, uniform_B: Tensor) -> Tensor:
    """Return the token [B] of each row at which the cumulative distribution of what remains, in the order of the
    vocabulary, passes `uniform_B`. Scores are logits over the temperature."""
    ids_B = torch.empty(len(scores_BV), dtype=torch.long, device=scores_BV.device)
    limited_B = truncation.limited(scores_BV.shape[1])
    whole_R = (~limited_B).nonzero()[:, 0]
    if len(whole_R):
        ids_B[whole_R] = sample(_rows(scores_BV, whole_R).softmax(-1), uniform_B[whole_R])
    for rows_R, ids_RK, scores_RK, kept_RK in remaining(scores_BV, truncation, limited_B.nonzero()[:, 0]):
        weights_RK = (scores_RK - scores_RK.amax(-1, keepdim=True)).exp_().mul_(kept_RK)
        places_R1 = sample(weights_RK, uniform_B[rows_R])[:, None]
        ids_B[rows_R] = ids_RK.gather(1, places_R1)[:, 0]
    return ids_B


def draw_at_once(
    scores_BV: Tensor, truncation: Truncation, uniform_B: Tensor, limits: Seq[Limits]
) -> tuple[Tensor, Tensor]:
    """Return what `draw` does, and true [B] where that is certain; the host reads nothing of these tensors.

    The same number of candidates is looked at for every row, and where they do not suffice its token is not certain.
    Where a row has no distribution (NaN) the token means nothing, but is one. `limits` are those of the truncation, as
    the host knows them."""
    size, rows = scores_BV.shape[1], range(len(limits))
    cut = [row for row in rows if limits[row].cuts(size)]
    if not cut:
        return _whole(scores_BV, uniform_B), torch.ones_like(uniform_B, dtype=torch.bool)
    if len(cut) == len(limits):
        return _of_few(scores_BV, truncation, uniform_B, limits)
    whole_R, cut_R = to_device([[row for row in rows if row not in set(cut)], cut], scores_BV.device)
    ids_B, sure_B = torch.zeros_like(uniform_B, dtype=torch.long), torch.ones_like(uniform_B, dtype=torch.bool)
    ids_B[whole_R] = _whole(scores_BV[whole_R], uniform_B[whole_R])
    drawn = _of_few(scores_BV[cut_R], truncation.rows(cut_R), uniform_B[cut_R], [limits[row] for row in cut])
    ids_B[cut_R], sure_B[cut_R] = drawn
    return ids_B, sure_B


def _whole(scores_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Return tokens [R] of whole distributions."""
    return sample(scores_RV.softmax(-1), uniform_R).clamp(max=scores_RV.shape[1] - 1)


def _of_few(scores_RV: Tensor, truncation: Truncation, uniform_R: Tensor, limits: Seq[Limits]) -> tuple[Tensor, Tensor]:
    """Return tokens [R] out of the highest scores, as many of each row, and true [R] where those suffice."""
    size = scores_RV.shape[1]
    top_k = [limit.top_k for limit in limits if 0 < limit.top_k < size]
    count = max(FIRST_CANDIDATES, *top_k, 0)
    if count * _GROWTH > size:
        ids_RK, scores_RK = torch.arange(size, device=scores_RV.device).expand_as(scores_RV), scores_RV
        bound_R = torch.full_like(scores_RV[:, 0], NEVER)
        alone_R = torch.ones_like(bound_R, dtype=torch.bool)
    else:
        top_RK = scores_RV.topk(count)
        bound_R, ids_RK = top_RK.values[:, -1], top_RK.indices.sort(-1).values
        scores_RK = scores_RV.gather(1, ids_RK)
        alone_R = (scores_RV >= bound_R[:, None]).sum(-1) == count  # no other one equals the last
    any_top_p, any_min_p = any(limit.top_p < 1 for limit in limits), any(limit.min_p > 0 for limit in limits)
    cuts = _Cuts(bool(top_k), len(top_k) == len(limits), any_top_p, any_min_p)
    kept_RK, complete_R, _ = _truncated(scores_RV, scores_RK, bound_R, truncation, cuts, size)
    weights_RK = (scores_RK - scores_RK.amax(-1, keepdim=True)).exp_().mul_(kept_RK)
    places_R = sample(weights_RK, uniform_R).clamp(max=ids_RK.shape[1] - 1)
    return ids_RK.gather(1, places_R[:, None])[:, 0], complete_R & alone_R


def truncate(scores_BV: Tensor, truncation: Truncation) -> Tensor:
    """Return the scores [B, V] that remain; the others are -inf."""
    limited_B = truncation.limited(scores_BV.shape[1])
    kept_BV = scores_BV.masked_fill(limited_B[:, None], NEVER)
    for rows_R, ids_RK, scores_RK, kept_RK in remaining(scores_BV, truncation, limited_B.nonzero()[:, 0]):
        kept_RK = torch.where(kept_RK, scores_RK, NEVER)
        kept_BV[rows_R] = kept_BV[rows_R].scatter_reduce(1, ids_RK, kept_RK, "amax")
    return kept_BV


def remaining(
    scores_BV: Tensor, truncation: Truncation, rows_R: Tensor, first: int = FIRST_CANDIDATES
) -> Iterator[Remaining]:
    """Yield what remains of these rows, those first for which few candidates suffice."""
    size, count = scores_BV.shape[1], first
    while len(rows_R):
        limits = truncation.rows(rows_R)
        count = max(count, int(limits.top_k_B.max()))
        scores_RV = _rows(scores_BV, rows_R)
        bound_R = _bound(scores_RV, count if count * _GROWTH <= size else size)
        if count > first:
            bound_R = _min_p_bound(scores_RV, bound_R, limits)
        ids_RK, scores_RK = _candidates(scores_RV, bound_R)
        kept_RK, complete_R, flat_R = _truncated(
            scores_RV, scores_RK, bound_R, limits, _cuts(limits, size), count * _GROWTH
        )
        yield Remaining(*(_where(column, complete_R) for column in (rows_R, ids_RK, scores_RK, kept_RK)))
        for row_1 in rows_R[flat_R & ~complete_R].split(1):  # one at a time, for the sake of a processor's caches
            yield from remaining(scores_BV, truncation, row_1, first=size)
        rows_R, count = rows_R[~(complete_R | flat_R)], count * _GROWTH


def _min_p_bound(scores_RV: Tensor, bound_R: Tensor, limits: Truncation) -> Tensor:
    """Return the bound [R] of rows that min-p alone limits: a hair below the least score that remains."""
    edge_R = scores_RV.amax(-1) + limits.min_p_B.log() - 1e-3
    alone_R = (limits.min_p_B > 0) & (limits.top_p_B == 1) & (limits.top_k_B <= 0) & (bound_R > NEVER)
    return torch.where(alone_R, edge_R, bound_R)


def _bound(scores_RV: Tensor, count: int) -> Tensor:
    """Return for each row a score [R] that at least `count` reach; -inf where that is all of them.

    On a CPU it is one of the highest scores of 128 tokens each, as far as there are enough of these: eight times faster
    than looking for the highest scores themselves."""
    size = scores_RV.shape[1]
    if count >= size:
        return torch.full_like(scores_RV[:, 0], NEVER)
    if scores_RV.device.type != "cpu":
        return scores_RV.topk(count).values[:, -1]
    scores, groups = scores_RV.numpy(), size // _GROUP
    if 2 * count <= groups:
        scores = scores[:, : groups * _GROUP].reshape(-1, _GROUP, groups).max(1)
    place = scores.shape[1] - count
    return torch.from_numpy(np.partition(scores, place, axis=-1)[:, place])


def _candidates(scores_RV: Tensor, bound_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens of each row that reach its bound and may come, in the order of the vocabulary, and their scores
    [R, K]; rows with fewer end with scores of -inf. Where they are most of the vocabulary it is all of it."""
    rows, size = scores_RV.shape
    least_R1 = bound_R.clamp(min=torch.finfo(scores_RV.dtype).min)[:, None]
    flat_N = (
        torch.from_numpy(np.flatnonzero(scores_RV.numpy() >= least_R1.numpy()))  # much faster than torch's
        if scores_RV.device.type == "cpu"
        else (scores_RV >= least_R1).flatten().nonzero()[:, 0]
    )
    if 2 * len(flat_N) >= scores_RV.numel():
        return torch.arange(size, device=flat_N.device).expand(rows, -1), scores_RV
    row_N, values_N = flat_N // size, scores_RV.flatten()[flat_N]
    counts_R = row_N.bincount(minlength=rows)
    place_N = torch.arange(len(flat_N), device=flat_N.device) - (counts_R.cumsum(0) - counts_R)[row_N]
    shape = (rows, int(counts_R.max()))
    ids_RK = torch.zeros(shape, dtype=torch.long, device=flat_N.device).index_put_((row_N, place_N), flat_N % size)
    return ids_RK, scores_RV.new_full(shape, NEVER).index_put_((row_N, place_N), values_N)


def _rows(scores_BV: Tensor, rows_R: Tensor) -> Tensor:
    """Return some of the rows; all of them without a copy."""
    return scores_BV if len(rows_R) == len(scores_BV) else scores_BV[rows_R]


def _where(column: Tensor, chosen_R: Tensor) -> Tensor:
    """Return the rows that are chosen; all of them without a copy."""
    return column if bool(chosen_R.all()) else column[chosen_R]


def _cuts(limits: Truncation, size: int) -> _Cuts:
    """Read what the limits of some rows are."""
    top_k_R = (limits.top_k_B > 0) & (limits.top_k_B < size)
    any_top_p, any_min_p = bool((limits.top_p_B < 1).any()), bool((limits.min_p_B > 0).any())
    return _Cuts(bool(top_k_R.any()), bool(top_k_R.all()), any_top_p, any_min_p)


def _truncated(
    scores_RV: Tensor, scores_RK: Tensor, bound_R: Tensor, limits: Truncation, cuts: _Cuts, next_count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return true [R, K] at the candidates that remain; true [R] where no token beyond them could remain; and true [R]
    where `next_count` candidates could not have the mass of top-p either. The host reads nothing.

    Candidates are all tokens that reach the bound, in the order of the vocabulary. Of equal scores at the edge top-k
    keeps all and top-p those of the highest ids, as a stable sort puts them last."""
    rising_RK = _ascending(scores_RK)
    highest_R1, count = rising_RK[:, -1:], scores_RK.shape[1]
    top_k_R = (limits.top_k_B > 0) & (limits.top_k_B < scores_RV.shape[1])
    bound_weight_R = (bound_R - highest_R1[:, 0]).exp()
    complete_R = top_k_R | (bound_R == NEVER) | (bound_weight_R < limits.min_p_B)
    flat_R = torch.zeros_like(complete_R)
    kept_RK = torch.ones_like(scores_RK, dtype=torch.bool)
    if cuts.any_top_k:
        places_R = torch.where(top_k_R, count - limits.top_k_B, 0).clamp(min=0)
        least_R1 = rising_RK.gather(1, places_R[:, None])
        kept_RK = scores_RK >= least_R1
        rising_RK = torch.where(rising_RK < least_R1, NEVER, rising_RK)
    if cuts.any_top_p:
        mass = _mass(scores_RV, rising_RK, None if cuts.all_top_k else top_k_R)
        most_R = mass.falling_RK[:, -1] + bound_weight_R.double() * max(0, next_count - count)
        flat_R = most_R < limits.top_p_B * mass.total_R1[:, 0]
        low_R, reached_R = _low_end(mass, limits.top_p_B)
        kept_RK &= _above(scores_RK, rising_RK, low_R)
        complete_R |= reached_R
    if cuts.any_min_p:
        kept_RK &= (scores_RK - highest_R1).exp() >= limits.min_p_B[:, None]
    return kept_RK, complete_R, flat_R


def _ascending(scores_RK: Tensor) -> Tensor:
    """Sort each row from the lowest up. On a CPU numpy sorts ten times faster than torch."""
    if scores_RK.device.type != "cpu":
        return scores_RK.sort(-1).values
    return torch.from_numpy(np.sort(scores_RK.numpy(), axis=-1))


def _above(scores_RK: Tensor, rising_RK: Tensor, low_R: Tensor) -> Tensor:
    """Return true [R, K] at the scores that are not among the lowest `low_R`; of equals the lower ids count as
    lower."""
    floor_R1 = rising_RK.gather(1, low_R[:, None])
    below_R1 = torch.searchsorted(rising_RK, floor_R1)
    equal_RK = scores_RK == floor_R1
    return (scores_RK > floor_R1) | equal_RK & (equal_RK.cumsum(-1) > low_R[:, None] - below_R1)


class _Mass(NamedTuple):
    """Probabilities up to a factor: of each candidate and all above it, from the highest down, and of all tokens."""

    falling_RK: Tensor
    total_R1: Tensor


def _mass(scores_RV: Tensor, rising_RK: Tensor, top_k_R: Tensor | None) -> _Mass:
    """Return the probabilities; `top_k_R` says where tokens that are no candidates have none (None: everywhere)."""
    falling_RK = (rising_RK - rising_RK[:, -1:]).exp_().flip(-1).double().cumsum_(-1)
    total_R1 = falling_RK[:, -1:].clone()
    if top_k_R is not None:
        all_RV = (scores_RV - scores_RV.amax(-1, keepdim=True)).exp_()
        total_R1 = torch.where(top_k_R[:, None], total_R1, _sum(all_RV))
    return _Mass(falling_RK, total_R1)


def _sum(weights_RV: Tensor) -> Tensor:
    """Return the sum of each row, [R, 1], in float64. On a CPU torch would give a row alone to several threads, so that
    its bits depended on whether it is alone."""
    if weights_RV.device.type != "cpu":
        return weights_RV.sum(-1, keepdim=True, dtype=torch.float64)
    return torch.from_numpy(weights_RV.numpy().sum(-1, keepdims=True, dtype=np.float64))


def _low_end(mass: _Mass, top_p_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many [R] of the rising scores, each with all below it, have at most the probability 1 - p, never the
    last; and true [R] where all beyond the candidates do. The mass is used up."""
    share_RK = mass.falling_RK.div_(mass.total_R1).neg_().add_(1).float()  # of all below each, from the highest down
    low_RK = (share_RK <= (1 - top_p_R).float()[:, None]) & (top_p_R < 1)[:, None]
    return low_RK[:, :-1].sum(-1), low_RK[:, -1]


def sample(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return the place [B] in each row at which the sum of its weights passes the share `uniform_B` of all; never one
    of weight zero."""
    sums_BV = weights_BV.to(torch.float64, copy=True).cumsum_(-1)
    total_B1 = sums_BV[:, -1:].contiguous()
    place_B1 = torch.searchsorted(sums_BV, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(sums_BV, total_B1)
    return torch.minimum(place_B1, last_B1)[:, 0]
