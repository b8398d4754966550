"""The KV cache: keys and values in blocks, and the attention over them (PagedAttention; Kwon et al., 2023).

    cache = PagedCache(config, num_blocks=512, dtype=torch.float32, device="cpu")
    tokens = cache.forward([Segment(table.blocks, 19, 20, 12)], [Segment(other.blocks, 0, 9, 9)])
    model.hidden(ids_1N, tokens)     # one more token of the first sequence, nine of the second

A layer's keys are one tensor [G, slots, D]; block b holds the slots b * BLOCK to (b + 1) * BLOCK, and the token at
position p of a sequence lies in the block p // BLOCK of its table. Nothing is ever moved or grown. On a CPU memory
follows what is written, for a page that was never touched is not there.

A forward pass is flat, [1, N]: one token of each answer, then the pieces of prompts, then tokens that only fill the
pass up (nothing of them is stored, and their attention is 0). Linear layers do not care, and attention is computed
for each by itself.

**Same bits.** The attention of a token of a prompt is computed in a tile of `TILE` queries, from a multiple of `TILE`
to the next, over the keys up to the end of the tile. A piece that begins or ends inside one computes the whole tile,
and drops the rest. So wherever a prompt was cut, and whatever of it was found, no sum over keys changes. What a piece
does not have itself it reads back from the cache, as an answer does. Keys are stored rotated: what the length of a
prompt decides about the rotation (dynamic NTK) holds for its whole answer.

Legend: N tokens of the pass, B answers, G key/value heads, H query heads, S slots, D head width, T tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.block_pool import BLOCK, blocks_for
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES, KVStore
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.attention import attention
from qwenkit.model.batching import round_up

TILE = 64
"""Queries of a prompt whose attention is computed together; a multiple of `BLOCK`. Keys are read in multiples of it."""
GATHER_BYTES = 256 * 2**20
"""The most bytes of keys and values that are gathered at a time, where more than one sequence is read together."""

T = TypeVar("T")
Rows = Tensor | slice
"""Which tokens of a pass: their places [B], or all of the first ones."""


class Segment(NamedTuple):
    """The tokens start to stop (half-open) of one sequence, whose blocks these are."""

    blocks: list[int]
    start: int
    stop: int
    prompt_length: int

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return self.stop - self.start


class PagedCache:
    """Keys and values of all blocks, in each layer."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_cache_dtype: str = "auto",
    ) -> None:
        """Create a cache of `num_blocks` blocks besides block 0; `kv_cache_dtype` is a name in `KV_CACHE_DTYPES`."""
        store = KV_CACHE_DTYPES[kv_cache_dtype]
        shape = (config.kv_heads, (num_blocks + 1) * BLOCK, config.head_size)
        self.num_blocks, self.math_attention, self.device = num_blocks, store.math_attention, torch.device(device)
        self.keys = [store(shape, dtype, self.device) for _ in range(config.num_hidden_layers)]
        self.values = [store(shape, dtype, self.device) for _ in range(config.num_hidden_layers)]
        self.slot_bytes = 2 * config.kv_heads * config.head_size * dtype.itemsize
        """What the key and the value of a token take in one layer as attention reads them."""

    def forward(self, answers: Seq[Segment], pieces: Seq[Segment]) -> PagedPass:
        """Return what a forward pass attends through: over the next token of some sequences, then over pieces."""
        return PagedPass(self, list(answers), list(pieces))

    @torch.inference_mode()
    def wipe(self, blocks: Seq[int]) -> None:
        """Set blocks to zero: attention gives hidden slots the weight 0, but 0 times NaN is NaN."""
        if blocks:
            slots_N = _slots(torch.tensor(blocks, device=self.device)).flatten()
            for store in (*self.keys, *self.values):
                for tensor in store.tensors:
                    tensor[:, slots_N] = 0


class _Tile(NamedTuple):
    """The tokens first to last (half-open) of a piece, which lie in one tile: their places in the pass, and in it."""

    piece: int
    first: int
    last: int
    offset: int
    """Where the first one stands in its tile."""
    end: int
    """The position behind the tile: the number of keys that are read."""


