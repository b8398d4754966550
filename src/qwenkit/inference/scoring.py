"""The model's log-probability of given tokens, many rows at a time.

Legend: B rows, T tokens, N scored tokens, D hidden width.
"""

from __future__ import annotations

import math

import torch

from qwenkit.inference.sampling import not_finite
from qwenkit.model import Transformer
from qwenkit.model.batching import length_batches, pad_right, padding_documents
from qwenkit.model.logprobs import token_logprobs
from qwenkit.prompt import Prompt


def score(model: Transformer, rows: list[Prompt], starts: list[int], max_tokens: int) -> list[list[float]]:
    """Return the log-probabilities in nats of the tokens of each row from `starts` on, each given all tokens before it.

    A forward pass holds at most `max_tokens` padded tokens, or one row. Raises `Stopped` where one is not finite."""
    scores: list[list[float]] = [[] for _ in rows]
    device = model.model.embed_tokens.weight.device
    for batch in length_batches([len(row.ids) for row in rows], max_tokens):
        ids_BT, lengths_B = pad_right([rows[i].ids for i in batch], device)
        embeds_BTD = model.embed(ids_BT, [rows[i] for i in batch]) if any(rows[i].images for i in batch) else None
        documents_BT = padding_documents(model.config, lengths_B, ids_BT.shape[1])
        h_BTD = model.hidden(ids_BT, documents_BT=documents_BT, embeds_BTD=embeds_BTD)
        scored_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        for b, i in enumerate(batch):
            scored_BT[b, starts[i] : len(rows[i].ids)] = True
        h_ND, ids_N = h_BTD[:, :-1][scored_BT[:, 1:]], ids_BT[scored_BT]
        logprobs = token_logprobs(model, h_ND, ids_N).logprobs.tolist()
        for i in batch:
            count = max(0, len(rows[i].ids) - starts[i])
            scores[i], logprobs = logprobs[:count], logprobs[count:]
            _check_finite(scores[i], f"prompt {i}", starts[i])
    return scores


def _check_finite(logprobs: list[float], label: str, start: int) -> None:
    for position, logprob in enumerate(logprobs, start):
        if not math.isfinite(logprob):
            raise not_finite(label, position)
