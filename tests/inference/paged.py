"""A second cache for the engine's tests: keys and values in blocks, in no order, found by a table for each owner.

Slow and small: it shows that nothing but the cache knows where a sequence lies.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from qwenkit.model import ModelConfig
from qwenkit.model.attention import attention

BLOCK = 4


class PagedCache:
    """Blocks of `BLOCK` tokens from one pool. A block that is free is full of NaN: whoever reads it is caught."""

    def __init__(self, config: ModelConfig, blocks: int = 600) -> None:
        shape = (config.num_hidden_layers, 2, blocks, BLOCK, config.kv_heads, config.head_size)
        self.pool = torch.full(shape, float("nan"))
        self.unused: list[int] = list(range(blocks))[::-1]
        self.tables: dict[Hashable, list[int]] = {}

    device = torch.device("cpu")

    @property
    def owners(self) -> list[Hashable]:
        return list(self.tables)

    def in_order(self, owners: Iterable[Hashable]) -> list[int]:
        return list(range(len(list(owners))))[::-1]  # any order must do

    def allocate(self, lengths: Mapping[Hashable, int]) -> None:
        for owner, length in lengths.items():
            table = self.tables.setdefault(owner, [])
            while len(table) * BLOCK < length:
                table.append(self.unused.pop())

    def free(self, owners: Iterable[Hashable]) -> None:
        for owner in owners:
            table = self.tables.pop(owner)
            self.pool[:, :, table] = float("nan")
            self.unused[:0] = table

    def copy(self, source: Hashable, target: Hashable, length: int) -> None:
        count = -(-length // BLOCK)
        self.pool[:, :, self.tables[target][:count]] = self.pool[:, :, self.tables[source][:count]]

    def clear(self, owner: Hashable) -> None:
        self.pool[:, :, self.tables[owner]] = float("nan")

    def prefill(self, owners: Sequence[Hashable], lengths: Sequence[int], prompts: Sequence[int]) -> PagedView:
        return PagedView(self, owners, [0] * len(owners), lengths, prompts)

    def decode(
        self, owners: Sequence[Hashable], starts: Sequence[int], prompts: Sequence[int], T: int = 1
    ) -> PagedView:
        return PagedView(self, owners, starts, [start + T for start in starts], prompts)


class PagedView:
    """One forward pass: tokens `starts` to `stops` of each owner, right-padded; rows beyond the owners are padding."""

    def __init__(self, cache: PagedCache, owners: Sequence[Hashable], starts: Sequence[int], stops: Sequence[int],
                 prompts: Sequence[int]) -> None:  # fmt: skip
        self.cache, self.owners, self.starts, self.stops, self.prompts = cache, owners, starts, stops, prompts

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        B, T, _ = x_BTC.shape
        return torch.tensor([*self.starts, *[0] * (B - len(self.starts))])[:, None] + torch.arange(T)

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        return torch.tensor([*self.prompts, *[1] * (len(x_BTC) - len(self.prompts))])[:, None]

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        o_BHTD = torch.zeros_like(q_BHTD)
        for b, (owner, start, stop) in enumerate(zip(self.owners, self.starts, self.stops)):
            slots = torch.arange(stop)
            table = torch.tensor(self.cache.tables[owner])[slots // BLOCK]
            for part, new_BGTD in enumerate((k_BGTD, v_BGTD)):
                new_TGD = new_BGTD[b, :, : stop - start].transpose(0, 1)
                self.cache.pool[layer, part, table[start:], slots[start:] % BLOCK] = new_TGD
            k_1GSD, v_1GSD = (
                self.cache.pool[layer, part, table, slots % BLOCK].transpose(0, 1)[None] for part in (0, 1)
            )
            behind_TS = torch.arange(start, stop)[:, None] - slots
            seen_TS = behind_TS >= 0 if window is None else (behind_TS >= 0) & (behind_TS < window)
            q_1HTD = q_BHTD[b : b + 1, :, : stop - start]
            o_BHTD[b : b + 1, :, : stop - start] = attention(q_1HTD, k_1GSD, v_1GSD, seen_TS[None, None])
        return o_BHTD
