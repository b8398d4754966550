"""Attention, in one place: which key may be seen by which query, and the weighted sum (report §1.3).

    mask = document_mask(documents_BT, window)   # None: plain causal
    o_BHTD = attention(q_BHTD, k_BGSD, v_BGSD, mask, window)

A window of w lets a query see the last w tokens, itself included. A mask that is given has its window in it; without a
mask the windowed form reads only the keys that can be seen, so a long text costs T * w and not T * T.

Legend: B rows, T queries, S keys, H query heads, G key/value heads, D head width.

On a CPU, bf16 goes to torch's fused kernel only where no gradient is wanted. There it is by far the fastest (512
tokens, 14 heads of 64: 1.3 ms, in float32 3.7 ms, plain 4.5 to 16.7 ms); with its backward pass it took 37 % of a
training step. Under gradients it gets float32, except that whole bf16 rows of moderate length are two plain matrix
products, the fastest way to train (at 4 heads of 32, rows of 256: float32 fused 25k tokens/s compiled, plain 28.5k).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1024  # queries of a windowed layer that are read at once
_SHORT = 1024  # tokens; above, the plain form's square of scores costs more memory than it saves time


class Cache(Protocol):
    """Keys and values of earlier tokens. Slot j of a row holds the token at position j."""

    math_attention: bool
    """Attention by plain matrix products, where another order of sums would show."""

    def positions_BT(self, T: int) -> Tensor:
        """Positions of the next T tokens of every row."""
        ...

    def lengths_BT(self, T: int) -> Tensor:
        """How long the prompt of each row is: what dynamic NTK fixes its alpha by."""
        ...

    def mask(self, T: int, window: int | None) -> Tensor | None:
        """Which slots the next T tokens may see; None: nothing is cached yet, plain causal (in the window)."""
        ...

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values of one layer; return all that the mask speaks of: of fewer rows than came where
        the last ones only fill the batch."""
        ...


def document_mask(documents_BT: Tensor, window: int | None = None) -> Tensor:
    """[B, 1, T, T], true where a query may see a key: not later, in the same document, and inside the window."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    seen_BTT = same_BTT.tril() if window is None else same_BTT.tril().triu(1 - window)
    return seen_BTT[:, None]


def document_positions(documents_BT: Tensor) -> Tensor:
    """Positions that start again at 0 with every document of a packed row."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.zeros_like(documents_BT, dtype=torch.long)
    new_BT = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts_BT[:, 1:] = torch.where(new_BT, index_T[1:], 0)
    return index_T - starts_BT.cummax(dim=1).values


def document_lengths(documents_BT: Tensor) -> Tensor:
    """[B, T]: how many tokens the document of each token has."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.sum(-1)


def attention(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None, window: int | None = None, plain: bool = False
) -> Tensor:
    """Softmax attention: where `mask` is true a query may see a key; without a mask causal, inside the window."""
    T = q_BHTD.shape[2]
    if mask is None and window is not None and window < T:
        return _windowed(q_BHTD, k_BGSD, v_BGSD, window, plain)
    return _attend(q_BHTD, k_BGSD, v_BGSD, mask, plain)


def _windowed(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, window: int, plain: bool) -> Tensor:
    """Blocks of queries, each with the keys that its window reaches."""
    T, parts = q_BHTD.shape[2], []
    for start in range(0, T, _BLOCK):
        end, first = min(start + _BLOCK, T), max(0, start - window + 1)
        behind_TS = torch.arange(start, end)[:, None] - torch.arange(first, end)
        mask = ((behind_TS >= 0) & (behind_TS < window))[None, None].to(q_BHTD.device)
        keys, values = k_BGSD[:, :, first:end], v_BGSD[:, :, first:end]
        parts.append(_attend(q_BHTD[:, :, start:end], keys, values, mask, plain))
    return torch.cat(parts, dim=2)


def _attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None, plain: bool) -> Tensor:
    dtype = q_BHTD.dtype
    if plain:
        return _plain(q_BHTD, k_BGSD, v_BGSD, mask)
    if q_BHTD.device.type != "cpu" or (dtype == torch.bfloat16 and not q_BHTD.requires_grad):
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
    """Matrix products as they are, softmax in float32: for bf16 on a CPU the fastest for short rows, also compiled."""
    groups, T, device = q_BHTD.shape[1] // k_BGSD.shape[1], q_BHTD.shape[2], q_BHTD.device
    k_BHSD, v_BHSD = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BGSD, v_BGSD))
    seen = torch.ones(T, T, dtype=torch.bool, device=device).tril() if mask is None else mask
    hidden = torch.zeros(seen.shape, device=device).masked_fill(~seen, float("-inf"))
    scores_BHTS = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(-1, -2)
    return (scores_BHTS.float() + hidden).softmax(-1).to(v_BHSD.dtype) @ v_BHSD
