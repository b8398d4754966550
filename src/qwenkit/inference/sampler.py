"""From the logits of a step to the next token of each sequence.

    sampler = Sampler(vocabulary=151_851)
    sampler.append_tokens(sequences, logits_BV)     # one row a sequence; each gets its token, or ends

Logits are changed in vLLM's order: the mask of ids that only pad the vocabulary, logit bias, penalties, stop words;
then, in `sampling.py`, temperature, top-k, top-p, min-p. A row's token is a function of its own logits and of (seed,
rng_id, sample, position): it does not depend on the other rows.

Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from qwenkit.inference.sampling import (
    force_eos,
    frequency_presence_penalty,
    logit_bias,
    repetition_penalty,
    sample,
    truncate,
)
from qwenkit.inference.sequence import Sequence
from qwenkit.inference.stopping import ends_with_stop_words
from qwenkit.model.logprobs import selected_logprobs
from qwenkit.rng import uniform


class Sampler:
    """Turns logits into tokens. Ids from `vocabulary` on are never sampled."""

    def __init__(self, vocabulary: int) -> None:
        """Sample ids below `vocabulary`: the rows of the head behind them belong to no token."""
        self.vocabulary = vocabulary

    def append_tokens(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        """Append the next token to each of these sequences, from its row of logits in float32.

        A sequence whose logits are not finite gets none: it ends with the reason "not finite"."""
        sequences, logits_BV = _finite(sequences, logits_BV)
        if not sequences:
            return
        ids_B = self._choose(sequences, logits_BV)
        logprobs = itertools.repeat(0.0)
        if any(s.params.logprobs for s in sequences):
            logprobs = selected_logprobs(logits_BV, ids_B).tolist()
        for sequence, id, logprob in zip(sequences, ids_B.tolist(), logprobs):
            sequence.append(id, logprob)

    def _choose(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """Return the next token [B] of each row: the likeliest where the temperature is 0, a sample elsewhere."""
        logits_BV = self._adjusted(sequences, logits_BV)
        sampled = [row for row, s in enumerate(sequences) if s.params.temperature]
        if len(sampled) == len(sequences):
            return _sample(sequences, logits_BV)
        ids_B = logits_BV.argmax(-1)
        if sampled:
            ids_B[sampled] = _sample([sequences[row] for row in sampled], logits_BV[sampled])
        return ids_B

    def _adjusted(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """Mask the ids that only pad the vocabulary; then logit bias, penalties and stop words, in this order."""
        if self.vocabulary < logits_BV.shape[1]:
            logits_BV = logits_BV.clone()
            logits_BV[:, self.vocabulary :] = float("-inf")
        if edits := [(row, id, value) for row, s in enumerate(sequences) for id, value in s.logit_edits]:
            logits_BV = logit_bias(logits_BV, *map(list, zip(*edits)))
        logits_BV = _penalised(sequences, logits_BV)
        ends = {
            row: s.request.eos_id
            for row, s in enumerate(sequences)
            if s.request.eos_id is not None and ends_with_stop_words(s)
        }
        return force_eos(logits_BV, list(ends), list(ends.values())) if ends else logits_BV


def _finite(sequences: list[Sequence], logits_BV: Tensor) -> tuple[list[Sequence], Tensor]:
    """Return the sequences that have a next token, and their logits. The others end here."""
    finite_B = logits_BV.sum(-1).isfinite()
    if bool(finite_B.all()):
        return sequences, logits_BV
    good: list[Sequence] = []
    for sequence, finite in zip(sequences, finite_B.tolist()):
        if finite:
            good.append(sequence)
        else:
            sequence.finish_reason = "not finite"
    return good, logits_BV[finite_B]


def _penalised(sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
    """Apply the penalties: repetition, then frequency and presence."""
    if any(s.penalized_V is not None for s in sequences):
        none_V = torch.zeros(logits_BV.shape[1], dtype=torch.bool, device=logits_BV.device)
        penalized_BV = torch.stack([none_V if s.penalized_V is None else s.penalized_V for s in sequences])
        penalty_B = torch.tensor([s.params.repetition_penalty for s in sequences], device=logits_BV.device)
        logits_BV = repetition_penalty(logits_BV, penalized_BV, penalty_B)
    penalties = [(s.params.frequency_penalty or 0.0, s.params.presence_penalty or 0.0) for s in sequences]
    if not any(map(any, penalties)):
        return logits_BV
    return torch.stack([
        frequency_presence_penalty(logits_V, s.ids, *both) if any(both) else logits_V
        for s, logits_V, both in zip(sequences, logits_BV, penalties)
    ])  # fmt: skip


def _sample(sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
    """Sample from each row's adjusted distribution: a function of (seed, rng_id, sample, position)."""
    device, params = logits_BV.device, [s.params for s in sequences]
    temperature_B = torch.tensor([p.temperature for p in params], device=device)
    top_k_B = torch.tensor([p.top_k for p in params], device=device)
    top_p_B = torch.tensor([p.top_p for p in params], device=device, dtype=torch.float64)
    min_p_B = torch.tensor([p.min_p for p in params], device=device)
    probs_BV = truncate(logits_BV / temperature_B[:, None], top_k_B, top_p_B, min_p_B).softmax(-1)
    counters = np.array([sequence.draw_counters for sequence in sequences]).T
    return sample(probs_BV, torch.from_numpy(uniform(0, *counters)).to(device))
