"""From logits to a token: penalty, temperature, top-k, top-p, then the inverse of the cumulative distribution.

The draw of each row is a number in [0, 1) made from (seed, request, sample, position), so a row's token depends on
nothing else in the batch. The order of the steps is Hugging Face's and the released Qwen's.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qwenkit.errors import Stopped


def own_logprobs(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    """The model's own log-probability of each chosen token, whatever the sampler did to the distribution."""
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def not_finite(where: str, position: int) -> Stopped:
    """There is no distribution of the token at this position of a prompt and its answer."""
    return Stopped(
        "the model's logits are NaN or infinite",
        where=f"{where}, position {position}",
        mend="look for such numbers in its weights, or compute in float32",
    )


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty_B: Tensor) -> Tensor:
    """Repetition penalty on every token of the prompt and the answer so far."""
    penalty_B1 = penalty_B[:, None]
    weaker_BV = torch.where(logits_BV < 0, logits_BV * penalty_B1, logits_BV / penalty_B1)
    return torch.where(seen_BV, weaker_BV, logits_BV)


def truncate(probs_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """Zero what top-k and then top-p leave out. A token as likely as the last one kept stays too."""
    size = probs_BV.shape[-1]
    count_B = torch.where(top_k_B > 0, top_k_B.clamp(max=size), size)
    if bool(((count_B == size) & (top_p_B >= 1)).all()):
        return probs_BV
    sorted_BV = _descending(probs_BV)
    kept_BV = torch.arange(size, device=probs_BV.device) < count_B[:, None]
    sums_BV = (sorted_BV * kept_BV).cumsum(-1)
    before_BV = sums_BV - sorted_BV
    kept_BV &= (before_BV < top_p_B[:, None] * sums_BV[:, -1:]) | (top_p_B >= 1)[:, None]
    kept_BV[:, 0] = True
    floor_B1 = sorted_BV.gather(1, kept_BV.sum(-1, keepdim=True) - 1)
    return probs_BV.masked_fill(probs_BV < floor_B1, 0.0)


def _descending(probs_BV: Tensor) -> Tensor:
    """Each row from the likeliest down. On a CPU numpy sorts five times faster than torch."""
    if probs_BV.device.type != "cpu":
        return probs_BV.sort(-1, descending=True).values
    return torch.from_numpy(-np.sort(-probs_BV.numpy(), axis=-1))


def draw(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Inverse cumulative distribution in vocabulary order; never a token of probability zero."""
    sums_BV = probs_BV.double().cumsum(-1)
    total_B1 = sums_BV[:, -1:].contiguous()
    found_B1 = torch.searchsorted(sums_BV, uniform_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(sums_BV, total_B1)
    return torch.minimum(found_B1, last_B1)[:, 0]
