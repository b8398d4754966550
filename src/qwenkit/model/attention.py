"""Attention, in one place: the masks (causal, documents, sliding window), the weighted sum (report §1.3), and the
interface through which a layer attends.

    mask = document_mask(documents_BT, window)   # None: causal
    o_BHTD = attention(q_BHTD, k_BGSD, v_BGSD, mask, window)
    o_BHTD = cache.attend(layer, q_BHTD, k_BGTD, v_BGTD, window)     # what a layer calls

A layer knows its own queries, keys and values, and a `Cache` knows what they may see: `NoCache` here (training,
scoring), the engine's `inference/kv_cache.py`. So rows, padding, masks and blocks of a cache never reach a layer.

A window of w lets a query see the last w tokens, itself included. A mask that is given has its window in it; without a
mask the windowed form reads only the visible keys, so a long text costs T * w and not T * T.

Legend: B rows, T queries, S keys, H query heads, G key/value heads, D head width.

On a CPU, bf16 goes to torch's fused kernel only where no gradient is wanted. There it is by far the fastest (512
tokens, 14 heads of 64: 1.3 ms, in float32 3.7 ms, as matrix products 4.5 to 16.7 ms); with its backward pass it took
37 % of a training step. Under gradients the inputs are cast to float32, except that whole bf16 rows of moderate length
are two matrix products (`math`), the fastest way to train (at 4 heads of 32, rows of 256: fused in float32 25k tokens/s
compiled, matrix products 28.5k).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1024  # queries of a windowed layer that are read at once
_MAX_MATH = 1024  # tokens; above, the T * T scores of the matrix products cost more memory than they save time


class Cache(Protocol):
    """What the tokens of one forward pass attend through: it knows where they stand and what they may see, and it keeps
    their keys and values where a later pass needs them."""

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions, [B, T] or [1, T], of the tokens whose vectors these are."""
        ...

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the length in tokens of each token's prompt or document, [B, T], [B, 1] or [1, 1]: dynamic NTK fixes
        its alpha by it."""
        ...

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Return the attention [B, H, T, D] of the queries over their own keys and values and all earlier ones that the
        window (in tokens; None: all) lets them see. Queries and keys are rotated."""
        ...


class NoCache:
    """Whole rows, in which every token sees those before it in its document: training, scoring, any pass that is not
    continued. Nothing is kept, and no layer changes it, so a layer can be computed again for its gradient.

        model.hidden(ids_BT, NoCache(documents_BT))     # packed rows
    """

    def __init__(
        self,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        windows: Iterable[int | None] = (None,),
    ) -> None:
        """Number the document of each token (None: a row is one document). Positions are given, or start again at 0
        with every document. All layers of one of these `windows` share a mask; another window's is made in each."""
        self.documents_BT, self.given_BT = documents_BT, positions_BT
        self._masks: dict[int | None, Tensor] = {}
        if documents_BT is not None:
            self._masks = {window: document_mask(documents_BT, window) for window in dict.fromkeys(windows)}

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions [B, T], or [1, T] where all rows have the same."""
        if self.given_BT is not None:
            return self.given_BT
        if self.documents_BT is not None:
            return document_positions(self.documents_BT)
        return torch.arange(x_BTC.shape[1], device=x_BTC.device)[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the length of each token's document, [B, T] or [1, 1]."""
        if self.documents_BT is not None:
            return document_lengths(self.documents_BT)
        return torch.full((1, 1), x_BTC.shape[1], device=x_BTC.device)

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Return the attention [B, H, T, D] of the rows among themselves."""
        mask = self._masks.get(window)
        if self.documents_BT is not None and mask is None:
            mask = document_mask(self.documents_BT, window)
        return attention(q_BHTD, k_BGTD, v_BGTD, mask, window)


def document_mask(documents_BT: Tensor, window: int | None = None) -> Tensor:
    """Return a mask [B, 1, T, T], true where a query may see a key: not later, in the same document, and inside the
    window.

    `documents_BT` numbers the document of each token; `window` is in tokens and includes the query itself."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    visible_BTT = same_BTT.tril() if window is None else same_BTT.tril().triu(1 - window)
    return visible_BTT[:, None]


