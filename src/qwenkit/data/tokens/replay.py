"""Replay: documents of the pretraining corpus that are mixed into a later training (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwenkit import rng

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def draw_documents(lengths: npt.NDArray[np.int64], row: int, budget: float, seed: int) -> tuple[Sequence[int], int]:
    """Return the numbers of documents, in the order of a draw, until those that fit into a row of `row` tokens
    reach the budget of tokens; and how many of those drawn do not fit.

    `lengths` [documents] are tokens of each document.
    """
    import numpy as np

    order = rng.permutation(seed, len(lengths))
    fits = lengths[order] <= row
    stop = int(np.searchsorted(np.cumsum(np.where(fits, lengths[order], 0)), budget)) + 1
    return order[:stop][fits[:stop]].tolist(), int((~fits[:stop]).sum())
