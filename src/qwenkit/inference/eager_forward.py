"""One forward pass over the flat tokens of a step: what is asked of whoever computes it, and how torch does.

    forward = EagerForward(model, cache)
    h_WD = forward.states(StepTokens(ids, answers, pieces, wanted))
    logits_WV = forward.head(h_WD)

Torch computes every model on every device. In float32 on a CPU its tokens and states are filled up to a multiple of 16
rows: torch's linear kernels sum smaller batches otherwise, so that a row's bits would depend on its company.

Legend: N tokens, W wanted rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.adapted_view import AdaptedView
from qwenkit.inference.adapters import EngineAdapter
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.inference.transfer import rows_of, to_device
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

    @property
    def segments(self) -> list[Segment]:
        """Return the answers and the pieces, in the order of the ids."""
        return [*self.answers, *self.pieces]

    def adapted_rows(self) -> dict[EngineAdapter, list[int]]:
        """Return which tokens have an adapter."""
        rows: dict[EngineAdapter, list[int]] = {}
        at = 0
        for segment in self.segments:
            if segment.adapter is not None:
                rows.setdefault(segment.adapter, []).extend(range(at, at + segment.length))
            at += segment.length
        return rows


class ForwardPass(Protocol):
    """What the runner asks of whoever computes the model."""

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm [W, D] of the wanted tokens."""
        ...

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        ...

    def follow(self) -> None:
        """Look what was done to the model's parts and where its tensors lie now. Asked where an answer begins, not in
        every step: a walk over all parts of a model takes up to a fifth of a small model's step."""
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
        self._view: AdaptedView | None = None

    def states(self, tokens: StepTokens) -> Tensor:
        """Return the states after the final norm, [W, D]."""
        padding = -len(tokens.ids) % self.row_multiple
        (ids_N,) = to_device([[*tokens.ids, *[PAD_ID] * padding]], self.cache.device)
        embeds_1ND = None if tokens.embeds_ND is None else F.pad(tokens.embeds_ND, (0, 0, 0, padding))[None]
        cache = self.cache.forward(tokens.answers, tokens.pieces)
        adapted = tokens.adapted_rows()
        if not adapted:
            return rows_of(self.model.hidden(ids_N[None], cache, embeds_BTD=embeds_1ND)[0], tokens.wanted)
        self._view = self._view or AdaptedView(self.model, _ROWS if self.cache.device.type == "cpu" else 1)
        with self._view.rows(adapted):
            hidden_1ND = self._view.model.hidden(ids_N[None], cache, embeds_BTD=embeds_1ND)
        return rows_of(hidden_1ND[0], tokens.wanted)

    def head(self, h_WD: Tensor, /) -> Tensor:
        """Return the logits [W, V] in float32."""
        missing = round_up(len(h_WD), self.row_multiple) - len(h_WD)
        h_WD = h_WD.to(self.model.model.embed_tokens.weight.dtype)
        return self.model.head(F.pad(h_WD, (0, 0, 0, missing))).float()[: len(h_WD)]

    def follow(self) -> None:
        """Forget the view of the model for adapters: parts may have been exchanged. The model's own modules are what
        computes."""
        self._view = None

    def refresh(self) -> None:
        """Forget the view of the model for adapters."""
        self._view = None
