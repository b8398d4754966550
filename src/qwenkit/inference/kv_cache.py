"""Keys and values of the tokens so far.

    cache = KVCache(config, rows=128, length=256, dtype=torch.float32, device="cpu")
    model.hidden(prompts_BT, cache=cache.fresh([3, 4], lengths))     # prompts into the empty rows 3 and 4
    model.hidden(ids_B1, cache=cache.next(stored, lengths))          # one token more for each of the first rows

Slot j of a row holds the token at position j, so rows of different lengths share a batch: a query sees the slots up to
its own position, and what lies behind them (padding, an earlier tenant's rest) is never seen and soon overwritten. Keys
are stored rotated, so what a prompt's length decides about the rotation (dynamic NTK) holds for its whole answer.

Memory follows what is written: room doubles when it is used up, so at most half of it stands empty. It is kept for the
next call, and freed with the cache.

Legend: R rows, G key/value heads, S slots, D head width, B rows of this batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qwenkit.inference.kv_quantization import KINDS, Plain
from qwenkit.model import ModelConfig

BLOCK = 64
"""Slots are read in multiples of this, so that sums over keys are split alike whoever else is in the batch."""


class KVCache:
    """Room for `rows` sequences, growing in both when needed."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device | str,
        kind: str = "auto",
    ) -> None:
        self.longest = _blocks(config.max_length)
        shape = (rows, config.kv_heads, _blocks(length), config.head_size)
        self.plain = KINDS[kind].plain
        self.keys = [KINDS[kind](shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self.values = [KINDS[kind](shape, dtype, device) for _ in range(config.num_hidden_layers)]

    @property
    def rows(self) -> int:
        return self.keys[0].tensors[0].shape[0]

    @property
    def length(self) -> int:
        return self.keys[0].tensors[0].shape[2]

    @property
    def device(self) -> torch.device:
        return self.keys[0].tensors[0].device

    def reserve(self, rows: int, length: int, kept: int) -> None:
        """Make room for that many rows and slots; what the first `kept` rows hold stays."""
        rows, length = _grown(self.rows, rows), _grown(self.length, _blocks(length), self.longest)
        if (rows, length) == (self.rows, self.length):
            return
        for store in (*self.values, *reversed(self.keys)):  # the first keys tell the size: they are the last
            for part in reversed(range(len(store.tensors))):
                held = store.tensors[part][:kept]
                grown = held.new_zeros(rows, held.shape[1], length, held.shape[3])
                grown[: held.shape[0], :, : held.shape[2]] = held
                store.tensors[part] = grown

    @torch.inference_mode()  # what a step has allocated may only be written in this mode
    def copy(self, source: int, target: int, length: int) -> None:
        """The first slots of one row into another."""
        for tensor in self._tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    @torch.inference_mode()
    def wipe(self, row: int) -> None:
        """Zero a row, also where nothing will be written before it is read over."""
        for tensor in self._tensors():
            tensor[row] = 0

    def _tensors(self) -> Iterator[Tensor]:
        return (tensor for store in (*self.keys, *self.values) for tensor in store.tensors)

    def fresh(self, rows: Sequence[int], lengths: Sequence[int]) -> PrefillCache:
        """For prompts of these lengths (padding aside) that enter empty rows."""
        return PrefillCache(self, torch.tensor(rows, device=self.device), torch.tensor(lengths, device=self.device))

    def next(self, stored: Sequence[int], lengths: Sequence[int], first: int = 0, idle: int = 0) -> DecodeCache:
        """For the tokens that follow in rows `first`, `first` + 1, ..., which hold `stored` tokens each of a prompt of
        `lengths` tokens and its answer. The last `idle` of them only fill the batch: nothing is read for them."""
        return DecodeCache(self, first, list(stored), torch.tensor(lengths, device=self.device), idle)


class PrefillCache:
    """The cache of whole prompts: stored for later, and plain causal attention among themselves now."""

    def __init__(self, cache: KVCache, rows_B: Tensor, lengths_B: Tensor) -> None:
        self.cache, self.rows_B, self.lengths_B = cache, rows_B, lengths_B
        self.plain = cache.plain

    def positions_BT(self, T: int) -> Tensor:
        return torch.arange(T, device=self.rows_B.device)[None]

    def lengths_BT(self, T: int) -> Tensor:
        return self.lengths_B[:, None]

    def mask(self, T: int, window: int | None) -> Tensor | None:
        return None

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        T = k_BGTD.shape[2]
        real_BT = torch.arange(T, device=self.rows_B.device) < self.lengths_B[:, None]

        def write(store: Plain, new_BGTD: Tensor) -> Tensor:
            parts = store.encode(new_BGTD, real_BT)
            for tensor, part in zip(store.tensors, parts):
                tensor[self.rows_B, :, :T] = part
            return store.decode(parts)

        return write(self.cache.keys[layer], k_BGTD), write(self.cache.values[layer], v_BGTD)


class DecodeCache:
    """The cache of one or more tokens that follow what neighbouring rows already hold."""

    def __init__(self, cache: KVCache, first: int, stored: list[int], lengths_B: Tensor, idle: int) -> None:
        self.cache, self.lengths_B, self.longest = cache, lengths_B, max(stored)
        self.plain, self.busy = cache.plain, len(stored) - idle
        self.rows = slice(first, first + self.busy)
        self.stored_B = torch.tensor(stored, device=cache.device)
        self.index_B1 = torch.arange(first, first + len(stored), device=cache.device)[:, None]

    def positions_BT(self, T: int) -> Tensor:
        self.slots_BT = self.stored_B[:, None] + torch.arange(T, device=self.stored_B.device)
        return self.slots_BT

    def lengths_BT(self, T: int) -> Tensor:
        return self.lengths_B[:, None]

    def mask(self, T: int, window: int | None) -> Tensor | None:
        self.span = _blocks(self.longest + T)
        slots_S = torch.arange(self.span, device=self.stored_B.device)
        last_BT1 = self.slots_BT[: self.busy, :, None]
        seen_BTS = slots_S <= last_BT1
        if window is not None:
            seen_BTS &= slots_S > last_BT1 - window
        return seen_BTS[:, None]

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        def write(store: Plain, new_BGTD: Tensor) -> Tensor:
            for tensor, part in zip(store.tensors, store.encode(new_BGTD, None)):
                tensor[self.index_B1, :, self.slots_BT] = part.transpose(1, 2)
            return store.decode([tensor[self.rows, :, : self.span] for tensor in store.tensors])

        return write(self.cache.keys[layer], k_BGTD), write(self.cache.values[layer], v_BGTD)


def _grown(size: int, needed: int, most: int | None = None) -> int:
    """Doubled when used up, but not beyond `most` where that is enough."""
    if needed <= size:
        return size
    return max(needed, 2 * size if most is None else min(2 * size, most))


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
