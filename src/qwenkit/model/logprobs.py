"""Log-probabilities of given tokens without the logits of a whole batch: the head runs on some rows at a time.

    logprobs_N = token_logprobs(model.head, h_ND, ids_N, chunk=2048)
    logprobs_N, entropy_N = token_logprobs_and_entropy(model.head, h_ND, ids_N, chunk=2048)

With 152k words the logits are the largest tensor of a step: 8192 tokens of them are 5 GB in float32. So every caller
names a `chunk`, and where gradients are wanted a chunk's logits are computed anew in the backward pass (activation
checkpointing). `by_chunks` is the one place that does it; the loss of training uses it too (`training/lm_loss.py`).

The two formulas for a log-probability, x - logsumexp(x) and log_softmax(x), differ in the last bits. Sampling and
scoring use the first, PPO the second; results of earlier runs hold only where each keeps its own.

Legend: N tokens, D hidden width, V vocabulary. All log-probabilities and entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""From states [N, D] to logits [N, V]: `Transformer.head`."""


def by_chunks(
    compute: Callable[..., tuple[Tensor, ...]], rows: tuple[Tensor, ...], chunk: int
) -> list[tuple[Tensor, ...]]:
    """Return the results of `compute(*rows)` for `chunk` rows of the tensors at a time; one result where all rows fit.

    With several chunks and gradients, activations are not kept for the backward pass but recomputed in it."""
    if len(rows[0]) <= chunk:
        return [compute(*rows)]
    chunks = zip(*(tensor.split(chunk) for tensor in rows))
    if not torch.is_grad_enabled():
        return [compute(*part) for part in chunks]
    return [checkpoint(compute, *part, use_reentrant=False) for part in chunks]  # pyright: ignore[reportReturnType]


def selected_logprobs(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """Return the log-probability [N] in nats of one id in each row of logits: x - logsumexp(x)."""
    return logits_NV.gather(1, ids_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def token_logprobs(head: Head, h_ND: Tensor, ids_N: Tensor, chunk: int) -> Tensor:
    """Return the log-probability [N] in nats of each id, given the hidden state before it, in float32."""

    def compute(h_CD: Tensor, ids_C: Tensor) -> tuple[Tensor]:
        return (selected_logprobs(head(h_CD).float(), ids_C),)

    return torch.cat([logprobs_C for (logprobs_C,) in by_chunks(compute, (h_ND, ids_N), chunk)])


def token_logprobs_and_entropy(head: Head, h_ND: Tensor, ids_N: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the log-probability [N] of each id and the entropy [N] of the distribution that it was drawn from, in
    nats.

    Both are in float32 (float64 where the logits are); the entropy carries no gradient."""

    def compute(h_CD: Tensor, ids_C: Tensor) -> tuple[Tensor, Tensor]:
        logits_CV = head(h_CD)
        logprobs_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)).log_softmax(-1)
        with torch.no_grad():
            entropy_C = entropy(logprobs_CV)
        return logprobs_CV.gather(1, ids_C[:, None]).squeeze(1), entropy_C

    logprobs, entropies = zip(*by_chunks(compute, (h_ND, ids_N), chunk))
    return torch.cat(logprobs), torch.cat(entropies)


def entropy(logprobs_NV: Tensor) -> Tensor:
    """Return the entropy [N] in nats of each row of log-probabilities."""
    return -(logprobs_NV.exp() * logprobs_NV).sum(-1)
