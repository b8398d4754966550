"""From logits to a token: penalty, temperature, top-k, top-p, then the inverse of the cumulative distribution.

The draw of each row is a number in [0, 1) made from (seed, request, sample, position), so a row's token depends on
nothing else in the batch. The order of the steps is Hugging Face's and the released Qwen's.

Legend: B rows, V vocabulary, K kept candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_CANDIDATES = 64


def own_logprobs(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    """The model's own log-probability of each chosen token, whatever the sampler did to the distribution."""
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty_B: Tensor) -> Tensor:
    """Repetition penalty on every token of the prompt and the answer so far."""
    penalty_B1 = penalty_B[:, None]
    weaker_BV = torch.where(logits_BV < 0, logits_BV * penalty_B1, logits_BV / penalty_B1)
    return torch.where(seen_BV, weaker_BV, logits_BV)


def truncate(probs_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """Zero what top-k and then top-p leave out. A token as likely as the last one kept stays too."""
    size = probs_BV.shape[-1]
    wanted = torch.where(top_k_B > 0, top_k_B, size)
    if bool((wanted < size).any()):
        sorted_BK = probs_BV.topk(min(size, int(wanted[wanted < size].max()))).values
        last_B1 = sorted_BK.gather(1, (wanted[:, None] - 1).clamp(max=sorted_BK.shape[1] - 1))
        probs_BV = probs_BV.masked_fill((probs_BV < last_B1) & (wanted < size)[:, None], 0.0)
        probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
    if bool((top_p_B < 1).any()):
        probs_BV = probs_BV.masked_fill(probs_BV < _nucleus_floor(probs_BV, top_p_B), 0.0)
    return probs_BV


def _nucleus_floor(probs_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """The probability of the last token of each row's nucleus, [B, 1]. Sorting the likeliest few is nearly always
    enough and many times cheaper than sorting the vocabulary."""
    size, count = probs_BV.shape[-1], _FIRST_CANDIDATES
    while True:
        sorted_BK = probs_BV.topk(min(count, size)).values
        sums_BK = sorted_BK.cumsum(-1)
        if count >= size or bool((sums_BK[:, -1] >= top_p_B)[top_p_B < 1].all()):
            break
        count *= 8
    before_BK = sums_BK - sorted_BK
    kept_B1 = (before_BK < top_p_B[:, None]).sum(-1, keepdim=True).clamp(min=1)
    return torch.where(top_p_B[:, None] < 1, sorted_BK.gather(1, kept_B1 - 1), 0.0)


def draw(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Inverse cumulative distribution in vocabulary order; never a token of probability zero."""
    sums_BV = probs_BV.double().cumsum(-1)
    total_B1 = sums_BV[:, -1:].contiguous()
    found_B1 = torch.searchsorted(sums_BV, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(sums_BV, total_B1)
    return torch.minimum(found_B1, last_B1)[:, 0]
