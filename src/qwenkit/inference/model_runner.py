"""The model at work on a batch: prompts into the cache, then one token more for every row.

A step changes a sequence only at its end, when its token is known; one that was interrupted is simply done again.

The same bits in any company, as measured (`benchmarks/batch_bits.py`): in float32 on a CPU with one thread, at every
width tried; with two threads up to an intermediate size of 688, in bf16 up to 352. In wider models, and in those with
experts, the last bits follow the batch, whatever the padding; accelerators and packed weights were not measured. So
only float32 on a CPU is padded.

Legend: R rows of the cache, B sequences of this step, T tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from qwenkit.inference.kv_cache import KVCache
from qwenkit.inference.sampling import (
    force_eos,
    frequency_presence_penalty,
    logit_bias,
    own_logprobs,
    repetition_penalty,
    sample,
    truncate,
)
from qwenkit.inference.sequence import Sequence
from qwenkit.model import Transformer
from qwenkit.model.prepacked import pack
from qwenkit.rng import uniform

_ROWS = 16  # in float32 on a CPU rows come in multiples of this: torch's linear kernels sum smaller batches otherwise
_BUCKET = 32  # prompts are read together with those of the same length, rounded up to this


class ModelRunner:
    """A model and its cache; row i belongs to the i-th running sequence. Ids from `vocabulary` on are never drawn.

    `model` holds the weights, `compute_model` computes: the same, or its packed form."""

    def __init__(
        self, model: Transformer, vocabulary: int, prefill_tokens: int, kv_cache: str = "auto", packed: bool = False
    ) -> None:
        self.model, self.vocabulary, self.prefill_tokens, self.packed = model, vocabulary, prefill_tokens, packed
        self.refresh_weights()
        weight = model.model.embed_tokens.weight
        self.rows = _ROWS if weight.dtype == torch.float32 and weight.device.type == "cpu" else 1
        self.cache = KVCache(model.config, self.rows, 1, weight.dtype, weight.device, kv_cache)

    @property
    def compute_model(self) -> Transformer:
        """What computes. The model's configuration may be set at any time, and is followed."""
        self._compute_model.config = self.model.config
        return self._compute_model

    def refresh_weights(self) -> None:
        """Compute with the weights that the model has now."""
        self._compute_model = pack(self.model) if self.packed else self.model

    def step(self, running: list[Sequence]) -> None:
        """One token more: for the rows that have none yet, if there are any, else for all."""
        fresh = [row for row, sequence in enumerate(running) if not sequence.ids]
        if fresh:
            self._prefill(running, fresh)
        elif running:
            self._decode(running)

    def _prefill(self, running: list[Sequence], fresh: list[int]) -> None:
        """Read the prompts of these rows and write each one's first token. Equal prompts are read once."""
        self._reserve(running, max(_rounded(len(running[row].prompt)) for row in fresh))
        rows: dict[tuple[int, ...], list[int]] = {}
        for row in fresh:
            rows.setdefault(running[row].prompt, []).append(row)
        places = {row: place for place, row in enumerate(fresh)}
        width = self.model.config.hidden_size
        h_BD = self.model.model.embed_tokens.weight.new_zeros(len(fresh) + self._idle(len(fresh)), width)
        for prompts in _batches(list(rows), self.prefill_tokens):
            own = [rows[prompt][0] for prompt in prompts]
            last_BD = self._read(prompts, own)
            for i, prompt in enumerate(prompts):
                h_BD[[places[row] for row in rows[prompt]]] = last_BD[i]
                for row in rows[prompt][1:]:
                    self.cache.copy(own[i], row, len(prompt))
        self._write(running, fresh, h_BD)

    def _read(self, prompts: list[tuple[int, ...]], rows: list[int]) -> Tensor:
        """Prompts into their rows of the cache; the state of the last token of each. One that is too long to be read
        at once is read alone, in pieces: each sees all before it and nothing after."""
        lengths = [len(prompt) for prompt in prompts]
        size = max(self.prefill_tokens // _BUCKET, 1) * _BUCKET  # a piece has no padding: it would stretch 8-bit spans
        if lengths[0] <= size or len(prompts) > 1:
            h_BTD = self.compute_model.hidden(self._padded(prompts), cache=self.cache.fresh(rows, lengths))
            return torch.stack([h_BTD[i, length - 1] for i, length in enumerate(lengths)])
        h_1TD = self.compute_model.hidden(self._padded([prompts[0][:size]]), cache=self.cache.fresh(rows, lengths))
        for start in range(size, lengths[0], size):
            piece = torch.tensor([prompts[0][start : start + size]], device=self.cache.device)
            h_1TD = self.compute_model.hidden(piece, cache=self.cache.next([start], lengths, first=rows[0]))
        return h_1TD[:, -1]

    def _padded(self, prompts: list[tuple[int, ...]]) -> Tensor:
        width = _rounded(max(map(len, prompts)))
        return torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.cache.device)

    def _reserve(self, running: list[Sequence], length: int) -> None:
        """Room in the cache for what this step writes."""
        self.cache.reserve(len(running) + self._idle(len(running)), length, kept=len(running))

    def _idle(self, rows: int) -> int:
        """Rows to add for a multiple of `self.rows`."""
        return -rows % self.rows

    def _decode(self, running: list[Sequence]) -> None:
        """One token more for every row."""
        self._reserve(running, max(s.length for s in running))
        idle = self._idle(len(running))
        ids_B1 = torch.tensor([[s.ids[-1]] for s in running] + [[0]] * idle, device=self.cache.device)
        stored = [s.stored for s in running] + [0] * idle
        lengths = [len(s.prompt) for s in running] + [1] * idle
        h_BD = self.compute_model.hidden(ids_B1, cache=self.cache.next(stored, lengths, idle=idle))[:, 0]
        self._write(running, list(range(len(running))), h_BD)

    def _write(self, running: list[Sequence], rows: list[int], h_BD: Tensor) -> None:
        """Draw the next token of these rows from their last states; states behind them are padding."""
        logits_BV = self.compute_model.head(h_BD).float()[: len(rows)]
        rows, logits_BV = self._finite(running, rows, logits_BV)
        if not rows:
            return
        sequences = [running[row] for row in rows]
        ids_B = self._choose(sequences, logits_BV)
        logprobs = itertools.repeat(0.0)
        if any(s.params.logprobs for s in sequences):
            logprobs = own_logprobs(logits_BV, ids_B).tolist()
        for sequence, id, logprob in zip(sequences, ids_B.tolist(), logprobs):
            sequence.append(id, logprob)

    def _finite(self, running: list[Sequence], rows: list[int], logits_BV: Tensor) -> tuple[list[int], Tensor]:
        """The rows from which a token can be drawn. The others end here, and their cache is wiped: attention gives a
        later tenant's hidden slots the weight 0, but 0 times NaN is NaN."""
        finite_B = logits_BV.sum(-1).isfinite()
        if bool(finite_B.all()):
            return rows, logits_BV
        for row, finite in zip(rows, finite_B.tolist()):
            if not finite:
                self.cache.wipe(row)
                running[row].finish_reason = "not finite"
        return [row for row, finite in zip(rows, finite_B.tolist()) if finite], logits_BV[finite_B]

    def _choose(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """The likeliest token where the temperature is 0, a draw elsewhere."""
        logits_BV = self._adjusted(sequences, logits_BV)
        warm = [row for row, s in enumerate(sequences) if s.params.temperature]
        if len(warm) == len(sequences):
            return _sample(sequences, logits_BV)
        ids_B = logits_BV.argmax(-1)
        if warm:
            ids_B[warm] = _sample([sequences[row] for row in warm], logits_BV[warm])
        return ids_B

    def _adjusted(self, sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
        """Without the rows of the vocabulary that only pad it; with what is added to single tokens, the penalties, then
        the stop sequences."""
        if self.vocabulary < logits_BV.shape[1]:
            logits_BV = logits_BV.clone()
            logits_BV[:, self.vocabulary :] = float("-inf")
        if edits := [(row, id, value) for row, s in enumerate(sequences) for id, value in s.edits]:
            logits_BV = logit_bias(logits_BV, *map(list, zip(*edits)))
        logits_BV = _penalised(sequences, logits_BV)
        ends = {row: s.request.eos_id for row, s in enumerate(sequences) if s.request.eos_id is not None and s.at_stop}
        return force_eos(logits_BV, list(ends), list(ends.values())) if ends else logits_BV


def _penalised(sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
    """With the penalties: repetition, frequency, presence."""
    if any(s.seen_V is not None for s in sequences):
        nothing_V = torch.zeros(logits_BV.shape[1], dtype=torch.bool, device=logits_BV.device)
        seen_BV = torch.stack([nothing_V if s.seen_V is None else s.seen_V for s in sequences])
        penalty_B = torch.tensor([s.params.repetition_penalty for s in sequences], device=logits_BV.device)
        logits_BV = repetition_penalty(logits_BV, seen_BV, penalty_B)
    given = [(s.params.frequency_penalty or 0.0, s.params.presence_penalty or 0.0) for s in sequences]
    if not any(map(any, given)):
        return logits_BV
    return torch.stack([
        frequency_presence_penalty(logits_V, s.ids, *penalties) if any(penalties) else logits_V
        for s, logits_V, penalties in zip(sequences, logits_BV, given)
    ])  # fmt: skip


def _sample(sequences: list[Sequence], logits_BV: Tensor) -> Tensor:
    """A draw from each row's adjusted distribution: a function of (seed, request, sample, position)."""
    device, params = logits_BV.device, [s.params for s in sequences]
    temperature_B = torch.tensor([p.temperature for p in params], device=device)
    top_k_B = torch.tensor([p.top_k for p in params], device=device)
    top_p_B = torch.tensor([p.top_p for p in params], device=device, dtype=torch.float64)
    min_p_B = torch.tensor([p.min_p for p in params], device=device)
    probs_BV = truncate(logits_BV / temperature_B[:, None], top_k_B, top_p_B, min_p_B).softmax(-1)
    counters = np.array([(s.params.seed, s.request.number, s.sample, len(s.ids)) for s in sequences]).T
    return sample(probs_BV, torch.from_numpy(uniform(0, *counters)).to(device))


def _rounded(length: int) -> int:
    """The next multiple of `_BUCKET`."""
    return -(-length // _BUCKET) * _BUCKET


def _batches(prompts: list[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Prompts of the same rounded length, at most `tokens` together (but at least one)."""
    width = lambda prompt: _rounded(len(prompt))  # noqa: E731
    for bucket, group in itertools.groupby(sorted(prompts, key=width), key=width):
        members, size = list(group), max(1, tokens // bucket)
        for start in range(0, len(members), size):
            yield members[start : start + size]
