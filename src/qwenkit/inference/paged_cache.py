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

from collections.abc import Sequence as Seq
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenkit.inference.answer_attention import TILE, AnswerGroup, BlockIndex, filled, span
from qwenkit.inference.block_pool import BLOCK, blocks_for
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES, KVStore
from qwenkit.inference.transfer import to_device
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.attention import attention
from qwenkit.model.batching import round_up

if TYPE_CHECKING:
    from qwenkit.inference.adapters import EngineAdapter

GATHER_BYTES = 256 * 2**20
"""The most bytes of keys and values that are gathered at a time, where more than one sequence is read together."""


class Segment(NamedTuple):
    """The tokens start to stop (half-open) of one sequence, whose blocks these are."""

    blocks: list[int]
    start: int
    stop: int
    prompt_length: int
    adapter: EngineAdapter | None = None
    """What its tokens are computed with, besides the model."""

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
    def clear_blocks(self, blocks: Seq[int]) -> None:
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
        """Continue these sequences; their blocks have room for what is new. All that is known of them goes to the
        device in one copy."""
        self.cache, self.segments = cache, [*answers, *pieces]
        self._counts = [segment.length for segment in self.segments]
        members, tile_groups = _answer_groups(answers, cache), _tile_groups(pieces, len(answers), cache)
        reads = [_Read([answers[row].blocks for row in rows], _stop(answers, rows)) for rows in members]
        reads += [_Read([pieces[number].blocks for number in numbers], end) for _, numbers, end in tile_groups]
        columns = [self._positions(), self._slots(), self._lengths(), *members, *(read.flat for read in reads)]
        tensors = to_device(columns, cache.device)
        (self.positions_N, self.slots_N, self._lengths_N), rest = tensors[:3], tensors[3:]
        indexes = [read.on_device(blocks_N) for read, blocks_N in zip(reads, rest[len(members) :])]
        self._answer_groups = [
            (rows_B, AnswerGroup(index, self.positions_N[rows_B], cache.math_attention))
            for rows_B, index in zip(rest[: len(members)], indexes)
        ]
        self._tile_groups = [(tiles, i) for (tiles, _, _), i in zip(tile_groups, indexes[len(members) :])]
        self._answers_alone = len(answers) if len(members) == 1 and not pieces else None
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def _positions(self) -> list[int]:
        return [position for s in self.segments for position in range(s.start, s.stop)]

    def _slots(self) -> list[int]:
        return [s.blocks[p // BLOCK] * BLOCK + p % BLOCK for s in self.segments for p in range(s.start, s.stop)]

    def _lengths(self) -> list[int]:
        return [s.prompt_length for s in self.segments for _ in range(s.length)]

    @property
    def length(self) -> int:
        """Return the number of tokens, without those that fill the pass up."""
        return len(self.positions_N)

    def positions_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the positions [1, N]; 0 for tokens that fill the pass up."""
        return F.pad(self.positions_N, (0, x_BTC.shape[1] - self.length))[None]

    def lengths_BT(self, x_BTC: Tensor) -> Tensor:
        """Return the length of each token's prompt, [1, N]; 1 for tokens that fill the pass up."""
        return F.pad(self._lengths_N, (0, x_BTC.shape[1] - self.length), value=1)[None]

    def attend(self, layer: int, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, window: int | None) -> Tensor:
        """Store keys and values [1, G, N, D]; return the attention [1, H, N, D] of each token over all up to its own
        that the window shows."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.write(self.slots_N, k_BGTD[0, :, : self.length], self._counts)
        values.write(self.slots_N, v_BGTD[0, :, : self.length], self._counts)
        if (count := self._answers_alone) is not None:
            o_1HBD = self._answer_groups[0][1].attend(q_BHTD[:, :, :count], keys, values, window)
            return F.pad(o_1HBD, (0, 0, 0, q_BHTD.shape[2] - count))
        o_1HND = q_BHTD.new_zeros(q_BHTD.shape)
        for rows_B, group in self._answer_groups:
            o_1HND[:, :, rows_B] = group.attend(q_BHTD[:, :, rows_B], keys, values, window)
        for tiles, index in self._tile_groups:
            self._attend_tiles(tiles, index, keys, values, q_BHTD, o_1HND, window)
        return o_1HND

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, window: int | None) -> Tensor:
        return attention(q, k, v, mask, window, self.cache.math_attention)

    # ---- pieces of prompts ------------------------------------------------------------------------------------------

    def _attend_tiles(
        self,
        tiles: list[_Tile],
        index: BlockIndex,
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


class _Read(NamedTuple):
    """The first `stop` slots of sequences with these blocks."""

    tables: list[list[int]]
    stop: int

    @property
    def flat(self) -> list[int]:
        """Return the blocks of each, table behind table."""
        return [block for blocks in self.tables for block in filled(blocks, self.stop // BLOCK)]

    def on_device(self, blocks_N: Tensor) -> BlockIndex:
        """Return where they lie; the blocks are those of `flat`, on the device."""
        first, count = self.tables[0][0], self.stop // BLOCK
        neighbours = len(self.tables) == 1 and self.tables[0][:count] == list(range(first, first + count))
        return BlockIndex(len(self.tables), self.stop, blocks_N, first if neighbours else None)


def _answer_groups(answers: list[Segment], cache: PagedCache) -> list[list[int]]:
    """Return the answers in groups of about the same length, as large as memory allows, the shorter ones first.

    Keys that a mask hides change no bit, so it does not matter with whom an answer is read. What several begin with is
    gathered for each of them: reading it once, and the rest of each by itself, would need two sums over keys in place
    of one, and other bits."""
    spans = [span(segment.stop) for segment in answers]
    order = sorted(range(len(spans)), key=spans.__getitem__)
    alike = [list(rows) for _, rows in groupby(order, key=spans.__getitem__)]
    return [rows[part] for rows in alike for part in _parts(len(rows), _stop(answers, rows), cache)]


def _parts(count: int, stop: int, cache: PagedCache) -> list[slice]:
    """Return the parts in which `count` sequences gather the keys and values of `stop` tokens, so that a part takes no
    more than `GATHER_BYTES`."""
    most = max(1, GATHER_BYTES // (stop * cache.slot_bytes))
    return [slice(start, start + most) for start in range(0, count, most)]


def _stop(answers: list[Segment], rows: list[int]) -> int:
    """Return how many slots are read of some answers."""
    return round_up(max(answers[row].stop for row in rows), TILE)


def _tile_groups(pieces: list[Segment], at: int, cache: PagedCache) -> list[tuple[list[_Tile], list[int], int]]:
    """Return the tiles that are computed together, the pieces whose keys they read, and how many: the single ones of
    short pieces whose keys end alike, and each other piece's by themselves. The first token of the first piece is token
    `at` of the pass."""
    alone: dict[int, list[_Tile]] = {}
    groups = []
    for number, piece in enumerate(pieces):
        tiles = _tiles(number, piece, at)
        at += piece.length
        if len(tiles) == 1:
            alone.setdefault(tiles[0].end, []).append(tiles[0])
        else:
            groups.append((tiles, [number], tiles[-1].end))
    for end, tiles in alone.items():
        for part in _parts(len(tiles), end, cache):
            groups.append((tiles[part], [tile.piece for tile in tiles[part]], end))
    return groups


def _tiles(number: int, piece: Segment, at: int) -> list[_Tile]:
    """Return the tiles that a piece has a part in; its first token is token `at` of the pass."""
    tiles = []
    for base in range(piece.start // TILE * TILE, piece.stop, TILE):
        first, last = max(piece.start, base), min(piece.stop, base + TILE)
        tiles.append(_Tile(number, at + first - piece.start, at + last - piece.start, first - base, base + TILE))
    return tiles


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
