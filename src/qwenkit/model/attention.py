"""Attention, in one place: which key may be seen by which query, and the weighted sum (report §1.3).

    mask = document_mask(documents_BT)           # None: plain causal
    o_BHTD = attention(q_BHTD, k_BGSD, v_BGSD, mask)

Legend: B rows, T queries, S keys, H query heads, G key/value heads, D head width.

On a CPU torch's fused kernel is never given bf16: that alone took 37 % of a training step. It gets float32, except
that whole bf16 rows of moderate length are two plain matrix products, the fastest way to train (measured at 4 heads of
32, rows of 256: float32 fused 25k tokens/s compiled, plain 28.5k).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORT = 1024  # tokens; above, the plain form's square of scores costs more memory than it saves time


class Cache(Protocol):
    """Keys and values of earlier tokens. Slot j of a row holds the token at position j."""

    def positions_BT(self, T: int) -> Tensor:
        """Positions of the next T tokens of every row."""
        ...

    def mask(self, T: int) -> Tensor | None:
        """Which slots the next T tokens may see; None: nothing is cached yet, plain causal."""
        ...

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values of one layer; return all that the mask speaks of."""
        ...


def document_mask(documents_BT: Tensor) -> Tensor:
    """[B, 1, T, T], true where a query may see a key: not later, and in the same document."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.tril()[:, None]


def document_positions(documents_BT: Tensor) -> Tensor:
    """Positions that start again at 0 with every document of a packed row."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.zeros_like(documents_BT, dtype=torch.long)
    new_BT = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts_BT[:, 1:] = torch.where(new_BT, index_T[1:], 0)
    return index_T - starts_BT.cummax(dim=1).values


def attention(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, causal when `mask` is None, otherwise true where a query may see a key."""
    dtype = q_BHTD.dtype
    if q_BHTD.device.type != "cpu":
        return _fused(q_BHTD, k_BGSD, v_BGSD, mask)
    if dtype == torch.bfloat16 and q_BHTD.shape[2] == k_BGSD.shape[2] <= _SHORT:
        return _plain(q_BHTD, k_BGSD, v_BGSD, mask)
    with torch.autocast("cpu", enabled=False):
        return _fused(q_BHTD.float(), k_BGSD.float(), v_BGSD.float(), mask).to(dtype)


def _fused(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q_BHTD.shape[1] != k_BGSD.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTD, k_BGSD, v_BGSD, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


def _plain(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None) -> Tensor:
    """Matrix products in bf16, softmax in float32: the fastest on a CPU for short rows, eager and compiled."""
    groups, T = q_BHTD.shape[1] // k_BGSD.shape[1], q_BHTD.shape[2]
    k_BHSD, v_BHSD = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BGSD, v_BGSD))
    seen = torch.ones(T, T, dtype=torch.bool).tril() if mask is None else mask
    hidden = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    scores_BHTS = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(-1, -2)
    return (scores_BHTS.float() + hidden).softmax(-1).to(v_BHSD.dtype) @ v_BHSD
