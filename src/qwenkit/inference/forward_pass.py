"""One forward pass over the flat tokens of a step: by torch, or by native code.

    forward = make_forward(model, cache, native=None)     # EagerForward(...) or NativeForward(...)
    h_WD = forward.states(StepTokens(ids, answers, pieces, wanted))
    logits_WV = forward.head(h_WD)

Both read and write the same cache. Torch computes every model on every device. In float32 on a CPU its tokens and
states are filled up to a multiple of 16 rows: torch's linear kernels sum smaller batches otherwise, so that a row's
bits would depend on its company. What native code computes depends on the row alone (`native/decoder.py`).

Legend: N tokens, W wanted rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.errors import UserError, notice
from qwenkit.inference.native.decoder import NativeDecoder
from qwenkit.inference.native.fitness import Unfit
from qwenkit.inference.native.trial import Ways, choose_ways
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.model import Transformer
from qwenkit.model.batching import PAD_ID, round_up

_ROWS = 16


class StepTokens(NamedTuple):
    """The tokens of a step: one of each answer, then the pieces of prompts."""

    ids: Seq[int]
    answers: Seq[Segment]
    pieces: Seq[Segment]
    wanted: Seq[int]
    """The places of the tokens whose states are asked for."""
    embeds_ND: Tensor | None = None
    """Their vectors, where ids are not all there is."""


class ForwardPass(Protocol):
    """What the runner asks of whoever computes the model."""

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm [W, D] of the wanted tokens."""
        ...

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        ...

    def refresh(self) -> None:
        """Compute with the weights that the model has now."""
        ...


class EagerForward:
    """By torch, through the model's own modules."""

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        """Compute this model over this cache."""
        self.model, self.cache = model, cache
        weight = model.model.embed_tokens.weight
        self.row_multiple = _ROWS if weight.dtype == torch.float32 and weight.device.type == "cpu" else 1

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D]."""
        padding = -len(tokens.ids) % self.row_multiple
        ids_1N = torch.tensor([[*tokens.ids, *[PAD_ID] * padding]], device=self.cache.device)
        embeds_1ND = None if tokens.embeds_ND is None else F.pad(tokens.embeds_ND, (0, 0, 0, padding))[None]
        cache = self.cache.forward(tokens.answers, tokens.pieces)
        return self.model.hidden(ids_1N, cache, embeds_BTD=embeds_1ND)[0, list(tokens.wanted)]

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        missing = round_up(len(h_WD), self.row_multiple) - len(h_WD)
        h_WD = h_WD.to(self.model.model.embed_tokens.weight.dtype)
        return self.model.head(F.pad(h_WD, (0, 0, 0, missing))).float()[: len(h_WD)]

    def refresh(self) -> None:
        """Do nothing: the model's own modules are what computes."""


