"""The different tokens of a prompt and its answer, and how often each is in the answer: what penalties need.

    counts = TokenCounts(prompt_ids)
    counts.push(token_id)            # each token of the answer
    counts.tensors(device)           # ids [N], counts [N]

Penalties change the logits of these tokens only, whatever the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

_ROOM = 64
"""Places for new tokens at first; doubled when they are full."""


class TokenCounts:
    """The different tokens of a prompt and its answer, in the order in which they first came."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        """Begin with the tokens of the prompt, none of which is in the answer."""
        self._places = {id: place for place, id in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = np.array([*self._places, *[0] * _ROOM], dtype=np.int64)
        self._counts = np.zeros(len(self._ids), dtype=np.int64)

    def push(self, id: int) -> None:
        """Count a token of the answer."""
        place = self._places.setdefault(id, len(self._places))
        if place == len(self._ids):
            self._ids, self._counts = (np.concatenate([table, np.zeros_like(table)]) for table in self._tables)
        self._ids[place] = id
        self._counts[place] += 1

    @property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        return self._ids, self._counts

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the ids [N] and how often each is in the answer [N]."""
        ids_N, counts_N = (torch.from_numpy(table[: len(self._places)]).to(device) for table in self._tables)
        return ids_N, counts_N
