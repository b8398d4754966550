"""The KV cache: keys and values of the tokens so far, and the attention over them.

    cache = KVCache(config, rows=128, length=256, dtype=torch.float32, device="cpu")
    cache.allocate({a: 20, b: 9})                                         # room for 20 tokens of a, for 9 of b
    model.hidden(prompts_BT, cache.prefill([a, b], [20, 9], [20, 9]))     # whole prompts
    model.hidden(ids_B1, cache.decode([a, b], [20, 9], [20, 9]))          # one more token of each
    cache.free([a])

A place in the cache belongs to an owner (any hashable object: the engine's sequences), and only the cache knows where
it is. Here every owner has a row, slot j of which holds the token at position j; so rows of different lengths share a
batch: a query sees the slots up to its own position. The slots after them (padding, the rest of a previous owner) are
never attended to and soon overwritten. When an owner leaves, the last row moves into its place: the rows in use are
always the first ones, and a batch of all of them in the order of `in_order` is read without a copy. Keys are stored
rotated, so what the length of a prompt decides about the rotation (dynamic NTK) holds for its whole answer.

Memory follows what is written: the capacity doubles when it is used up, so at most half of it is unused. It is kept for
the next call, and freed with the cache.

Legend: R rows, G key/value heads, H query heads, S slots, D head width, B rows of this batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES, KVStore
from qwenkit.model import ModelConfig
from qwenkit.model.attention import Cache, attention

BLOCK = 64
"""Slots are read in multiples of this, so that sums over keys are split alike whatever else is in the batch."""


class SequenceCache(Protocol):
    """What the model runner asks of a cache. Every method may be called again after an interrupt in its middle."""

    device: torch.device
    """Where the ids of a forward pass belong."""

    @property
    def owners(self) -> list[Hashable]:
        """Return the owners of places."""
        ...

    def in_order(self, owners: Iterable[Hashable]) -> list[int]:
        """Return the order in which a batch of these owners is read fastest, as indices."""
        ...

    def allocate(self, lengths: Mapping[Hashable, int]) -> None:
        """Make room for so many tokens of each owner; what an owner has stored is kept."""
        ...

    def free(self, owners: Iterable[Hashable]) -> None:
        """Take the places of these owners back."""
        ...

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        """Give one owner the first `length` tokens of another."""
        ...

    def clear(self, owner: Hashable) -> None:
        """Wipe what an owner has stored: a later owner of the place must not meet a NaN."""
        ...

    def prefill(self, owners: Sequence[Hashable], lengths: Sequence[int], prompt_lengths: Sequence[int]) -> Cache:
        """Return what a forward pass over the first `lengths` tokens of B owners attends through."""
        ...

    def decode(
        self, owners: Sequence[Hashable], num_computed: Sequence[int], prompt_lengths: Sequence[int], T: int = 1
    ) -> Cache:
        """Return what a forward pass over the next T tokens of B owners attends through."""
        ...


@dataclass(eq=False)
class _Row:
    """Whose a row is, and how many of its slots are written at most."""

    owner: Hashable
    length: int = 0


class KVCache:
    """Keys and values of `rows` sequences, [R, G, S, D] in each layer; it grows in rows and in slots when needed.

    Every method can be done again after an interrupt in its middle: no row is lost, and none has two owners."""

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
        self.math_attention, self.device = store.math_attention, torch.device(device)
        self._used: list[_Row] = []  # replaced, never changed in place: an interrupt leaves the old list
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

    # ---- places -----------------------------------------------------------------------------------------------------

    @property
    def owners(self) -> list[Hashable]:
        """Return the owners of rows, in the order of the rows."""
        return [row.owner for row in self._used]

    def in_order(self, owners: Iterable[Hashable]) -> list[int]:
        """Return the order in which a batch of these owners is read fastest, as indices."""
        rows = self._rows(owners)
        return sorted(range(len(rows)), key=rows.__getitem__)

    def allocate(self, lengths: Mapping[Hashable, int]) -> None:
        """Make room for so many tokens of each owner; what an owner has stored is kept."""
        present = set(self.owners)
        used = [*self._used, *(_Row(owner) for owner in lengths if owner not in present)]
        self._reserve(len(used), max(lengths.values(), default=0))
        self._used = used

    def free(self, owners: Iterable[Hashable]) -> None:
        """Take the rows of these owners back, from the back, so that a row in use moves into the gap. Unknown owners
        are ignored."""
        left = set(owners)
        used = list(self._used)
        for row in reversed(range(len(used))):
            if used[row].owner not in left:
                continue
            last = used.pop()
            if row < len(used):
                self._copy(len(used), row, last.length)
                used[row] = last
        self._used = used

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        """Give one owner the first `length` tokens of another."""
        source_row, target_row = self._rows([source, target])
        self._used[target_row].length = length
        self._copy(source_row, target_row, length)

    @torch.inference_mode()
    def clear(self, owner: Hashable) -> None:
        """Set all that an owner has stored to zero: attention gives hidden slots the weight 0, but 0 times NaN is
        NaN."""
        (row,) = self._rows([owner])
        for tensor in self._tensors():
            tensor[row] = 0

    def _rows(self, owners: Iterable[Hashable]) -> list[int]:
        rows = {row.owner: index for index, row in enumerate(self._used)}
        return [rows[owner] for owner in owners]

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` slots; the contents of the rows in use are kept."""
        rows, length = _grown(self.rows, rows), _grown(self.length, _blocks(length), self.max_slots)
        if (rows, length) == (self.rows, self.length):
            return
        for store in (*self.values, *reversed(self.keys)):  # `rows` and `length` read the first keys: those come last
            for part in reversed(range(len(store.tensors))):
                old = store.tensors[part][: len(self._used)]
                new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                store.tensors[part] = new

    @torch.inference_mode()  # tensors that a step has allocated may only be written in this mode
    def _copy(self, source: int, target: int, length: int) -> None:
        for tensor in self._tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    def _tensors(self) -> Iterator[Tensor]:
        return (tensor for store in (*self.keys, *self.values) for tensor in store.tensors)

    # ---- forward passes ---------------------------------------------------------------------------------------------

    def prefill(
        self, owners: Sequence[Hashable], lengths: Sequence[int], prompt_lengths: Sequence[int]
    ) -> PrefillCache:
        """Return the cache of a forward pass over the first `lengths` tokens of B owners, which have stored none.

        Right padding up to T is stored too and never attended to. `prompt_lengths` are those of the whole prompts."""
        rows = self._rows(owners)
        for row, length in zip(rows, lengths):
            self._used[row].length = length
        return PrefillCache(self, *(torch.tensor(x, device=self.device) for x in (rows, lengths, prompt_lengths)))

    def decode(
        self, owners: Sequence[Hashable], num_computed: Sequence[int], prompt_lengths: Sequence[int], T: int = 1
    ) -> DecodeCache:
        """Return the cache of a forward pass over the next T tokens of B owners, which have stored `num_computed`.

        Rows of the pass beyond B only fill the batch: nothing of them is stored, and they attend to nothing."""
        rows = self._rows(owners)
        for row, length in zip(rows, num_computed):
            self._used[row].length = length + T
        return DecodeCache(self, rows, list(num_computed), list(prompt_lengths), T)