class NativeForward:
    """By native code, on a CPU; by torch where the model has hooks, or parts that native code does not compute."""

    def __init__(self, decoder: NativeDecoder, by_torch: ForwardPass) -> None:
        """Compute by this decoder, which knows the cache's tensors, or by torch over the same cache."""
        self.decoder, self.by_torch = decoder, by_torch
        self._reason: str | None = None

    def _passes_by(self) -> bool:
        """Return whether native code would pass by what was done to the model; the user is told."""
        before, self._reason = self._reason, self.decoder.obstacle()
        if self._reason not in (None, before):
            notice(f"answers are computed by torch, which is slower: {self._reason}")
        return self._reason is not None

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D], in float32."""
        if self._passes_by():
            return self.by_torch.states(tokens).float()
        segments = [*tokens.answers, *tokens.pieces]
        width = max(len(segment.blocks) for segment in segments)
        tables = [[*segment.blocks, *[0] * (width - len(segment.blocks))] for segment in segments]
        counts = torch.tensor([segment.length for segment in segments])
        return self.decoder.step(
            torch.tensor(tokens.ids),
            torch.tensor([position for segment in segments for position in range(segment.start, segment.stop)]),
            torch.tensor(tables, dtype=torch.int32),
            sequences_N=torch.arange(len(segments)).repeat_interleave(counts),
            lengths_N=torch.tensor([segment.prompt_length for segment in segments]).repeat_interleave(counts),
            embeds_NC=tokens.embeds_ND,
            wanted_W=torch.tensor(list(tokens.wanted), dtype=torch.int32),
            logits=False,
        )

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        return self.by_torch.head(h_WD) if self._passes_by() else self.decoder.head(h_WD)

    def refresh(self) -> None:
        """Compute with the weights that the model has now."""
        with contextlib.suppress(Unfit):  # torch computes, and the next step says why
            self.decoder.refresh()


class SplitForward:
    """Answers by one way and pieces of prompts by another, where a machine is faster so."""

    def __init__(self, answers: ForwardPass, pieces: ForwardPass) -> None:
        """Compute both over one cache."""
        self.answers, self.pieces = answers, pieces

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D], in float32."""
        count, (ids, answers, pieces, wanted, embeds_ND) = len(tokens.answers), tokens
        first, rest = [i for i in wanted if i < count], [i - count for i in wanted if i >= count]
        parts = []
        if answers:
            parts.append(self.answers.states(StepTokens(ids[:count], answers, (), first)).float())
        if pieces:
            embeds = None if embeds_ND is None else embeds_ND[count:]
            parts.append(self.pieces.states(StepTokens(ids[count:], (), pieces, rest, embeds)).float())
        places = {row: place for place, row in enumerate([*first, *(i + count for i in rest)])}
        return torch.cat(parts)[[places[row] for row in wanted]]

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        return self.answers.head(h_WD)

    def refresh(self) -> None:
        """Compute with the weights that the model has now."""
        self.answers.refresh()
        self.pieces.refresh()


def make_forward(model: Transformer, cache: PagedCache, native: bool | None, trial: bool = False) -> ForwardPass:
    """Return whoever computes a model over a cache: native code where it fits (None), always (True; raises a
    `UserError` where it does not), or never. With `trial` a machine's faster way is found out by a clock."""
    eager = EagerForward(model, cache)
    if native is False:
        return eager
    decoder = _required(model, cache) if native else _fitting(model, cache)
    if decoder is None:
        return eager
    own = NativeForward(decoder, eager)
    ways = choose_ways(model, decoder) if trial and not native else Ways("native", "native")
    if ways.decode == ways.prefill:
        return own if ways.decode == "native" else eager
    return SplitForward(*(own if way == "native" else eager for way in ways))


def _fitting(model: Transformer, cache: PagedCache) -> NativeDecoder | None:
    """Return the native decoder of a model over a cache, or None where one of them does not fit."""
    return NativeDecoder.for_model(model, *_tensors(cache)) if _reason_against(cache) is None else None


def _required(model: Transformer, cache: PagedCache) -> NativeDecoder:
    """Return the native decoder of a model over a cache. Raises a `UserError` where one of them does not fit."""
    reason = _reason_against(cache)
    if reason is None:
        try:
            decoder = NativeDecoder(model, *_tensors(cache))
            if (reason := decoder.obstacle()) is None:
                return decoder
        except Unfit as error:
            reason = error.reason
    raise UserError(f"native = True: {reason}", expected="a model that native code computes")


def _tensors(cache: PagedCache) -> tuple[list[Tensor], list[Tensor]]:
    """Return the keys and the values of all layers."""
    return [store.tensors[0] for store in cache.keys], [store.tensors[0] for store in cache.values]


def _reason_against(cache: PagedCache) -> str | None:
    """Return why native code does not compute over this cache, or None."""
    if cache.device.type != "cpu":
        return f"the model is on {cache.device}"
    return None if cache.keys[0].name == "auto" else f"the cache is {cache.keys[0].name}"
