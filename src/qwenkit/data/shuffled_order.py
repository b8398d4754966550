"""The one data order: a new permutation of all items in every epoch, and which items a step takes, as pure functions of
(seed, epoch, step). Resuming needs no state, and the number of workers has no effect.

    order = ShuffledOrder(len(pairs), seed)
    order.at(step, batch_size=64)          # the indices of one step: comparison pairs, prompts
    order.permutation(epoch)               # all of one epoch: documents before they are packed

Items are numbered through the epochs (`step_numbers`, `place_of`), so a step may reach over the end of an epoch into
the next: all steps are full, and every item comes once an epoch. Packed sequences (`data.tokens.order.EpochOrder`) are
shuffled and counted by the same rules; packing alone is their own.

Two derivations of the draws stay, as a parameter. Pairs and prompts are drawn by (seed, epoch); documents and packed
sequences by (seed, 0, epoch) and (seed, 1, epoch), since these two permutations share a seed: `stream` is that number.
Nothing is wrong with either, and another derivation would change the order, so the digest, of every existing run.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenkit.rng import permutation


class ShuffledOrder:
    """The indices from 0 to `count` - 1, shuffled anew in every epoch.

    `stream` tells permutations apart that share a seed: it is a counter of their draws, before the epoch."""

    def __init__(self, count: int, seed: int, *stream: int) -> None:
        """Shuffle `count` indices by this seed."""
        self.count, self.seed, self.stream = count, seed, stream
        self._permutation = lru_cache(maxsize=2)(self.permutation)

    def permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices in the order of an epoch."""
        return permutation(self.seed, self.count, *self.stream, epoch)

    def at(self, step: int, batch_size: int) -> list[int]:
        """Return the indices that a step of `batch_size` takes."""
        places = (place_of(number, self.count) for number in step_numbers(step, batch_size))
        return [int(self._permutation(epoch)[index]) for epoch, index in places]


def step_numbers(step: int, batch_size: int) -> range:
    """Return the numbers of the items of a step, counted through the epochs."""
    return range(step * batch_size, (step + 1) * batch_size)


def place_of(number: int, per_epoch: int) -> tuple[int, int]:
    """Return the epoch of an item that is counted through the epochs, and its index there."""
    return divmod(number, per_epoch)