class PrefillCache:
    """The cache of the first tokens of some rows: it stores them, and they attend causally among themselves."""

    def __init__(self, cache: KVCache, rows_B: Tensor, lengths_B: Tensor, prompt_lengths_B: Tensor) -> None:
        """Store so many tokens [B] in these rows [B] of a cache."""
        self.cache, self.rows_B, self.lengths_B, self.prompt_lengths_B = cache, rows_B, lengths_B, prompt_lengths_B

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions 0 to T - 1, [1, T]."""
        return torch.arange(x_BTC.shape[1], device=self.rows_B.device)[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the lengths of the prompts, [B, 1]."""
        return self.prompt_lengths_B[:, None]

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Store keys and values; return the attention [B, H, T, D] over them as they are read back."""
        real_BT = torch.arange(q_BHTD.shape[2], device=self.rows_B.device) < self.lengths_B[:, None]
        k_BGTD = self._write(self.cache.keys[layer], k_BGTD, real_BT)
        v_BGTD = self._write(self.cache.values[layer], v_BGTD, real_BT)
        return attention(q_BHTD, k_BGTD, v_BGTD, None, window, self.cache.math_attention)

    def _write(self, store: KVStore, new_BGTD: Tensor, real_BT: Tensor) -> Tensor:
        parts = store.encode(new_BGTD, real_BT)
        for tensor, part in zip(store.tensors, parts):
            tensor[self.rows_B, :, : new_BGTD.shape[2]] = part
        return store.decode(parts)


class DecodeCache:
    """The cache of T tokens that follow those that some rows already hold."""

    def __init__(
        self, cache: KVCache, rows: list[int], num_computed: list[int], prompt_lengths: list[int], T: int
    ) -> None:
        """Continue these rows, which hold `num_computed` tokens each."""
        self.cache, self.active, self.span, device = cache, len(rows), _blocks(max(num_computed) + T), cache.device
        self.prompt_lengths = prompt_lengths
        self.index_B1 = torch.tensor(rows, device=device)[:, None]
        self.slots_BT = torch.tensor(num_computed, device=device)[:, None] + torch.arange(T, device=device)
        neighbours = rows == list(range(rows[0], rows[0] + len(rows)))
        self.rows: slice | Tensor = slice(rows[0], rows[0] + len(rows)) if neighbours else self.index_B1[:, 0]
        self._masks: dict[int | None, Tensor] = {}

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions [B, T] of the tokens, which are also the slots that they are stored in; 0 for rows that
        fill the batch."""
        return F.pad(self.slots_BT, (0, 0, 0, len(x_BTC) - self.active))

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the lengths of the prompts, [B, 1]; 1 for rows that fill the batch."""
        padding = [1] * (len(x_BTC) - self.active)
        return torch.tensor([*self.prompt_lengths, *padding], device=self.cache.device)[:, None]

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Store keys and values; return the attention [B, H, T, D] over all slots up to each token's own, inside the
        window. It is 0 for rows that fill the batch."""
        B, active = len(q_BHTD), self.active
        k_BGSD = self._write(self.cache.keys[layer], k_BGTD[:active])
        v_BGSD = self._write(self.cache.values[layer], v_BGTD[:active])
        o_BHTD = attention(q_BHTD[:active], k_BGSD, v_BGSD, self._mask(window), window, self.cache.math_attention)
        if active == B:
            return o_BHTD
        return F.pad(o_BHTD.transpose(1, 2), (0, 0, 0, 0, 0, 0, 0, B - active)).transpose(1, 2)

    def _mask(self, window: int | None) -> Tensor:
        """Return [B, 1, T, S], true at the slots up to each token's own; one mask for all layers of a window."""
        if window not in self._masks:
            slots_S = torch.arange(self.span, device=self.cache.device)
            visible_BTS = slots_S <= self.slots_BT[:, :, None]
            if window is not None:
                visible_BTS &= slots_S > self.slots_BT[:, :, None] - window
            self._masks[window] = visible_BTS[:, None]
        return self._masks[window]

    def _write(self, store: KVStore, new_BGTD: Tensor) -> Tensor:
        for tensor, part in zip(store.tensors, store.encode(new_BGTD, None)):
            tensor[self.index_B1, :, self.slots_BT] = part.transpose(1, 2)
        return store.decode([tensor[self.rows, :, : self.span] for tensor in store.tensors])


def _grown(size: int, needed: int, limit: int | None = None) -> int:
    """Double a size that is used up, but not beyond `limit` where that is enough."""
    if needed <= size:
        return size
    return max(needed, 2 * size if limit is None else min(2 * size, limit))


def _blocks(length: int) -> int:
    """Round up to a multiple of `BLOCK`."""
    return -(-length // BLOCK) * BLOCK
