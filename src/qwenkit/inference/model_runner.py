"""The model on a batch: the next token of every answer, and pieces of prompts, in one forward pass.

    runner.step(scheduler.schedule(budget))

A step changes a sequence only at its end, when its token is known; one that was interrupted is simply done again.

The bits of a token depend on nothing but the tokens before it where native code computes, and by torch where rows of a
matrix product do not depend on how many there are, as measured (`benchmarks/batch_bits.py`): in float32 on a CPU with
one thread, at every width tried; with two threads up to an intermediate size of 688, in bf16 up to 352. In wider
models, and in those with experts, torch's last bits depend on the batch; accelerators and prepacked weights were not
measured, and on a GPU kernels are chosen by the number of rows, which CUDA graphs fill up (`graphed_forward.py`). That
attention is computed alike, `paged_cache.py` sees to.

Legend: N tokens of this step, B sequences, T tokens of a prompt, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.errors import QwenkitError, Stopped, UserError, within
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.eager_forward import EagerForward, ForwardPass, StepTokens
from qwenkit.inference.forward_pass import make_forward
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.scheduler import Batch, PromptPiece
from qwenkit.inference.scoring import record_logprobs, scored_tokens
from qwenkit.inference.sequence import Sequence
from qwenkit.inference.speculation import Drafts
from qwenkit.inference.transfer import rows_of
from qwenkit.model import Transformer
from qwenkit.model.prepacked import prepack
from qwenkit.prompt import Prompt


class DecodeRow(NamedTuple):
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
        self,
        model: Transformer,
        vocabulary: int,
        kv_tokens: int,
        kv_cache: str = "auto",
        *,
        packed: bool = False,
        native: bool | None = None,
        trial: bool = False,
        graphs: bool = True,
    ) -> None:
        """Prepare an empty cache of `kv_tokens` tokens; `packed` computes with a prepacked copy of the weights,
        `native`, `trial` and `graphs` are those of `make_forward`."""
        self.model, self.sampler, self.packed = model, Sampler(vocabulary), packed
        self.native, self.trial, self.graphs = native, trial, graphs
        self.kv_cache, self.num_blocks = kv_cache, kv_tokens // BLOCK
        self.wake_up()

    def refresh_weights(self) -> None:
        """Compute with the weights that the model has now."""
        if self.asleep:
            return  # they are read when it wakes up
        if not self.packed:
            self.forward.refresh()
            return
        self.compute_model = prepack(self.model)
        self.compute_model.config = self.config
        self.forward = self._forward()

    def sleep(self) -> None:
        """Give back what keys, values and copies of weights take, until `wake_up`."""
        self.asleep, self.compute_model = True, self.model
        self.cache = self._empty_cache(0)
        self.forward = EagerForward(self.model, self.cache)

    def wake_up(self) -> None:
        """Make an empty cache, and the copies of weights that are asked for."""
        self.compute_model = prepack(self.model) if self.packed else self.model
        self.reset()

    def reset(self) -> None:
        """Follow the configuration that the model has now: nothing that was computed under another one is kept."""
        self.asleep, self.config = True, self.model.config
        self.cache = self._empty_cache(self.num_blocks)
        self.compute_model.config = self.config
        self.forward: ForwardPass = self._forward()
        self.asleep = False  # not before all is there: what was interrupted, or had no memory, is made anew

    def _empty_cache(self, num_blocks: int) -> PagedCache:
        weight = self.model.model.embed_tokens.weight
        return PagedCache(self.model.config, num_blocks, weight.dtype, weight.device, self.kv_cache)

    def _forward(self) -> ForwardPass:
        return make_forward(self.compute_model, self.cache, self.native, self.trial, self.graphs)

    def step(self, batch: Batch, drafts: Drafts | None = None) -> None:
        """Read the pieces of prompts, and of every answer one token and what is guessed to follow it. A sequence that
        is read to its end gets its next token, and one more for each right guess; one that is scored gets the
        log-probabilities of its own."""
        batch, rows = self._readable(batch), _answer_rows(batch.decode, drafts or {})
        if not rows and not batch.prefill:
            return
        ended, ends = self._ends(batch.prefill, rows)
        scored = scored_tokens(batch.prefill, len(rows))
        h_WD = self._states(batch, rows, [*ends, *(place for part in scored for place in part.places)])
        record_logprobs(scored, self.forward, h_WD[len(ends) :])
        computed = self._append_tokens(ended, h_WD[: len(ends)])
        for sequence, _, stop in batch.prefill:
            sequence.num_computed = stop
            if stop == sequence.request.read_length < len(sequence.prompt.ids):
                sequence.finish_reason = sequence.finish_reason or "length"
        for sequence in batch.decode:
            sequence.num_computed += computed.get(sequence, 1)

    def _states(self, batch: Batch, rows: list[DecodeRow], wanted: list[int]) -> Tensor:
        """Return the states after the final norm, [W, D], of some tokens among the answers' rows and the pieces."""
        ids = [row.id for row in rows]
        ids += [id for sequence, start, stop in batch.prefill for id in sequence.tokens(start, stop)]
        answers = [_segment(row.sequence, row.position, row.position + 1) for row in rows]
        pieces = [_segment(*piece) for piece in batch.prefill]
        embeds_ND = self._embed(ids, batch.prefill, len(rows))
        return self.forward.states(StepTokens(ids, answers, pieces, wanted, embeds_ND))

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

    def _embed(self, ids: list[int], pieces: list[PromptPiece], at: int) -> Tensor | None:
        """Return the vectors [N, D] of the tokens of a step, whose pieces of prompts begin at token `at`, where there
        are media among them; None where ids are all there is."""
        if not any(piece[0].prompt.images for piece in pieces):
            return None
        embeds_ND = self.compute_model.embed(torch.tensor([ids], device=self.cache.device))[0]
        for sequence, start, stop in pieces:
            if sequence.request.embeds_TD is not None:
                part_TD = sequence.request.embeds_TD[start:stop]
                embeds_ND[at : at + len(part_TD)] = part_TD
            at += stop - start
        return embeds_ND

    # ---- what comes of it -------------------------------------------------------------------------------------------

    def _ends(self, pieces: list[PromptPiece], rows: list[DecodeRow]) -> tuple[list[DecodeRow], list[int]]:
        """Return whose next token is to be drawn, and behind which tokens of the step: behind the end of a prompt, and
        behind the rows of an answer's newest token and its guesses."""
        ended = [row for row in rows if row.position >= row.sequence.length - 1]
        ends = [i for i, row in enumerate(rows) if row.position >= row.sequence.length - 1]
        at = len(rows)
        for sequence, start, stop in pieces:
            at += stop - start
            if stop == sequence.length and sequence.status != "finished":
                ended.append(DecodeRow(sequence, stop - 1, sequence.tokens(stop - 1, stop)[0]))
                ends.append(at - 1)
        return ended, ends

    def _append_tokens(self, ended: list[DecodeRow], h_ND: Tensor) -> dict[Sequence, int]:
        """Draw the next token behind each of these states, of a sequence with guesses as long as they were right.
        Return how many rows of each sequence stand."""
        if not ended:
            return {}
        logits_NV = self.forward.head(h_ND)
        valid: dict[Sequence, int] = {}
        rounds = list(enumerate(ended))
        while rounds:
            drawn: dict[Sequence, tuple[int, DecodeRow]] = {}
            for i, row in rounds:
                if row.sequence not in drawn and row.position == row.sequence.length - 1 and row.stands:
                    drawn[row.sequence] = (i, row)
            if not drawn:
                break
            self.sampler.append_tokens(list(drawn), rows_of(logits_NV, [i for i, _ in drawn.values()]))
            for sequence in drawn:
                valid[sequence] = valid.get(sequence, 0) + 1
            done = {i for i, _ in drawn.values()}
            rounds = [(i, row) for i, row in rounds if i not in done and row.sequence.status != "finished"]
        return valid


def _segment(sequence: Sequence, start: int, stop: int) -> Segment:
    return Segment(sequence.table.blocks, start, stop, len(sequence.prompt.ids), sequence.request.adapter)


def _answer_rows(sequences: list[Sequence], drafts: Drafts) -> list[DecodeRow]:
    """Return what is read of each answer: its next token, and what is guessed to follow it."""
    rows = []
    for sequence in sequences:
        ids = [*sequence.tokens(sequence.num_computed, sequence.num_computed + 1), *drafts.get(sequence, ())]
        rows += [DecodeRow(sequence, sequence.num_computed + i, id) for i, id in enumerate(ids)]
    return rows


def _own_error(error: Exception, label: str) -> QwenkitError:
    """Return what one request gets for an error that reading its media raised."""
    if isinstance(error, QwenkitError):
        return error
    own = (UserError if isinstance(error, OSError) else Stopped)(f"its media cannot be read ({error})", where=label)
    own.__cause__ = error
    return own
