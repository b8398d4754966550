"""The model on a batch: prompts into the cache (prefill), then one more token for every row (decode).

A step changes a sequence only at its end, when its token is known; one that was interrupted is simply done again.

Bitwise batch-invariant where measured (`benchmarks/batch_bits.py`): in float32 on a CPU with one thread, at every width
tried; with two threads up to an intermediate size of 688, in bf16 up to 352. In wider models, and in those with
experts, the last bits depend on the batch, whatever the padding; accelerators and prepacked weights were not measured.
So only float32 on a CPU is padded.

Legend: R rows of the cache, B sequences of this step, T tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from qwenkit.inference.kv_cache import KVCache
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
from qwenkit.model import Transformer
from qwenkit.model.batching import bucket_batches, round_up
from qwenkit.model.logprobs import selected_logprobs
from qwenkit.model.prepacked import prepack
from qwenkit.rng import uniform

_ROWS = 16  # in float32 on a CPU rows come in multiples of this: torch's linear kernels sum smaller batches otherwise
_BUCKET = 32  # prompts are read together with those of the same length, rounded up to this


class ModelRunner:
    """A model and its cache; row i belongs to the i-th running sequence. Ids from `vocabulary` on are never sampled.

    `model` owns the weights, `compute_model` runs them: the same module, or its prepacked copy."""

    def __init__(
        self, model: Transformer, vocabulary: int, prefill_tokens: int, kv_cache: str = "auto", packed: bool = False
    ) -> None:
        """Prepare an empty cache; `packed` computes with a prepacked copy of the weights."""
        self.model, self.vocabulary, self.prefill_tokens, self.packed = model, vocabulary, prefill_tokens, packed
        self.refresh_weights()
        weight = model.model.embed_tokens.weight
        self.row_multiple = _ROWS if weight.dtype == torch.float32 and weight.device.type == "cpu" else 1
        self.cache = KVCache(model.config, self.row_multiple, 1, weight.dtype, weight.device, kv_cache)

    @property
    def compute_model(self) -> Transformer:
        """Return the model that computes. It follows the configuration of `model`, which may be set at any time."""
        self._compute_model.config = self.model.config
        return self._compute_model

    def refresh_weights(self) -> None:
        """Compute with the weights that the model has now."""
        self._compute_model = prepack(self.model) if self.packed else self.model

    def step(self, running: list[Sequence]) -> None:
        """Add one token: to the sequences that have none yet (prefill) if there are any, else to all (decode)."""
        new_rows = [row for row, sequence in enumerate(running) if not sequence.ids]
        if new_rows:
            self._prefill(running, new_rows)
        elif running:
            self._decode(running)

    def _prefill(self, running: list[Sequence], rows: list[int]) -> None:
        """Read the prompts of these rows and sample the first token of each. Equal prompts are read once."""
        self._reserve(running, max(round_up(len(running[row].prompt), _BUCKET) for row in rows))
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            rows_of.setdefault(running[row].prompt, []).append(row)
        index = {row: i for i, row in enumerate(rows)}
        width = self.model.config.hidden_size
        h_BD = self.model.model.embed_tokens.weight.new_zeros(len(rows) + self._padding_rows(len(rows)), width)
        unique = list(rows_of)
        for batch in bucket_batches([len(prompt) for prompt in unique], self.prefill_tokens, _BUCKET):
            prompts = [unique[i] for i in batch]
            first_rows = [rows_of[prompt][0] for prompt in prompts]
            last_BD = self._read(prompts, first_rows)
            for i, prompt in enumerate(prompts):
                h_BD[[index[row] for row in rows_of[prompt]]] = last_BD[i]
                for row in rows_of[prompt][1:]:
                    self.cache.copy(first_rows[i], row, len(prompt))
        self._append_tokens(running, rows, h_BD)

    def _read(self, prompts: list[tuple[int, ...]], rows: list[int]) -> Tensor:
        """Read prompts into their rows of the cache; return the state [B, D] of the last token of each.

        A prompt longer than `prefill_tokens` is read alone, in segments (chunked prefill): each sees all before it and
        nothing after."""
        lengths = [len(prompt) for prompt in prompts]
        size = max(self.prefill_tokens // _BUCKET, 1) * _BUCKET  # a segment has no padding: it would widen 8-bit ranges
        if lengths[0] <= size or len(prompts) > 1:
            h_BTD = self.compute_model.hidden(self._padded(prompts), cache=self.cache.prefill(rows, lengths))
            return torch.stack([h_BTD[i, length - 1] for i, length in enumerate(lengths)])
        h_1TD = self.compute_model.hidden(self._padded([prompts[0][:size]]), cache=self.cache.prefill(rows, lengths))
        for start in range(size, lengths[0], size):
            chunk = torch.tensor([prompts[0][start : start + size]], device=self.cache.device)
            h_1TD = self.compute_model.hidden(chunk, cache=self.cache.decode([start], lengths, first=rows[0]))
        return h_1TD[:, -1]

    def _padded(self, prompts: list[tuple[int, ...]]) -> Tensor:
        """Return prompts as ids [B, T], padded to a multiple of `_BUCKET`."""
        width = round_up(max(map(len, prompts)), _BUCKET)
        return torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.cache.device)

    def _reserve(self, running: list[Sequence], length: int) -> None:
        """Make room in the cache for what this step writes."""
        rows = len(running)
        self.cache.reserve(rows + self._padding_rows(rows), length, used_rows=rows)

    def _padding_rows(self, rows: int) -> int:
        """Return how many rows are missing to a multiple of `row_multiple`."""
        return -rows % self.row_multiple

    def _decode(self, running: list[Sequence]) -> None:
        """Add one token to every row."""
        self._reserve(running, max(s.length for s in running))
        padding = self._padding_rows(len(running))
        ids_B1 = torch.tensor([[s.ids[-1]] for s in running] + [[0]] * padding, device=self.cache.device)
        num_cached = [s.num_cached for s in running] + [0] * padding
        lengths = [len(s.prompt) for s in running] + [1] * padding
        cache = self.cache.decode(num_cached, lengths, padding_rows=padding)
        self._append_tokens(running, list(range(len(running))), self.compute_model.hidden(ids_B1, cache=cache)[:, 0])

    def _append_tokens(self, running: list[Sequence], rows: list[int], h_BD: Tensor) -> None:
        """Sample the next token of these rows from their last states; states behind them are padding."""
        logits_BV = self.compute_model.head(h_BD).float()[: len(rows)]
        rows, logits_BV = self._finite(running, rows, logits_BV)
        if not rows:
            return
        sequences = [running[row] for row in rows]
        ids_B = self._choose(sequences, logits_BV)
        logprobs = itertools.repeat(0.0)
        if any(s.params.logprobs for s in sequences):
            logprobs = selected_logprobs(logits_BV, ids_B).tolist()
        for sequence, id, logprob in zip(sequences, ids_B.tolist(), logprobs):
            sequence.append(id, logprob)

    def _finite(self, running: list[Sequence], rows: list[int], logits_BV: Tensor) -> tuple[list[int], Tensor]:
        """Return the rows that a token can be sampled from, and their logits. The others end here, and their cache is
        cleared, so that no NaN is left for the next owner of the row."""
        finite_B = logits_BV.sum(-1).isfinite()
        if bool(finite_B.all()):
            return rows, logits_BV
        for row, finite in zip(rows, finite_B.tolist()):
            if not finite:
                self.cache.clear(row)
                running[row].finish_reason = "not finite"
        return [row for row, finite in zip(rows, finite_B.tolist()) if finite], logits_BV[finite_B]

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
    counters = np.array([(s.params.seed, s.request.rng_id, s.sample, len(s.ids)) for s in sequences]).T
    return sample(probs_BV, torch.from_numpy(uniform(0, *counters)).to(device))
