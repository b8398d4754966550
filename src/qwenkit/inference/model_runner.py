"""The model on a batch: the next token of every answer, and pieces of prompts, in one forward pass.

    runner.step(scheduler.schedule(budget))

A step changes a sequence only at its end, when its token is known; one that was interrupted is simply done again.

The bits of a token depend on nothing but the tokens before it where rows of a matrix product do not depend on how many
there are, as measured (`benchmarks/batch_bits.py`): in float32 on a CPU with one thread, at every width tried; with two
threads up to an intermediate size of 688, in bf16 up to 352. In wider models, and in those with experts, the last bits
depend on the batch, whatever the padding; accelerators and prepacked weights were not measured. So only float32 on a
CPU is padded. That attention is computed alike, `paged_cache.py` sees to.

Legend: N tokens of this step, B sequences, T tokens of a prompt, D hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.errors import QwenkitError, Stopped, UserError, within
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.sampling import not_finite
from qwenkit.inference.scheduler import Batch, Piece
from qwenkit.inference.sequence import Sequence
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.batching import PAD_ID, round_up
from qwenkit.model.logprobs import token_logprobs
from qwenkit.model.prepacked import prepack
from qwenkit.prompt import Prompt

_ROWS = 16  # in float32 on a CPU rows come in multiples of this: torch's linear kernels sum smaller batches otherwise


class ModelRunner:
    """A model and its cache. Ids from `vocabulary` on are never sampled.

    `model` owns the weights, `compute_model` runs them: the same module, or its prepacked copy."""

    def __init__(
        self, model: Transformer, vocabulary: int, kv_tokens: int, kv_cache: str = "auto", packed: bool = False
    ) -> None:
        """Prepare an empty cache of `kv_tokens` tokens; `packed` computes with a prepacked copy of the weights."""
        self.model, self.sampler, self.packed = model, Sampler(vocabulary), packed
        self.kv_cache, self.num_blocks, weight = kv_cache, kv_tokens // BLOCK, model.model.embed_tokens.weight
        self.row_multiple = _ROWS if weight.dtype == torch.float32 and weight.device.type == "cpu" else 1
        self.refresh_weights()
        self.reset()

    def refresh_weights(self) -> None:
        """Compute with the weights that the model has now."""
        self.compute_model = prepack(self.model) if self.packed else self.model

    def reset(self) -> None:
        """Follow the configuration that the model has now: nothing that was computed under another one is kept."""
        self.config: ModelConfig = self.model.config
        self.compute_model.config = self.config
        weight = self.model.model.embed_tokens.weight
        self.cache = PagedCache(self.config, self.num_blocks, weight.dtype, weight.device, self.kv_cache)

    def step(self, batch: Batch) -> None:
        """Read the pieces of prompts and one token of every answer; a sequence that is read to its end gets its next
        token, and one that is scored the log-probabilities of its own."""
        batch = self._readable(batch)
        answers = [_segment(sequence, sequence.num_computed, sequence.num_computed + 1) for sequence in batch.decode]
        pieces = [_segment(*piece) for piece in batch.prefill]
        if not answers and not pieces:
            return
        tokens = [token for piece in _all_pieces(batch) for token in piece[0].tokens(*piece[1:])]
        padding = [PAD_ID] * (-len(tokens) % self.row_multiple)
        ids_1N = torch.tensor([[*tokens, *padding]], device=self.cache.device)
        cache = self.cache.forward(answers, pieces)
        h_ND = self.compute_model.hidden(ids_1N, cache, embeds_BTD=self._embed(ids_1N, batch))[0]
        self._record_scores(batch, h_ND)
        self._append_tokens(batch, h_ND)
        for sequence, _, stop in _all_pieces(batch):
            sequence.num_computed = stop

    # ---- what is read -----------------------------------------------------------------------------------------------

    def _readable(self, batch: Batch) -> Batch:
        """Embed prompts with media, each once and alone: an error that one raises ends its own request. Return the
        batch without the requests that have ended."""
        for sequence, _, _ in batch.prefill:
            request = sequence.request
            if request.prompt.images and request.embeds_TD is None and sequence.status != "finished":
                try:
                    with within(request.label):
                        request.embeds_TD = self._embed_prompt(request.prompt)
                except Exception as error:
                    sequence.fail(_own_error(error, request.label))
        return batch._replace(prefill=[piece for piece in batch.prefill if piece[0].status != "finished"])

    def _embed_prompt(self, prompt: Prompt) -> Tensor:
        """Return the vectors [T, D] of a prompt with media."""
        ids_1T = torch.tensor([prompt.ids], device=self.cache.device)
        return self.compute_model.embed(ids_1T, [prompt])[0]

    def _embed(self, ids_1N: Tensor, batch: Batch) -> Tensor | None:
        """Return the vectors [1, N, D] of the tokens of a step, where there are media among them; None where ids are
        all there is."""
        if not any(piece[0].prompt.images for piece in batch.prefill):
            return None
        embeds_1ND, at = self.compute_model.embed(ids_1N), len(batch.decode)
        for sequence, start, stop in batch.prefill:
            if sequence.request.embeds_TD is not None:
                part_TD = sequence.request.embeds_TD[start:stop]
                embeds_1ND[0, at : at + len(part_TD)] = part_TD
            at += stop - start
        return embeds_1ND

    # ---- what comes of it -------------------------------------------------------------------------------------------

    def _append_tokens(self, batch: Batch, h_ND: Tensor) -> None:
        """Sample the next token of the sequences that are read to their end."""
        ended: list[Sequence] = []
        rows: list[int] = []
        at = 0
        for sequence, start, stop in _all_pieces(batch):
            at += stop - start
            if stop == sequence.length and sequence.status != "finished":
                ended.append(sequence)
                rows.append(at - 1)
        if ended:
            logits_BV = self.compute_model.head(self._padded(h_ND[rows])).float()[: len(ended)]
            self.sampler.append_tokens(ended, logits_BV)

    def _record_scores(self, batch: Batch, h_ND: Tensor) -> None:
        """Note the log-probabilities of the prompts' own tokens, where they are asked for; a sequence that has all of
        them is done, and so is one where a number is not finite."""
        rows: list[int] = []
        targets: list[int] = []
        counts: list[tuple[Piece, int]] = []
        at = len(batch.decode)
        for sequence, start, stop in batch.prefill:
            if sequence.request.score_from is not None:
                first = max(start, sequence.request.score_from - 1 + len(sequence.prompt_logprobs))
                rows += range(at + first - start, at + stop - start)
                targets += sequence.tokens(first + 1, stop + 1)
                counts.append(((sequence, first, stop), max(0, stop - first)))
            at += stop - start
        if not counts:
            return
        logprobs = self._logprobs(h_ND, rows, targets)
        for (sequence, first, stop), count in counts:
            own, logprobs = logprobs[:count], logprobs[count:]
            _add_scores(sequence, first + 1, own, done=stop == sequence.request.read_length)

    def _logprobs(self, h_ND: Tensor, rows: list[int], targets: list[int]) -> list[float]:
        """Return the log-probability in nats of a token behind each of some states."""
        if not rows:
            return []
        h_BD = self._padded(h_ND[rows])
        ids_B = F.pad(torch.tensor(targets, device=h_BD.device), (0, len(h_BD) - len(rows)))
        return token_logprobs(self.compute_model, h_BD, ids_B).logprobs.tolist()[: len(rows)]

    def _padded(self, h_BD: Tensor) -> Tensor:
        """Return states with zeros behind them, up to a multiple of `row_multiple` rows."""
        return F.pad(h_BD, (0, 0, 0, round_up(len(h_BD), self.row_multiple) - len(h_BD)))


def _segment(sequence: Sequence, start: int, stop: int) -> Segment:
    return Segment(sequence.table.blocks, start, stop, len(sequence.prompt.ids))


def _all_pieces(batch: Batch) -> list[Piece]:
    """Return what a step reads in the order of its tokens: the answers, then the pieces of prompts."""
    return [*((s, s.num_computed, s.num_computed + 1) for s in batch.decode), *batch.prefill]


def _add_scores(sequence: Sequence, position: int, logprobs: Seq[float], done: bool) -> None:
    """Add log-probabilities of a prompt's tokens from a position on."""
    for at, logprob in enumerate(logprobs, position):
        if not math.isfinite(logprob):
            sequence.fail(not_finite(sequence.request.label, at))
            return
    sequence.prompt_logprobs += logprobs
    if done:
        sequence.finish_reason = "length"


def _own_error(error: Exception, label: str) -> QwenkitError:
    """Return what one request gets for an error that reading its media raised."""
    if isinstance(error, QwenkitError):
        return error
    own = (UserError if isinstance(error, OSError) else Stopped)(f"its media cannot be read ({error})", where=label)
    own.__cause__ = error
    return own
