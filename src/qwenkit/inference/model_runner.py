"""The model on a batch: prompts into the cache (prefill), then one more token for every row (decode).

    runner.step(scheduler.schedule())

A step changes a sequence only at its end, when its token is known; one that was interrupted is simply done again.

Bitwise batch-invariant where measured (`benchmarks/batch_bits.py`): in float32 on a CPU with one thread, at every width
tried; with two threads up to an intermediate size of 688, in bf16 up to 352. In wider models, and in those with
experts, the last bits depend on the batch, whatever the padding; accelerators and prepacked weights were not measured.
So only float32 on a CPU is padded.

Legend: B sequences of this step, T tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

import torch
from torch import Tensor

from qwenkit.errors import QwenkitError, Stopped, UserError, within
from qwenkit.inference.kv_cache import KVCache, SequenceCache
from qwenkit.inference.sampler import Sampler
from qwenkit.inference.scheduler import Batch, Piece
from qwenkit.inference.sequence import Sequence
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.batching import bucket_batches, round_up
from qwenkit.model.prepacked import prepack
from qwenkit.prompt import Prompt

_ROWS = 16  # in float32 on a CPU rows come in multiples of this: torch's linear kernels sum smaller batches otherwise
_BUCKET = 32  # prompts are read together with those of the same length, rounded up to this


class _Prefix(NamedTuple):
    """The first tokens of one prompt or of several equal ones; what is computed from them is the same."""

    prompt: Prompt
    """These tokens, with all media of the prompt."""
    prompt_length: int

    @property
    def length(self) -> int:
        """Return the number of these tokens."""
        return len(self.prompt.ids)


class ModelRunner:
    """A model and its cache. Ids from `vocabulary` on are never sampled (`sampler.py`).

    `model` owns the weights, `compute_model` runs them: the same module, or its prepacked copy."""

    def __init__(
        self, model: Transformer, vocabulary: int, prefill_tokens: int, kv_cache: str = "auto", packed: bool = False
    ) -> None:
        """Prepare an empty cache; `packed` computes with a prepacked copy of the weights."""
        self.model, self.prefill_tokens, self.packed = model, prefill_tokens, packed
        self.sampler = Sampler(vocabulary)
        self.kv_cache, weight = kv_cache, model.model.embed_tokens.weight
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
        self.cache: SequenceCache = KVCache(
            self.config, self.row_multiple, 1, weight.dtype, weight.device, self.kv_cache
        )

    def free_all_but(self, running: list[Sequence]) -> None:
        """Take the places in the cache back whose owners no longer run. One whose answer did not come to its end is
        cleared: what it had read, nobody has found to be finite, and a NaN must not be left for the next owner."""
        kept = set(running)
        left = [owner for owner in self.cache.owners if owner not in kept]
        for owner in left:
            if isinstance(owner, Sequence) and owner.finish_reason not in ("stop", "length"):
                self.cache.clear(owner)
        self.cache.free(left)

    def step(self, batch: Batch) -> None:
        """Read the pieces of prompts, then one token of every other sequence; a sequence that is read to its end gets
        its next token."""
        batch = self._readable(batch)
        read = {sequence: stop for sequence, _, stop in batch.prefill}
        self.cache.allocate({**read, **{sequence: sequence.length for sequence in batch.decode}})
        if batch.prefill:
            self._prefill([batch.prefill[i] for i in self.cache.in_order(piece[0] for piece in batch.prefill)])
        if batch.decode:
            self._decode([batch.decode[i] for i in self.cache.in_order(batch.decode)])

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

    def _prefill(self, pieces: list[Piece]) -> None:
        """Read pieces of prompts, and sample the next token of those that reach their end."""
        states = self._read_pieces(pieces)
        ended = [sequence for sequence, _, stop in pieces if stop == sequence.length]
        if ended:
            padding = [torch.zeros_like(states[ended[0]])] * self._padding_rows(len(ended))
            self._append_tokens(ended, torch.stack([*(states[sequence] for sequence in ended), *padding]))
        for sequence, _, stop in pieces:
            sequence.num_computed = stop

    def _read_pieces(self, pieces: list[Piece]) -> dict[Sequence, Tensor]:
        """Read pieces of prompts; return the state [D] of the last token of each. Beginnings that are equal are read
        once."""
        states: dict[Sequence, Tensor] = {}
        sharing: dict[_Prefix, list[Sequence]] = {}
        for sequence, start, stop in pieces:
            if start:
                states[sequence] = self._read_segment(_prefix(sequence, stop), sequence, start, stop)
            else:
                sharing.setdefault(_prefix(sequence, stop), []).append(sequence)
        prefixes = list(sharing)
        for batch in bucket_batches([prefix.length for prefix in prefixes], self.prefill_tokens, _BUCKET):
            group = [prefixes[i] for i in batch]
            for prefix, h_D in zip(group, self._read([(prefix, sharing[prefix][0]) for prefix in group])):
                first, *others = sharing[prefix]
                for other in others:
                    self.cache.copy(first, other, prefix.length)
                states.update(dict.fromkeys(sharing[prefix], h_D))
        return states

    def _read(self, group: list[tuple[_Prefix, Sequence]]) -> list[Tensor]:
        """Read beginnings of prompts into the places of their owners; return the state [D] of the last token of each.

        One longer than `prefill_tokens` is read alone, in segments (chunked prefill): each sees all before it and
        nothing after."""
        size = max(self.prefill_tokens // _BUCKET, 1) * _BUCKET  # a segment has no padding: it would widen 8-bit ranges
        prefix, owner = group[0]
        if len(group) == 1 and prefix.length > size:
            starts = range(0, prefix.length, size)
            return [self._read_segment(prefix, owner, at, min(at + size, prefix.length)) for at in starts][-1:]
        ids_BT = self._padded([prefix.prompt.ids for prefix, _ in group])
        lengths = [prefix.length for prefix, _ in group]
        cache = self.cache.prefill(
            [owner for _, owner in group], lengths, [prefix.prompt_length for prefix, _ in group]
        )
        embeds_BTD = self._embed(ids_BT, [owner for _, owner in group], 0)
        h_BTD = self.compute_model.hidden(ids_BT, cache, embeds_BTD=embeds_BTD)
        return [h_BTD[i, length - 1] for i, length in enumerate(lengths)]

    def _read_segment(self, prefix: _Prefix, owner: Sequence, start: int, stop: int) -> Tensor:
        """Read the tokens start to stop of one prompt behind those in the cache; return the state [D] of the last."""
        if start:
            cache = self.cache.decode([owner], [start], [prefix.prompt_length], stop - start)
        else:
            cache = self.cache.prefill([owner], [stop], [prefix.prompt_length])
        ids_1T = torch.tensor([prefix.prompt.ids[start:stop]], device=self.cache.device)
        embeds_1TD = self._embed(ids_1T, [owner], start)
        return self.compute_model.hidden(ids_1T, cache, embeds_BTD=embeds_1TD)[0, -1]

    def _embed(self, ids_BT: Tensor, owners: list[Sequence], start: int) -> Tensor | None:
        """Return the vectors [B, T, D] of tokens that stand at `start` in their prompts, where there are media; None
        where ids are all there is."""
        if not any(owner.prompt.images for owner in owners):
            return None
        embeds_BTD = self.compute_model.embed(ids_BT)
        for row, owner in enumerate(owners):
            if owner.request.embeds_TD is not None:
                part_TD = owner.request.embeds_TD[start : start + ids_BT.shape[1]]
                embeds_BTD[row, : len(part_TD)] = part_TD
        return embeds_BTD

    def _padded(self, prompts: Seq[Seq[int]]) -> Tensor:
        """Return prompts as ids [B, T], padded to a multiple of `_BUCKET`."""
        width = round_up(max(map(len, prompts)), _BUCKET)
        return torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self.cache.device)

    def _padding_rows(self, rows: int) -> int:
        """Return how many rows are missing to a multiple of `row_multiple`."""
        return -rows % self.row_multiple

    def _decode(self, sequences: list[Sequence]) -> None:
        """Add one token to every sequence."""
        padding = [[0]] * self._padding_rows(len(sequences))
        ids_B1 = torch.tensor([[s.ids[-1]] for s in sequences] + padding, device=self.cache.device)
        num_computed, prompt_lengths = zip(*((s.num_computed, len(s.prompt.ids)) for s in sequences))
        cache = self.cache.decode(sequences, num_computed, prompt_lengths)
        self._append_tokens(sequences, self.compute_model.hidden(ids_B1, cache)[:, 0])
        for sequence in sequences:
            sequence.num_computed += 1

    def _append_tokens(self, sequences: list[Sequence], h_BD: Tensor) -> None:
        """Sample the next token of these sequences from their last states; states behind them are padding."""
        logits_BV = self.compute_model.head(h_BD).float()[: len(sequences)]
        self.sampler.append_tokens(sequences, logits_BV)


def _prefix(sequence: Sequence, stop: int) -> _Prefix:
    """Return the first `stop` tokens of a sequence."""
    prompt = sequence.prompt
    ids = prompt.ids if stop == len(prompt.ids) else sequence.tokens(0, stop)
    return _Prefix(Prompt(ids, prompt.images), len(prompt.ids))


def _own_error(error: Exception, label: str) -> QwenkitError:
    """Return what one request gets for an error that reading its media raised."""
    if isinstance(error, QwenkitError):
        return error
    own = (UserError if isinstance(error, OSError) else Stopped)(f"its media cannot be read ({error})", where=label)
    own.__cause__ = error
    return own