def document_positions(documents_BT: Tensor) -> Tensor:
    """Return positions [B, T] that start again at 0 with every document of a packed sequence."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.zeros_like(documents_BT, dtype=torch.long)
    new_BT = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts_BT[:, 1:] = torch.where(new_BT, index_T[1:], 0)
    return index_T - starts_BT.cummax(dim=1).values


def document_lengths(documents_BT: Tensor) -> Tensor:
    """Return [B, T]: the number of tokens in the document that each token belongs to."""
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.sum(-1)


def attention(
    q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None, window: int | None = None, math: bool = False
) -> Tensor:
    """Return softmax attention (Vaswani et al., 2017), [B, H, T, D], in the dtype of the queries.

    Queries are [B, H, T, D], keys and values [B, G, S, D]: with G < H, groups of query heads share a key/value head
    (GQA; Ainslie et al., 2023). A query may see a key where `mask` is true; without a mask attention is causal, inside
    the window. `math=True` always computes matrix products with a softmax in float32; otherwise the rules at the head
    of this file choose between them and torch's fused kernel."""
    T = q_BHTD.shape[2]
    if mask is None and window is not None and window < T:
        return _windowed(q_BHTD, k_BGSD, v_BGSD, window, math)
    return _attend(q_BHTD, k_BGSD, v_BGSD, mask, math)


def _windowed(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, window: int, math: bool) -> Tensor:
    """Attend in blocks of queries, each with the keys that its window reaches."""
    T, parts = q_BHTD.shape[2], []
    for start in range(0, T, _BLOCK):
        end, first = min(start + _BLOCK, T), max(0, start - window + 1)
        behind_TS = torch.arange(start, end)[:, None] - torch.arange(first, end)
        mask = ((behind_TS >= 0) & (behind_TS < window))[None, None].to(q_BHTD.device)
        keys, values = k_BGSD[:, :, first:end], v_BGSD[:, :, first:end]
        parts.append(_attend(q_BHTD[:, :, start:end], keys, values, mask, math))
    return torch.cat(parts, dim=2)


def _attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None, math: bool) -> Tensor:
    dtype = q_BHTD.dtype
    if math:
        return _math(q_BHTD, k_BGSD, v_BGSD, mask)
    if q_BHTD.device.type != "cpu" or (dtype == torch.bfloat16 and not q_BHTD.requires_grad):
        return _fused(q_BHTD, k_BGSD, v_BGSD, mask)
    if dtype == torch.bfloat16 and q_BHTD.shape[2] == k_BGSD.shape[2] <= _MAX_MATH:
        return _math(q_BHTD, k_BGSD, v_BGSD, mask)
    with torch.autocast("cpu", enabled=False):
        return _fused(q_BHTD.float(), k_BGSD.float(), v_BGSD.float(), mask).to(dtype)


def _fused(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q_BHTD.shape[1] != k_BGSD.shape[1]
    if grouped and mask is not None and q_BHTD.shape[2] == 1 and q_BHTD.device.type == "cuda":
        return one_query(q_BHTD, k_BGSD, v_BGSD, mask)
    return F.scaled_dot_product_attention(
        q_BHTD, k_BGSD, v_BGSD, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )


def one_query(q_BH1D: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask_B11S: Tensor) -> Tensor:
    """Return the attention [B, H, 1, D] of one query a row, where groups of heads share keys: the heads of a group are
    the rows of one product, as no mask tells them apart. torch's kernels for GPUs that take a mask know no groups, and
    what stands in for them copies every key for each head."""
    B, H, _, D = q_BH1D.shape
    q_BGRD = q_BH1D.reshape(B, k_BGSD.shape[1], -1, D)
    mask_BGRS = mask_B11S.expand(B, *q_BGRD.shape[1:3], -1)
    return F.scaled_dot_product_attention(q_BGRD, k_BGSD, v_BGSD, attn_mask=mask_BGRS).reshape(B, H, 1, D)


def _math(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, mask: Tensor | None) -> Tensor:
    """Attend by matrix products, softmax in float32: for bf16 on a CPU the fastest for short rows, also compiled."""
    groups, T, device = q_BHTD.shape[1] // k_BGSD.shape[1], q_BHTD.shape[2], q_BHTD.device
    k_BHSD, v_BHSD = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k_BGSD, v_BGSD))
    visible = torch.ones(T, T, dtype=torch.bool, device=device).tril() if mask is None else mask
    bias = torch.zeros(visible.shape, device=device).masked_fill(~visible, float("-inf"))
    scores_BHTS = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(-1, -2)
    return (scores_BHTS.float() + bias).softmax(-1).to(v_BHSD.dtype) @ v_BHSD
