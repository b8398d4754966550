"""The KV cache: keys and values of the tokens so far.

    cache = KVCache(config, rows=128, length=256, dtype=torch.float32, device="cpu")
    model.hidden(prompts_BT, cache=cache.prefill([3, 4], lengths))     # prompts into the empty rows 3 and 4
    model.hidden(ids_B1, cache=cache.decode(num_cached, lengths))      # one more token for each of the first rows

Slot j of a row holds the token at position j, so rows of different lengths share a batch: a query sees the slots up to
its own position. The slots after them (padding, the rest of a previous owner) are never attended to and soon
overwritten. Keys are stored rotated, so what the length of a prompt decides about the rotation (dynamic NTK) holds for
its whole answer.

Memory follows what is written: the capacity doubles when it is used up, so at most half of it is unused. It is kept for
the next call, and freed with the cache.

Legend: R rows, G key/value heads, S slots, D head width, B rows of this batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES, KVStore
from qwenkit.model import ModelConfig

BLOCK = 64
"""Slots are read in multiples of this, so that sums over keys are split alike whatever else is in the batch."""


class KVCache:
    """Keys and values of `rows` sequences, [R, G, S, D] in each layer; it grows in rows and in slots when needed."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_cache_dtype: str = "auto",
    ) -> None:
        """Create a cache of `rows` rows with room for `length` tokens each; `kv_cache_dtype` is `auto` or `int8`."""
        store = KV_CACHE_DTYPES[kv_cache_dtype]
        self.max_slots = _blocks(config.max_length)
        shape = (rows, config.kv_heads, _blocks(length), config.head_size)
        self.math_attention = store.math_attention
        self.keys = [store(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self.values = [store(shape, dtype, device) for _ in range(config.num_hidden_layers)]

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self.keys[0].tensors[0].shape[0]

    @property
    def length(self) -> int:
        """Return the slots of each row, a multiple of `BLOCK`."""
        return self.keys[0].tensors[0].shape[2]

    @property
    def device(self) -> torch.device:
        """Return the device of the cache."""
        return self.keys[0].tensors[0].device

    def reserve(self, rows: int, length: int, used_rows: int) -> None:
        """Make room for `rows` rows of `length` slots; the contents of the first `used_rows` rows are kept."""
        rows, length = _grown(self.rows, rows), _grown(self.length, _blocks(length), self.max_slots)
        if (rows, length) == (self.rows, self.length):
            return
        for store in (*self.values, *reversed(self.keys)):  # `rows` and `length` read the first keys: those come last
            for part in reversed(range(len(store.tensors))):
                old = store.tensors[part][:used_rows]
                new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                store.tensors[part] = new

    @torch.inference_mode()  # tensors that a step has allocated may only be written in this mode
    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of one row into another."""
        for tensor in self._tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    @torch.inference_mode()
    def clear(self, row: int) -> None:
        """Set a whole row to zero: attention gives hidden slots the weight 0, but 0 times NaN is NaN."""
        for tensor in self._tensors():
            tensor[row] = 0

    def _tensors(self) -> Iterator[Tensor]:
        return (tensor for store in (*self.keys, *self.values) for tensor in store.tensors)

    def prefill(self, rows: Sequence[int], lengths: Sequence[int]) -> PrefillCache:
        """Return the cache of a forward pass over B whole prompts of these lengths (without padding), stored in any
        rows. Right padding up to T is stored too and never attended to."""
        return PrefillCache(self, torch.tensor(rows, device=self.device), torch.tensor(lengths, device=self.device))

    def decode(
        self, num_cached: Sequence[int], lengths: Sequence[int], first: int = 0, padding_rows: int = 0
    ) -> DecodeCache:
        """Return the cache of a forward pass over the next tokens of B neighbouring rows, from `first` on.

        `num_cached` says how many tokens each row holds (of a prompt of `lengths` tokens and its answer). The last
        `padding_rows` rows only fill the batch: they are written, but attention is not computed for them. The rows must
        have been reserved."""
        return DecodeCache(self, first, list(num_cached), torch.tensor(lengths, device=self.device), padding_rows)


class PrefillCache:
    """The cache of whole prompts: it stores them, and they attend causally among themselves."""

    def __init__(self, cache: KVCache, rows_B: Tensor, lengths_B: Tensor) -> None:
        """Store prompts of these lengths [B] in these rows [B] of a cache."""
        self.cache, self.rows_B, self.lengths_B = cache, rows_B, lengths_B
        self.math_attention = cache.math_attention

    def positions_BT(self, T: int) -> Tensor:
        """Return the positions 0 to T - 1, [1, T]."""
        return torch.arange(T, device=self.rows_B.device)[None]

    def lengths_BT(self, T: int) -> Tensor:
        """Return the lengths of the prompts, [B, 1]."""
        return self.lengths_B[:, None]

    def mask(self, T: int, window: int | None) -> Tensor | None:
        """Return None, which means causal attention."""
        return None

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values; return them as they are read back, [B, G, T, D]."""
        T = k_BGTD.shape[2]
        real_BT = torch.arange(T, device=self.rows_B.device) < self.lengths_B[:, None]

        def write(store: KVStore, new_BGTD: Tensor) -> Tensor:
            parts = store.encode(new_BGTD, real_BT)
            for tensor, part in zip(store.tensors, parts):
                tensor[self.rows_B, :, :T] = part
            return store.decode(parts)

        return write(self.cache.keys[layer], k_BGTD), write(self.cache.values[layer], v_BGTD)


class DecodeCache:
    """The cache of one or more tokens that follow those that neighbouring rows already hold."""

    def __init__(self, cache: KVCache, first: int, num_cached: list[int], lengths_B: Tensor, padding_rows: int) -> None:
        """Continue the rows from `first` on, which hold `num_cached` tokens each."""
        self.cache, self.lengths_B, self.max_cached = cache, lengths_B, max(num_cached)
        self.math_attention, self.active_rows = cache.math_attention, len(num_cached) - padding_rows
        self.rows = slice(first, first + self.active_rows)
        self.num_cached_B = torch.tensor(num_cached, device=cache.device)
        self.index_B1 = torch.arange(first, first + len(num_cached), device=cache.device)[:, None]

    def positions_BT(self, T: int) -> Tensor:
        """Return the positions [B, T] of the next T tokens, which are also the slots that they are stored in."""
        self.slots_BT = self.num_cached_B[:, None] + torch.arange(T, device=self.num_cached_B.device)
        return self.slots_BT

    def lengths_BT(self, T: int) -> Tensor:
        """Return the lengths of the prompts, [B, 1]."""
        return self.lengths_B[:, None]

    def mask(self, T: int, window: int | None) -> Tensor | None:
        """Return a mask [active rows, 1, T, S], true at the slots up to each token's own, inside the window."""
        self.span = _blocks(self.max_cached + T)
        slots_S = torch.arange(self.span, device=self.num_cached_B.device)
        last_BT1 = self.slots_BT[: self.active_rows, :, None]
        visible_BTS = slots_S <= last_BT1
        if window is not None:
            visible_BTS &= slots_S > last_BT1 - window
        return visible_BTS[:, None]

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of all rows; return those of the active rows, [active rows, G, S, D]."""

        def write(store: KVStore, new_BGTD: Tensor) -> Tensor:
            for tensor, part in zip(store.tensors, store.encode(new_BGTD, None)):
                tensor[self.index_B1, :, self.slots_BT] = part.transpose(1, 2)
            return store.decode([tensor[self.rows, :, : self.span] for tensor in store.tensors])

        return write(self.cache.keys[layer], k_BGTD), write(self.cache.values[layer], v_BGTD)


def _grown(size: int, needed: int, limit: int | None = None) -> int:
    """Double a size that is used up, but not beyond `limit` where that is enough."""
    if needed <= size:
        return size
    return max(needed, 2 * size if limit is None else min(2 * size, limit))


def _blocks(length: int) -> int:
    """Round up to a multiple of `BLOCK`."""
    return -(-length // BLOCK) * BLOCK
