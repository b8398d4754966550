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
from typing import NamedTuple

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
from qwenkit.inference.speculation import Drafts
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.batching import PAD_ID, round_up
from qwenkit.model.logprobs import token_logprobs
from qwenkit.model.prepacked import prepack
from qwenkit.prompt import Prompt

_ROWS = 16  # in float32 on a CPU rows come in multiples of this: torch's linear kernels sum smaller batches otherwise


class Row(NamedTuple):
    """A token that a forward pass reads of an answer: its own, or a guess."""

    sequence: Sequence
    position: int
    id: int

    @property
    def stands(self) -> bool:
        """Return whether the answer has this token at this position."""
        return self.sequence.tokens(self.position, self.position + 1) == (self.id,)


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

    def step(self, batch: Batch, drafts: Drafts | None = None) -> None:
        """Read the pieces of prompts, and of every answer one token and what is guessed to follow it. A sequence that
        is read to its end gets its next token, and one more for each right guess; one that is scored gets the
        log-probabilities of its own."""
        batch, rows = self._readable(batch), _answer_rows(batch.decode, drafts or {})
        if not rows and not batch.prefill:
            return
        h_ND = self._states(batch, rows)
        pieces_ND = h_ND[len(rows) :]
        self._record_scores(batch.prefill, pieces_ND)
        ended, ends_N = self._ends(batch.prefill, rows)
        computed = self._append_tokens(ended, h_ND[ends_N])
        for sequence, _, stop in batch.prefill:
            sequence.num_computed = stop
        for sequence in batch.decode:
            sequence.num_computed += computed.get(sequence, 1)

    def _states(self, batch: Batch, rows: list[Row]) -> Tensor:
        """Return the states after the final norm, [N, D], of the answers' rows and the pieces of prompts."""
        tokens = [row.id for row in rows]
        tokens += [id for sequence, start, stop in batch.prefill for id in sequence.tokens(start, stop)]
        padding = [PAD_ID] * (-len(tokens) % self.row_multiple)
        ids_1N = torch.tensor([[*tokens, *padding]], device=self.cache.device)
        cache = self.cache.forward(
            [_segment(row.sequence, row.position, row.position + 1) for row in rows],
            [_segment(*piece) for piece in batch.prefill],
        )
        embeds_1ND = self._embed(ids_1N, batch.prefill, len(rows))
        return self.compute_model.hidden(ids_1N, cache, embeds_BTD=embeds_1ND)[0]

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

    def _embed(self, ids_1N: Tensor, pieces: list[Piece], at: int) -> Tensor | None:
        """Return the vectors [1, N, D] of the tokens of a step, whose pieces of prompts begin at token `at`, where
        there are media among them; None where ids are all there is."""
        if not any(piece[0].prompt.images for piece in pieces):
            return None
        embeds_1ND = self.compute_model.embed(ids_1N)
        for sequence, start, stop in pieces:
            if sequence.request.embeds_TD is not None:
                part_TD = sequence.request.embeds_TD[start:stop]
                embeds_1ND[0, at : at + len(part_TD)] = part_TD
            at += stop - start
        return embeds_1ND

    # ---- what comes of it -------------------------------------------------------------------------------------------

    def _ends(self, pieces: list[Piece], rows: list[Row]) -> tuple[list[Row], list[int]]:
        """Return whose next token is to be drawn, and behind which tokens of the step: behind the end of a prompt, and
        behind the rows of an answer's newest token and its guesses."""
        ended = [row for row in rows if row.position >= row.sequence.length - 1]
        ends = [i for i, row in enumerate(rows) if row.position >= row.sequence.length - 1]
        at = len(rows)
        for sequence, start, stop in pieces:
            at += stop - start
            if stop == sequence.length and sequence.status != "finished":
                ended.append(Row(sequence, stop - 1, sequence.tokens(stop - 1, stop)[0]))
                ends.append(at - 1)
        return ended, ends

    def _append_tokens(self, ended: list[Row], h_ND: Tensor) -> dict[Sequence, int]:
        """Draw the next token behind each of these states, of a sequence with guesses as long as they were right.
        Return how many rows of each sequence stand."""
        if not ended:
            return {}
        logits_NV = self.compute_model.head(self._padded(h_ND)).float()[: len(ended)]
        valid: dict[Sequence, int] = {}
        rounds = list(enumerate(ended))
        while rounds:
            drawn: dict[Sequence, tuple[int, Row]] = {}
            for i, row in rounds:
                if row.sequence not in drawn and row.position == row.sequence.length - 1 and row.stands:
                    drawn[row.sequence] = (i, row)
            if not drawn:
                break
            self.sampler.append_tokens(list(drawn), logits_NV[[i for i, _ in drawn.values()]])
            for sequence in drawn:
                valid[sequence] = valid.get(sequence, 0) + 1
            done = {i for i, _ in drawn.values()}
            rounds = [(i, row) for i, row in rounds if i not in done and row.sequence.status != "finished"]
        return valid

    def _record_scores(self, pieces: list[Piece], h_ND: Tensor) -> None:
        """Note the log-probabilities of the prompts' own tokens, where they are asked for; a sequence that has all of
        them is done, and so is one where a number is not finite."""
        rows: list[int] = []
        targets: list[int] = []
        counts: list[tuple[Piece, int]] = []
        at = 0
        for sequence, start, stop in pieces:
            if sequence.request.score_from is not None:
                first = max(start, sequence.request.score_from - 1 + len(sequence.prompt_logprobs))
                rows += range(at + first - start, at + stop - start)
                targets += sequence.tokens(first + 1, stop + 1)
                counts.append(((sequence, first, stop), max(0, stop - first)))
            at += stop - start
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


def _answer_rows(sequences: list[Sequence], drafts: Drafts) -> list[Row]:
    """Return what is read of each answer: its next token, and what is guessed to follow it."""
    rows = []
    for sequence in sequences:
        ids = [*sequence.tokens(sequence.num_computed, sequence.num_computed + 1), *drafts.get(sequence, ())]
        rows += [Row(sequence, sequence.num_computed + i, id) for i, id in enumerate(ids)]
    return rows


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
