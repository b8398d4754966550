"""The order of comparison pairs and of prompts: a new permutation every epoch, as a pure function of (seed, step).

    order = ShuffledOrder(len(pairs), seed)
    order.at(step, batch_size=64)          # the indices of one step

A step may reach over the end of an epoch into the next, so that all steps are full and every index comes once an epoch.

Documents have an order of their own (`data.tokens.order.EpochOrder`), which also packs them into sequences: its
permutations are drawn from other counters, and using it here would change the order of existing runs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenkit.rng import permutation


class ShuffledOrder:
    """The indices from 0 to `count` - 1, shuffled anew in every epoch."""

    def __init__(self, count: int, seed: int) -> None:
        """Shuffle `count` indices by this seed."""
        self.count, self.seed = count, seed
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def at(self, step: int, batch_size: int) -> list[int]:
        """Return the indices that a step of `batch_size` takes."""
        places = range(step * batch_size, (step + 1) * batch_size)
        return [int(self._epoch(place // self.count)[place % self.count]) for place in places]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return permutation(self.seed, self.count, epoch)