class PagedPass:
    """The cache of one forward pass."""

    def __init__(self, cache: PagedCache, answers: list[Segment], pieces: list[Segment]) -> None:
        """Continue these sequences; their blocks have room for what is new."""
        self.cache, self.answers, self.pieces = cache, answers, pieces
        self.segments = [*answers, *pieces]
        positions = [position for s in self.segments for position in range(s.start, s.stop)]
        self.positions_N = torch.tensor(positions, device=cache.device)
        slots = [s.blocks[p // BLOCK] * BLOCK + p % BLOCK for s in self.segments for p in range(s.start, s.stop)]
        self.slots_N = torch.tensor(slots, device=cache.device)
        self._masks: dict[tuple[object, int | None], Tensor] = {}

    @property
    def length(self) -> int:
        """Return the number of tokens, without those that fill the pass up."""
        return len(self.positions_N)

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions [1, N]; 0 for tokens that fill the pass up."""
        return F.pad(self.positions_N, (0, x_BTC.shape[1] - self.length))[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the length of each token's prompt, [1, N]; 1 for tokens that fill the pass up."""
        lengths = [s.prompt_length for s in self.segments for _ in range(s.length)]
        lengths += [1] * (x_BTC.shape[1] - len(lengths))
        return torch.tensor([lengths], device=self.cache.device)

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Store keys and values [1, G, N, D]; return the attention [1, H, N, D] of each token over all up to its own
        that the window shows."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        self._write(keys, k_BGTD)
        self._write(values, v_BGTD)
        if len(self._answer_groups) == 1 and not self.pieces:
            o_1HBD = self._attend_answers(*self._answer_groups[0], keys, values, q_BHTD, window)
            return F.pad(o_1HBD, (0, 0, 0, q_BHTD.shape[2] - self.length))
        o_1HND = q_BHTD.new_zeros(q_BHTD.shape)
        for rows, index in self._answer_groups:
            o_1HND[:, :, rows] = self._attend_answers(rows, index, keys, values, q_BHTD, window)
        for tiles, index in self._tile_groups:
            self._attend_tiles(tiles, index, keys, values, q_BHTD, o_1HND, window)
        return o_1HND

    def _attend_answers(
        self, rows: Rows, index: _BlockIndex, keys: KVStore, values: KVStore, q_1HND: Tensor, window: int | None
    ) -> Tensor:
        """Return the attention [1, H, B, D] of some answers."""
        q_BH1D = q_1HND[0, :, rows].transpose(0, 1)[:, :, None]
        mask = self._answer_mask(rows, index, window)
        o_BH1D = self._attention(q_BH1D, index.read(keys), index.read(values), mask, window)
        return o_BH1D[:, :, 0].transpose(0, 1)[None]

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, window: int | None) -> Tensor:
        return attention(q, k, v, mask, window, self.cache.math_attention)

    def _write(self, store: KVStore, new_1GND: Tensor) -> None:
        """Store what is new; a store may look at each segment as at one call."""
        new_GND = new_1GND[0, :, : self.length]
        for tensor, part in zip(store.tensors, store.encode(new_GND, [s.length for s in self.segments])):
            tensor.index_copy_(1, self.slots_N, part)

    # ---- answers ----------------------------------------------------------------------------------------------------

    @cached_property
    def _answer_groups(self) -> list[tuple[Rows, _BlockIndex]]:
        """Return the answers in groups of about the same length, as large as memory allows: which they are, and where
        their blocks lie.

        Keys that a mask hides change no bit, so it does not matter with whom an answer is read. What several begin with
        is gathered for each of them: reading it once, and the rest of each by itself, would need two sums over keys in
        place of one, and other bits."""
        spans = [_span(segment.stop) for segment in self.answers]
        order = sorted(range(len(spans)), key=spans.__getitem__)
        groups = []
        for _, members in groupby(order, key=spans.__getitem__):
            alike = list(members)
            stop = round_up(max(self.answers[row].stop for row in alike), TILE)
            for rows in self._slices(alike, stop):
                index = _BlockIndex([self.answers[row].blocks for row in rows], stop, self.cache.device)
                every = len(rows) == len(self.answers)
                groups.append((slice(0, len(rows)) if every else torch.tensor(rows, device=self.cache.device), index))
        return groups

    def _slices(self, items: list[T], stop: int) -> Iterator[list[T]]:
        """Yield items, each of which gathers the keys and values of `stop` tokens, as many at a time as may be."""
        count = max(1, GATHER_BYTES // (stop * self.cache.slot_bytes))
        for start in range(0, len(items), count):
            yield items[start : start + count]

    def _answer_mask(self, rows: Rows, index: _BlockIndex, window: int | None) -> Tensor:
        """Return [B, 1, 1, S], true at the slots up to each token's own and inside the window."""
        if (index, window) not in self._masks:
            slots_S, own_B1 = torch.arange(index.stop, device=self.cache.device), self.positions_N[rows][:, None]
            visible_BS = slots_S <= own_B1
            if window is not None:
                visible_BS &= slots_S > own_B1 - window
            self._masks[index, window] = visible_BS[:, None, None]
        return self._masks[index, window]

    # ---- pieces of prompts ------------------------------------------------------------------------------------------

    @cached_property
    def _tile_groups(self) -> list[tuple[list[_Tile], _BlockIndex]]:
        """Return the tiles that are computed together: the single ones of short pieces whose keys end alike, and each
        other piece's by themselves, with where their keys lie."""
        alone: dict[int, list[_Tile]] = {}
        groups, at = [], len(self.answers)
        for number, piece in enumerate(self.pieces):
            tiles = _tiles(number, piece, at)
            at += piece.length
            if len(tiles) == 1:
                alone.setdefault(tiles[0].end, []).append(tiles[0])
            else:
                groups.append((tiles, _BlockIndex([piece.blocks], tiles[-1].end, self.cache.device)))
        for end, alike in alone.items():
            for tiles in self._slices(alike, end):
                blocks = [self.pieces[tile.piece].blocks for tile in tiles]
                groups.append((tiles, _BlockIndex(blocks, end, self.cache.device)))
        return groups

    def _attend_tiles(
        self,
        tiles: list[_Tile],
        index: _BlockIndex,
        keys: KVStore,
        values: KVStore,
        q_1HND: Tensor,
        o_1HND: Tensor,
        window: int | None,
    ) -> None:
        """Write the attention of some tiles into `o_1HND`: all at once where each is of another sequence, else one
        after the other."""
        k_BGSD, v_BGSD = index.read(keys), index.read(values)
        steps = [tiles] if len(k_BGSD) == len(tiles) else [[tile] for tile in tiles]
        for together in steps:
            q_BHTD = q_1HND.new_zeros(len(together), q_1HND.shape[1], TILE, q_1HND.shape[3])
            for row, tile in enumerate(together):
                q_BHTD[row, :, tile.offset : tile.offset + tile.last - tile.first] = q_1HND[
                    0, :, tile.first : tile.last
                ]
            end = together[0].end
            mask = self._tile_mask(end, window)
            out_BHTD = self._attention(q_BHTD, k_BGSD[:, :, :end], v_BGSD[:, :, :end], mask, window)
            for row, tile in enumerate(together):
                part_HTD = out_BHTD[row, :, tile.offset : tile.offset + tile.last - tile.first]
                o_1HND[0, :, tile.first : tile.last] = part_HTD

    def _tile_mask(self, end: int, window: int | None) -> Tensor:
        """Return [1, 1, TILE, end], true where a query of the tile that ends there may see a key."""
        if (end, window) not in self._masks:
            queries_T, keys_S = (torch.arange(n, device=self.cache.device) for n in (TILE, end))
            behind_TS = queries_T[:, None] + (end - TILE) - keys_S
            visible_TS = behind_TS >= 0 if window is None else (behind_TS >= 0) & (behind_TS < window)
            self._masks[end, window] = visible_TS[None, None]
        return self._masks[end, window]


class _BlockIndex:
    """Where the first `stop` slots of some sequences lie; the same for all layers."""

    def __init__(self, tables: list[list[int]], stop: int, device: torch.device) -> None:
        """Take the blocks of each sequence; where it has fewer than `stop` slots, block 0 stands for the others."""
        self.rows, self.stop, count = len(tables), stop, stop // BLOCK
        padded = [[*blocks[:count], *[0] * (count - len(blocks))] for blocks in tables]
        first = padded[0][0]
        neighbours = self.rows == 1 and padded[0] == list(range(first, first + count))
        self._slice = slice(first * BLOCK, first * BLOCK + stop) if neighbours else None
        self._blocks_N = torch.tensor(padded, device=device).flatten()

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


def _tiles(number: int, piece: Segment, at: int) -> list[_Tile]:
    """Return the tiles that a piece has a part in; its first token is token `at` of the pass."""
    tiles = []
    for base in range(piece.start // TILE * TILE, piece.stop, TILE):
        first, last = max(piece.start, base), min(piece.stop, base + TILE)
        tiles.append(_Tile(number, at + first - piece.start, at + last - piece.start, first - base, base + TILE))
    return tiles


def _span(length: int) -> int:
    """Return which lengths are read together: a power of two times `TILE`."""
    return max(TILE, 1 << (length - 1).bit_length())


def _slots(blocks_N: Tensor) -> Tensor:
    """Return the slots [N, BLOCK] of some blocks."""
    return blocks_N[:, None] * BLOCK + torch.arange(BLOCK, device=blocks_N.device)


class PagedRows:
    """Texts of one length in a cache of their own, stepped by hand: for comparisons with other code.

        rows = PagedRows(config, B, T, torch.float32, "cpu")
        h_BTD = rows.hidden(model, ids_BT[:, :10], start=0, prompt_length=10)
        h_B1D = rows.hidden(model, ids_BT[:, 10:11], start=10, prompt_length=10)

    Every text has blocks of its own, behind each other."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_cache_dtype: str = "auto",
    ) -> None:
        """Make room for `rows` texts of `length` tokens."""
        each = blocks_for(length)
        self.cache = PagedCache(config, rows * each, dtype, device, kv_cache_dtype)
        self.tables = [list(range(1 + row * each, 1 + (row + 1) * each)) for row in range(rows)]

    def hidden(self, model: Transformer, ids_BT: Tensor, start: int, prompt_length: int) -> Tensor:
        """Return the states [B, T, D] of the tokens that stand at `start`: of one each as in an answer, of more as in a
        prompt."""
        B, T = ids_BT.shape
        segments = [Segment(blocks, start, start + T, prompt_length) for blocks in self.tables]
        tokens = self.cache.forward(segments, []) if start and T == 1 else self.cache.forward([], segments)
        return model.hidden(ids_BT.reshape(1, -1), tokens).view(B, T, -1)
