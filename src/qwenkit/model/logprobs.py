"""The one head: log-probabilities and losses of given tokens, without the logits of a whole batch.

    result = token_logprobs(model, h_ND, targets_N, entropy=True, top=5)      # PPO, scoring, parity
    loss = cross_entropy_sum(model, h_ND, targets_N, weights_N)               # pretraining, SFT

With 152k words the logits are the largest tensor of a step: 8192 tokens of them are 5 GB in float32. So they exist for
a piece of the tokens at a time, at most `max_bytes` of them in float32 (256 MB).

The cross entropy makes its gradient in the forward pass, as its derivative is known up to a factor: each piece of the
logits is computed once, turned into its own gradient in place, and multiplied into the gradients of states and weight.
Where any function of the log-probabilities may follow (PPO's ratio), a piece is computed again in the backward pass
unless all tokens fit into one.

A model is anything with `head(h_ND)`. Where its `head_weight` is the head's matrix [V, D], the loss uses that directly;
otherwise (None, or no such attribute) it goes through `token_logprobs`.

Legend: N tokens, C tokens of a piece, D hidden width, V vocabulary, K most likely tokens. All log-probabilities and
entropies are in nats, in float32 (float64 where the logits are).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 256 * 2**20
"""The most bytes that the logits of a piece take in float32."""


class HeadModel(Protocol):
    """What the head of a model must be able to do; `Transformer` is one."""

    def head(self, h_ND: Tensor, /) -> Tensor:
        """Return the logits [N, V] of hidden states [N, D]."""
        ...


class TokenLogprobs(NamedTuple):
    """What `token_logprobs` returns. Only `logprobs` carries a gradient."""

    logprobs: Tensor
    """The log-probability [N] of each target."""
    entropy: Tensor | None
    """The entropy [N] of each distribution, where it was asked for."""
    top_ids: Tensor | None
    """The most likely ids [N, K], the likeliest first, where they were asked for."""
    top_logprobs: Tensor | None
    """Their log-probabilities [N, K]."""


def token_logprobs(
    model: HeadModel,
    h_ND: Tensor,
    targets_N: Tensor,
    *,
    entropy: bool = False,
    top: int = 0,
    max_bytes: int = LOGITS_BYTES,
) -> TokenLogprobs:
    """Return the log-probability of each target, given the hidden state before it; on request also the entropy of each
    distribution and its `top` most likely tokens."""

    def compute(h_CD: Tensor, targets_C: Tensor) -> tuple[Tensor, ...]:
        logits_CV = _wide(model.head(h_CD))
        lse_C = logsumexp(logits_CV)
        parts = [selected(logits_CV, targets_C) - lse_C]
        with torch.no_grad():
            if entropy:
                parts.append(lse_C - (logits_CV.softmax(-1) * logits_CV).sum(-1))
            if top:
                values_CK, ids_CK = logits_CV.topk(min(top, logits_CV.shape[1]))
                parts += [ids_CK, values_CK - lse_C[:, None]]
        return tuple(parts)

    pieces = list(_pieces(model, (h_ND, targets_N), max_bytes))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        results = [compute(*piece) for piece in pieces]
    else:
        results = [checkpoint(compute, *piece, use_reentrant=False) for piece in pieces]
    columns = [torch.cat(column) for column in zip(*results)]  # pyright: ignore[reportArgumentType]
    logprobs_N, *more = columns
    entropy_N = more.pop(0) if entropy else None
    top_ids_NK, top_logprobs_NK = more or (None, None)
    return TokenLogprobs(logprobs_N, entropy_N, top_ids_NK, top_logprobs_NK)


def cross_entropy_sum(
    model: HeadModel, h_ND: Tensor, targets_N: Tensor, weights_N: Tensor, *, max_bytes: int = LOGITS_BYTES
) -> Tensor:
    """Return the sum over tokens of weight times negative log-likelihood; gradients flow to the states and the head.

    The backward pass may run once."""
    weight_VD: Tensor | None = getattr(model, "head_weight", None)
    if weight_VD is None or h_ND.shape[0] == 0:
        return -(token_logprobs(model, h_ND, targets_N, max_bytes=max_bytes).logprobs * weights_N).sum()
    rows = _rows(weight_VD.shape[0], max_bytes)
    return _CrossEntropySum.apply(h_ND, weight_VD, targets_N, weights_N, rows, torch.is_grad_enabled())


def selected(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """Return the entry [N] of one id in each row."""
    return logits_NV.gather(1, ids_N[:, None])[:, 0]


def selected_logprobs(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """Return the log-probability [N] in nats of one id in each row of logits: x - logsumexp(x)."""
    return selected(logits_NV, ids_N) - logsumexp(logits_NV)


def logsumexp(logits_NV: Tensor) -> Tensor:
    """Return the logarithm of each row's sum of exponentials, [N]. On a CPU torch gives a row alone to several threads
    and sums it in another order: its bits would depend on whether it is alone, so it is not."""
    if len(logits_NV) == 1 and logits_NV.device.type == "cpu":
        return logits_NV.repeat(2, 1).logsumexp(-1)[:1]
    return logits_NV.logsumexp(-1)


class _CrossEntropySum(torch.autograd.Function):
    """The loss, with its gradients made in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, rows: int, grad: bool
    ) -> Tensor:
        """Return the loss; keep the gradients of those of states and weight that need one."""
        device = h_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        wants = [grad and needed for needed in ctx.needs_input_grad[:2]]
        with torch.autocast(device, enabled=False):
            loss, ctx.gradients = _loss_and_gradients(h_ND, weight_VD, targets_N, weights_N, rows, dtype, *wants)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times that of the loss."""
        if ctx.gradients is None:
            raise RuntimeError("the gradient of cross_entropy_sum was used already")
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if part is None else part.mul_(outer[0]) for part in gradients), None, None, None, None)


def _loss_and_gradients(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, rows: int, dtype: torch.dtype,
    wants_h: bool, wants_weight: bool,
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:  # fmt: skip
    """Return the loss and the gradients of states and weight. Products are computed in `dtype`, all else in float32."""
    wide = torch.promote_types(dtype, torch.float32)
    h_ND_low, weight_VD_low = h_ND.to(dtype), weight_VD.to(dtype)
    N, V = len(h_ND), len(weight_VD)
    buffer = h_ND.new_empty(min(rows, N), V, dtype=wide)
    nll_N = h_ND.new_empty(N, dtype=wide)
    dh_ND = torch.empty_like(h_ND) if wants_h else None
    dweight_VD = torch.zeros_like(weight_VD) if wants_weight else None
    for start in range(0, N, rows):
        piece = slice(start, start + rows)
        h_CD, targets_C1, weights_C1 = h_ND_low[piece], targets_N[piece, None], weights_N[piece, None].to(wide)
        logits_CV = _product(h_CD, weight_VD_low.T, buffer[: len(h_CD)])
        highest_C1, target_C1 = logits_CV.amax(-1, keepdim=True), logits_CV.gather(1, targets_C1)
        exp_CV = logits_CV.sub_(highest_C1).exp_()
        sum_C1 = exp_CV.sum(-1, keepdim=True)
        nll_N[piece] = (sum_C1.log() + highest_C1 - target_C1)[:, 0]
        if not (wants_h or wants_weight):
            continue
        gradient_CV = exp_CV.mul_(weights_C1 / sum_C1)  # of the logits: weight * (softmax - one hot)
        gradient_CV.scatter_(1, targets_C1, gradient_CV.gather(1, targets_C1) - weights_C1)
        gradient_CV = gradient_CV.to(dtype)
        if dh_ND is not None:
            dh_ND[piece] = gradient_CV @ weight_VD_low
        if dweight_VD is not None:
            _add_product(dweight_VD, gradient_CV.T, h_CD)
    return (nll_N * weights_N.to(wide)).sum(), (dh_ND, dweight_VD)


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Return a @ b in the memory of `out`, whose dtype may be wider."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else out.copy_(a @ b)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, whose dtype may be wider."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _pieces(model: HeadModel, tensors: tuple[Tensor, ...], max_bytes: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of the tensors in pieces whose logits fit."""
    rows = _rows(_vocabulary(model, tensors[0]), max_bytes)
    return zip(*(tensor.split(rows) for tensor in tensors))


def _vocabulary(model: HeadModel, h_ND: Tensor) -> int:
    """Return the number of logits of a row."""
    weight_VD: Tensor | None = getattr(model, "head_weight", None)
    if weight_VD is not None:
        return len(weight_VD)
    with torch.no_grad():
        return model.head(h_ND[:1]).shape[-1]


def _rows(vocabulary: int, max_bytes: int) -> int:
    return max(1, max_bytes // (4 * vocabulary))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
