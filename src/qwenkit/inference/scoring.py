"""The model's log-probability of given tokens, many rows at a time.

Legend: B rows, T tokens, N scored tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from qwenkit.inference.sampling import not_finite
from qwenkit.model import Transformer

_LOGITS_AT_ONCE = 2**24


def score(model: Transformer, rows: list[list[int]], starts: list[int], tokens: int) -> list[list[float]]:
    """For each row the log-probability of its tokens from `starts` on, each given all before it."""
    scores: list[list[float]] = [[] for _ in rows]
    device = model.model.embed_tokens.weight.device
    for batch in _by_length(rows, tokens):
        width = max(len(rows[i]) for i in batch)
        ids_BT = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in batch], device=device)
        h_BTD = model.hidden(ids_BT, documents_BT=_padding(model, [len(rows[i]) for i in batch], ids_BT))
        wanted_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        for b, i in enumerate(batch):
            wanted_BT[b, starts[i] : len(rows[i])] = True
        found = _logprobs(model, h_BTD[:, :-1][wanted_BT[:, 1:]], ids_BT[wanted_BT]).tolist()
        for i in batch:
            count = max(0, len(rows[i]) - starts[i])
            scores[i], found = found[:count], found[count:]
            _check_finite(scores[i], f"prompt {i}", starts[i])
    return scores


def _padding(model: Transformer, lengths: list[int], ids_BT: Tensor) -> Tensor | None:
    """Text and padding as two documents, for a model that asks how long a text is (dynamic NTK); no other one needs to
    know, as padding comes last."""
    extension = model.config.extension
    if extension is None or not extension.dynamic_ntk or min(lengths) == ids_BT.shape[1]:
        return None
    ends_B = torch.tensor(lengths, device=ids_BT.device)
    return (torch.arange(ids_BT.shape[1], device=ids_BT.device) >= ends_B[:, None]).long()


def _check_finite(scores: list[float], where: str, start: int) -> None:
    for position, logprob in enumerate(scores, start):
        if not math.isfinite(logprob):
            raise not_finite(where, position)


def _logprobs(model: Transformer, h_ND: Tensor, ids_N: Tensor) -> Tensor:
    """In chunks, so that the logits of a large vocabulary never exist all at once."""
    size = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    parts = []
    for h_CD, ids_C in zip(h_ND.split(size), ids_N.split(size)):
        logits_CV = model.head(h_CD).float()
        parts.append(logits_CV.gather(1, ids_C[:, None])[:, 0] - logits_CV.logsumexp(-1))
    return torch.cat(parts)


def _by_length(rows: list[list[int]], tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of at most `tokens` padded tokens, longest first."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        count = max(1, tokens // len(rows[order[0]]))
        yield order[:count]
        order = order[count:]
