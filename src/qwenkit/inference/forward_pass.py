"""One forward pass over the flat tokens of a step: by torch, or by native code.

    forward = EagerForward(model, cache)              # or NativeForward(model, cache)
    h_WD = forward.states(ids, answers, pieces, wanted)
    logits_WV = forward.logits(h_WD)

Both read and write the same cache. Torch computes every model on every device. In float32 on a CPU its tokens and
states are filled up to a multiple of 16 rows: torch's linear kernels sum smaller batches otherwise, so that a row's
bits would depend on its company. What native code computes depends on the row alone (`native/decoder.py`).

Legend: N tokens, W wanted rows, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.model import Transformer
from qwenkit.model.batching import PAD_ID, round_up

_ROWS = 16


class ForwardPass(Protocol):
    """What the runner asks of whoever computes the model."""

    def states(
        self,
        ids: Seq[int],
        answers: Seq[Segment],
        pieces: Seq[Segment],
        wanted: Seq[int],
        embeds_ND: Tensor | None = None,
    ) -> Tensor:
        """Return the states after the final norm [W, D] of the wanted tokens. The tokens are one of each answer, then
        the pieces of prompts; `embeds_ND` are their vectors where ids are not all there is."""
        ...

    def logits(self, h_WD: Tensor) -> Tensor:
        """Return the logits [W, V] in float32."""
        ...


class EagerForward:
    """By torch, through the model's own modules."""

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        """Compute this model over this cache."""
        self.model, self.cache = model, cache
        weight = model.model.embed_tokens.weight
        self.row_multiple = _ROWS if weight.dtype == torch.float32 and weight.device.type == "cpu" else 1

    def states(
        self,
        ids: Seq[int],
        answers: Seq[Segment],
        pieces: Seq[Segment],
        wanted: Seq[int],
        embeds_ND: Tensor | None = None,
    ) -> Tensor:
        """Return the states after the final norm, [W, D]."""
        padding = -len(ids) % self.row_multiple
        ids_1N = torch.tensor([[*ids, *[PAD_ID] * padding]], device=self.cache.device)
        embeds_1ND = None if embeds_ND is None else F.pad(embeds_ND, (0, 0, 0, padding))[None]
        h_1ND = self.model.hidden(ids_1N, self.cache.forward(answers, pieces), embeds_BTD=embeds_1ND)
        return h_1ND[0, list(wanted)]

    def logits(self, h_WD: Tensor) -> Tensor:
        """Return the logits [W, V] in float32."""
        missing = round_up(len(h_WD), self.row_multiple) - len(h_WD)
        return self.model.head(F.pad(h_WD, (0, 0, 0, missing))).float()[: len(h_WD)]
