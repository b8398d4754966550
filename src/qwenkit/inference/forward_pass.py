"""Who computes a forward pass over the flat tokens of a step: torch, CUDA graphs, or native code.

    forward = make_forward(model, cache, native=None)     # EagerForward, GraphedForward or NativeForward
    h_WD = forward.states(StepTokens(ids, answers, pieces, wanted))
    logits_WV = forward.head(h_WD)

All read and write the same cache. Torch computes every model on every device (`eager_forward.py`); on a GPU the steps
of answers are replayed as CUDA graphs (`graphed_forward.py`); what native code computes on a CPU depends on the row
alone (`native/decoder.py`).

Legend: N tokens, W wanted rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

import contextlib
from itertools import accumulate
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from qwenkit.errors import UserError, notice
from qwenkit.inference.adapters import EngineAdapter
from qwenkit.inference.eager_forward import EagerForward, ForwardPass, StepTokens
from qwenkit.inference.graphed_forward import CudaRecorder, GraphedForward, reason_against
from qwenkit.inference.native.decoder import AdaptedRows, NativeDecoder
from qwenkit.inference.native.fitness import Unfit
from qwenkit.inference.native.low_rank import LowRanks
from qwenkit.inference.native.trial import Ways, choose_ways
from qwenkit.inference.paged_cache import PagedCache
from qwenkit.model import Transformer


class NativeForward:
    """By native code, on a CPU; by torch where the model has hooks, or parts that native code does not compute."""

    def __init__(self, decoder: NativeDecoder, by_torch: ForwardPass) -> None:
        """Compute by this decoder, which knows the cache's tensors, or by torch over the same cache."""
        self.decoder, self.by_torch = decoder, by_torch
        self._reason: str | None = None
        self._ranks: WeakKeyDictionary[EngineAdapter, LowRanks] = WeakKeyDictionary()

    @property
    def is_native(self) -> bool:
        """Return whether native code computes, as far as `follow` saw."""
        return self._reason is None

    def follow(self) -> None:
        """Look whether native code would pass by what was done to the model: then torch computes, and the user is
        told."""
        before, self._reason = self._reason, self.decoder.obstacle()
        if self._reason not in (None, before):
            notice(f"answers are computed by torch, which is slower: {self._reason}")
        self.by_torch.follow()

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D], in float32."""
        if not self.is_native:
            return self.by_torch.states(tokens).float()
        tokens = by_adapter(tokens)
        segments = tokens.segments
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
            adapted=[AdaptedRows(rows[0], rows[-1] + 1, self._low_ranks(adapter))
                     for adapter, rows in tokens.adapted_rows().items()],
            logits=False,
        )  # fmt: skip

    def _low_ranks(self, adapter: EngineAdapter) -> LowRanks:
        """Return an adapter in the layout of the code, which is made once."""
        if adapter not in self._ranks:
            self._ranks[adapter] = LowRanks(adapter, self.decoder.model)
        return self._ranks[adapter]

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        return self.decoder.head(h_WD) if self.is_native else self.by_torch.head(h_WD)

    def refresh(self) -> None:
        """Compute with the weights that the model has now."""
        with contextlib.suppress(Unfit):  # `follow` says why
            self.decoder.refresh()


def by_adapter(tokens: StepTokens) -> StepTokens:
    """Return the tokens of a step with those of one adapter side by side, the ones without any first; all of them are
    pieces then. The wanted ones keep their order."""
    segments = tokens.segments
    if all(segment.adapter is None for segment in segments):
        return tokens
    starts = [0, *accumulate(segment.length for segment in segments)]
    numbers = [0 if segment.adapter is None else segment.adapter.number for segment in segments]
    order = sorted(range(len(segments)), key=numbers.__getitem__)
    rows = [row for i in order for row in range(starts[i], starts[i + 1])]
    place = {row: at for at, row in enumerate(rows)}
    embeds_ND = None if tokens.embeds_ND is None else tokens.embeds_ND[rows]
    ids, wanted = [tokens.ids[row] for row in rows], [place[row] for row in tokens.wanted]
    return StepTokens(ids, (), [segments[i] for i in order], wanted, embeds_ND)


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

    def follow(self) -> None:
        """Look what was done to the model."""
        self.answers.follow()
        self.pieces.follow()

    def refresh(self) -> None:
        """Compute with the weights that the model has now."""
        self.answers.refresh()
        self.pieces.refresh()


def make_forward(
    model: Transformer, cache: PagedCache, native: bool | None, trial: bool = False, graphs: bool = True
) -> ForwardPass:
    """Return whoever computes a model over a cache: native code where it fits (None), always (True; raises a
    `UserError` where it does not), or never. With `trial` a machine's faster way is found out by a clock. `graphs`:
    where torch computes on a GPU, steps of answers are CUDA graphs."""
    by_torch = _by_torch(model, cache, graphs)
    if native is False:
        return by_torch
    decoder = _required(model, cache) if native else _fitting(model, cache)
    if decoder is None:
        return by_torch
    own = NativeForward(decoder, by_torch)
    ways = choose_ways(decoder) if trial and not native else Ways("native", "native")
    if ways.decode == ways.prefill:
        return own if ways.decode == "native" else by_torch
    return SplitForward(*(own if way == "native" else by_torch for way in ways))


def _by_torch(model: Transformer, cache: PagedCache, graphs: bool) -> ForwardPass:
    """Return how torch computes: by CUDA graphs where the model is on a GPU and can be recorded."""
    if not graphs or cache.device.type != "cuda":
        return EagerForward(model, cache)
    if (reason := reason_against(model)) is not None:
        notice(f"steps are computed without CUDA graphs: {reason}")
        return EagerForward(model, cache)
    return GraphedForward(model, cache, CudaRecorder(cache.device))


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
