"""The attention of the newest tokens of answers over the blocks of the cache.

    index = BlockIndex(rows=2, stop=128, blocks_N=blocks_N)          # [2 * 128 / BLOCK], table behind table
    group = AnswerGroup(index, positions_B, math=False)
    o_1HBD = group.attend(q_1HBD, keys, values, window)

All sizes are those of `rows` and `stop`; which blocks are read and what a row may see lies in tensors. So what is
computed can be recorded once and computed again with other contents (`graphed_forward.py`).

Legend: B answers, G key/value heads, H query heads, S slots, D head width, N blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.kv_quantization import KVStore
from qwenkit.model.attention import attention

TILE = 64
"""Queries of a prompt whose attention is computed together; a multiple of `BLOCK`. Keys are read in multiples of it."""


class BlockIndex:
    """Where the first `stop` slots of some sequences lie; the same for all layers."""

    def __init__(self, rows: int, stop: int, blocks_N: Tensor, first: int | None = None) -> None:
        """Take the blocks of each sequence (`filled`), table behind table. `first` is the first block where there is
        one sequence whose blocks are neighbours."""
        self.rows, self.stop, self._blocks_N = rows, stop, blocks_N
        self._slice = None if first is None else slice(first * BLOCK, first * BLOCK + stop)

    def read(self, store: KVStore) -> Tensor:
        """Return what a store holds of the sequences, [B, G, S, D]: a view where the blocks are neighbours."""
        return store.decode([self._gather(tensor) for tensor in store.tensors])

    def _gather(self, tensor: Tensor) -> Tensor:
        """Return [B, G, S, D] of [G, slots, D]."""
        G, _, D = tensor.shape
        if self._slice is not None:
            return tensor[None, :, self._slice]
        gathered = tensor.view(G, -1, BLOCK * D).index_select(1, self._blocks_N)
        return gathered.view(G, self.rows, self.stop, D).transpose(0, 1)


class AnswerGroup:
    """The newest tokens of some answers, whose keys are read together."""

    def __init__(self, index: BlockIndex, positions_B: Tensor, math: bool) -> None:
        """Say where their blocks lie and where they stand; `math` is that of `attention`."""
        self.index, self.positions_B, self.math = index, positions_B, math
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, q_1HBD: Tensor, keys: KVStore, values: KVStore, window: int | None) -> Tensor:
        """Return the attention [1, H, B, D] of each over all keys up to its own that the window shows."""
        q_BH1D = q_1HBD[0].transpose(0, 1)[:, :, None]
        k_BGSD, v_BGSD = self.index.read(keys), self.index.read(values)
        o_BH1D = attention(q_BH1D, k_BGSD, v_BGSD, self._mask(window), window, self.math)
        return o_BH1D[:, :, 0].transpose(0, 1)[None]

    def _mask(self, window: int | None) -> Tensor:
        """Return [B, 1, 1, S], true at the slots up to each token's own and inside the window."""
        if window not in self._masks:
            slots_S = torch.arange(self.index.stop, device=self.positions_B.device)
            own_B1 = self.positions_B[:, None]
            visible_BS = slots_S <= own_B1
            if window is not None:
                visible_BS &= slots_S > own_B1 - window
            self._masks[window] = visible_BS[:, None, None]
        return self._masks[window]


def filled(blocks: Sequence[int], count: int) -> list[int]:
    """Return `count` blocks of a sequence. Where it has fewer, its first one stands for the others: what a mask hides
    must be finite, since 0 times NaN is NaN, and of its own keys a sequence needs that in any case."""
    return [*blocks[:count], *[blocks[0]] * (count - len(blocks))]


def span(length: int) -> int:
    """Return which lengths are read together: a power of two times `TILE`."""
    return max(TILE, 1 << (length - 1).bit_length())
