"""From logits to a token: biases, penalties, stop sequences, temperature, top-k, top-p, min-p, then the inverse of the
cumulative distribution.

The random number of each row, in [0, 1), is made from (seed, request, sample, position), so a row's token depends on
nothing else in the batch. The order of the steps is Hugging Face's and the released Qwen's.

Legend: B rows, V vocabulary, N single logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import Stopped


def not_finite(label: str, position: int) -> Stopped:
    """Return the error for logits that are not finite, at a position of a prompt and its answer."""
    return Stopped(
        "the model's logits are NaN or infinite",
        where=f"{label}, position {position}",
        hint="look for such numbers in its weights, or compute in float32",
    )


def repetition_penalty(logits_BV: Tensor, penalized_BV: Tensor, penalty_B: Tensor) -> Tensor:
    """Divide positive and multiply negative logits of the tokens so far (`penalized_BV`) by the penalty (CTRL; Keskar
    et al., 2019)."""
    penalty_B1 = penalty_B[:, None]
    weaker_BV = torch.where(logits_BV < 0, logits_BV * penalty_B1, logits_BV / penalty_B1)
    return torch.where(penalized_BV, weaker_BV, logits_BV)


def logit_bias(logits_BV: Tensor, rows: list[int], ids: list[int], values: list[float]) -> Tensor:
    """Add `values` to single logits: a bias, or -inf for tokens that may not come yet."""
    sums_BV = logits_BV.clone()
    row_N, id_N = (torch.tensor(index, device=logits_BV.device) for index in (rows, ids))
    return sums_BV.index_put_((row_N, id_N), torch.tensor(values, device=logits_BV.device), accumulate=True)


def frequency_presence_penalty(logits_V: Tensor, ids: list[int], frequency: float, presence: float) -> Tensor:
    """Subtract `frequency` times its count, and `presence` once, from the logit of each token of the answer so far
    (vLLM's rule)."""
    counts_V = torch.bincount(torch.tensor(ids, dtype=torch.long, device=logits_V.device), minlength=len(logits_V))
    return logits_V - frequency * counts_V - presence * (counts_V > 0)


def force_eos(logits_BV: Tensor, rows: list[int], eos_ids: list[int]) -> Tensor:
    """Leave the end-of-text token as the only possible one in these rows."""
    ended_BV = logits_BV.clone()
    ended_BV[rows] = float("-inf")
    ended_BV[rows, eos_ids] = 0.0
    return ended_BV


def truncate(scores_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor, min_p_B: Tensor) -> Tensor:
    """Return the scores that remain after top-k, then top-p (nucleus sampling; Holtzman et al., 2020), then min-p; the
    others are -inf.

    `top_p_B` is float64, as Python's numbers are.

    Equal scores at the edge are treated as in Hugging Face's code: top-k keeps all of them, top-p those that
    `torch.sort` happens to put last. That sort is slow, so it runs only for rows whose edge lies between equal scores;
    the others need no indices."""
    size = scores_BV.shape[-1]
    count_B = torch.where(top_k_B > 0, top_k_B.clamp(max=size), size)
    if bool(((count_B == size) & (top_p_B >= 1) & (min_p_B <= 0)).all()):
        return scores_BV
    sorted_BV = _ascending(scores_BV)
    least_B1 = sorted_BV.gather(1, size - count_B[:, None])
    sorted_BV = sorted_BV.masked_fill(sorted_BV < least_B1, float("-inf"))
    out_BV = _low_end(sorted_BV, top_p_B)
    floor_B1 = sorted_BV.gather(1, out_BV.sum(-1, keepdim=True))
    kept_BV = scores_BV.masked_fill(scores_BV < torch.maximum(least_B1, floor_B1), float("-inf"))
    for row in (out_BV & (sorted_BV == floor_B1)).any(-1).nonzero()[:, 0].tolist():
        low_V = scores_BV[row].masked_fill(scores_BV[row] < least_B1[row], float("-inf")).sort().indices[out_BV[row]]
        kept_BV[row, low_V] = float("-inf")
    if bool((min_p_B <= 0).all()):
        return kept_BV
    probs_BV = kept_BV.softmax(-1)
    return kept_BV.masked_fill(probs_BV < min_p_B[:, None] * probs_BV.amax(-1, keepdim=True), float("-inf"))


def _low_end(sorted_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Return true where ascending scores together have at most the probability 1 - p; never at the last."""
    sums_BV = sorted_BV.softmax(-1).cumsum(-1)
    out_BV = (sums_BV <= (1 - top_p_B).to(sums_BV.dtype)[:, None]) & (top_p_B < 1)[:, None]
    out_BV[:, -1] = False
    return out_BV


def _ascending(scores_BV: Tensor) -> Tensor:
    """Sort each row from the lowest up. On a CPU numpy sorts ten times faster than torch."""
    if scores_BV.device.type != "cpu":
        return scores_BV.sort(-1).values
    return torch.from_numpy(np.sort(scores_BV.numpy(), axis=-1))


def sample(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return the token [B] of each row at which the cumulative distribution in vocabulary order passes `uniform_B`;
    never a token of probability zero."""
    sums_BV = probs_BV.double().cumsum(-1)
    total_B1 = sums_BV[:, -1:].contiguous()
    token_B1 = torch.searchsorted(sums_BV, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(sums_BV, total_B1)
    return torch.minimum(token_B1, last_B1)[:, 0]
