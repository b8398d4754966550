"""Keys and values in blocks: any table, any cut, any kind of cache; and what the memory of it is."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwenkit.inference import paged_cache
from qwenkit.inference.block_pool import BLOCK
from qwenkit.inference.kv_quantization import KV_CACHE_DTYPES, token_bytes
from qwenkit.inference.paged_cache import TILE, PagedCache, Segment
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension, Yarn
from qwenkit.platform import resident_mb

from .conftest import SHAPE, make_prompts

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]
EXTENSION = ContextExtension(seq_length=16, dynamic_ntk=True, logn=True)
CONFIGS = {
    "plain": CONFIG,
    "windows": replace(CONFIG, windows=(8, None)),
    "extended": replace(CONFIG, extension=EXTENSION, windows=(None, 70)),
    "yarn": replace(CONFIG, yarn=Yarn(factor=4.0, original_max_position_embeddings=32)),
    "no groups": replace(CONFIG, num_key_value_heads=4),
}


def make(config: ModelConfig) -> Transformer:
    return init_weights(Transformer(config), seed=0, std=0.3).eval()


@torch.inference_mode()
def read(model: Transformer, cache: PagedCache, parts: list[tuple[list[int], Segment]]) -> list[Tensor]:
    """The states [T, D] of some pieces, whose whole texts are given, in one pass filled up to a multiple of 16."""
    flat = [id for ids, segment in parts for id in ids[segment.start : segment.stop]]
    ids_1N = torch.tensor([[*flat, *[0] * (-len(flat) % 16)]])
    h_ND = model.hidden(ids_1N, cache.forward([], [segment for _, segment in parts]))[0]
    return list(h_ND[: len(flat)].split([segment.length for _, segment in parts]))


@pytest.mark.parametrize("kind", ["auto", "int8_per_token_head"])
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_do_not_depend_on_cuts_tables_or_company(name: str, kind: str) -> None:
    """Every state of three texts, read whole and alone, and in pieces of any size beside each other."""
    model, draw = make(CONFIGS[name]), random.Random(7)
    texts = [[(7 * i + n) % 256 for i in range(length)] for n, length in enumerate((150, 64, 33))]
    wanted = []
    for ids in texts:
        cache = PagedCache(model.config, 10, torch.float32, "cpu", kind)
        wanted.append(read(model, cache, [(ids, Segment(list(range(1, 11)), 0, len(ids), len(ids)))])[0])
    for _ in range(4):
        cache = PagedCache(model.config, 30, torch.float32, "cpu", kind)
        blocks = draw.sample(range(1, 31), 30)
        tables = [blocks[:10], blocks[10:20], blocks[20:]]
        found: list[list[Tensor]] = [[], [], []]
        starts = [0, 0, 0]
        while any(start < len(ids) for start, ids in zip(starts, texts)):
            parts, whose = [], []
            for n, ids in enumerate(texts):
                stop = min(len(ids), starts[n] + draw.choice((0, 1, 5, 16, 40, 64, 100)))
                if stop > starts[n]:
                    parts.append((ids, Segment(tables[n], starts[n], stop, len(ids))))
                    whose.append(n)
                    starts[n] = stop
            for n, h_TD in zip(whose, read(model, cache, parts) if parts else ()):
                found[n].append(h_TD)
        for states, h_TD in zip(found, wanted):
            assert torch.equal(torch.cat(states), h_TD)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_attention_of_the_whole_text(name: str) -> None:
    model, ids = make(CONFIGS[name]), [(5 * i) % 256 for i in range(100)]
    cache = PagedCache(model.config, 7, torch.float32, "cpu")
    (h_TD,) = read(model, cache, [(ids, Segment([3, 7, 1, 2, 6, 5, 4], 0, 100, 100))])
    with torch.no_grad():
        assert torch.allclose(h_TD, model.hidden(torch.tensor([ids]))[0], atol=1e-5)


def test_8_bits_a_token_are_near() -> None:
    """Rounded to 1/254 of the largest value of a token and head."""
    store = KV_CACHE_DTYPES["int8_per_token_head"]((2, 32, 8), torch.float32, torch.device("cpu"))
    x_GND = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    found_GND = store.decode([part[None] for part in store.encode(x_GND, [5])])[0]
    assert ((found_GND - x_GND).abs() <= x_GND.abs().amax(-1, keepdim=True) / 254 * (1 + 1e-5)).all()
    x_GND[1, 3, 2] = float("nan")
    assert store.decode([part[None] for part in store.encode(x_GND, [5])])[0][1, 3].isnan().all()


def test_bytes_of_a_token() -> None:
    sizes = {kind: token_bytes(kind, 2, 64, 24, torch.bfloat16) for kind in KV_CACHE_DTYPES}
    assert sizes == {"auto": 12288, "int8": 6144 + 2 * 24 * 2 * 4, "int8_per_token_head": 6144 + 2 * 24 * 2 * 2}


def test_memory_follows_what_is_written() -> None:
    """4 GB of places take nothing until they are used."""
    config = replace(CONFIG, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, head_dim=128)
    before = resident_mb()
    cache = PagedCache(config, 2**19 // BLOCK, torch.float32, "cpu")
    assert cache.keys[0].tensors[0].nbytes > 2 * 10**9
    model, ids = make(config), make_prompts(1, longest=200)[0]
    read(model, cache, [(ids, Segment(list(range(1, 14)), 0, len(ids), len(ids)))])
    assert resident_mb() - before < 300


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("name", ["plain", "windows", "no groups"])
def test_what_is_gathered_is_bounded(name: str, prompts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty answers (or ends of prompts) behind one beginning of 480 tokens: one gather would be of 40 * 512 keys; in
    slices of four the bits are the same."""
    config, length = CONFIGS[name], 500
    shared, slot_bytes = 480, 2 * config.kv_heads * config.head_size * 4
    draw = torch.Generator().manual_seed(0)
    cache = PagedCache(config, 30 + 40 * 2, torch.float32, "cpu")
    for store in (*cache.keys, *cache.values):
        store.tensors[0].normal_(generator=draw)
    tables = [[*range(1, 31), 31 + 2 * row, 32 + 2 * row] for row in range(40)]
    segments = [Segment(table, length - 1, length, length if prompts else shared) for table in tables]
    q_1HND = torch.randn(1, config.num_attention_heads, 40, config.head_size, generator=draw)
    kv_1GND = torch.randn(2, 1, config.kv_heads, 40, config.head_size, generator=draw)
    results, largest = [], []
    for most in (2**30, 4 * 512 * slot_bytes):
        monkeypatch.setattr(paged_cache, "GATHER_BYTES", most)
        tokens = cache.forward([], segments) if prompts else cache.forward(segments, [])
        with torch.inference_mode(), Largest() as seen:
            results.append([tokens.attend(layer, q_1HND, *kv_1GND, config.window(layer)) for layer in range(2)])
        largest.append(seen.bytes)
    assert all(map(torch.equal, *results))
    groups = config.num_attention_heads // config.kv_heads  # torch may repeat the heads of a group
    assert largest[0] >= 40 * 512 * slot_bytes // 2, "keys and values are two tensors"
    assert largest[1] <= 4 * 512 * slot_bytes // 2 * groups


def test_cleared_blocks_are_zero_and_their_neighbours_stay() -> None:
    cache = PagedCache(CONFIG, 4, torch.float32, "cpu")
    for store in (*cache.keys, *cache.values):
        store.tensors[0].fill_(float("nan"))
    cache.clear_blocks([2, 3])
    for store in (*cache.keys, *cache.values):
        nan_S = store.tensors[0].isnan().all(-1).all(0)
        assert nan_S.tolist() == [True] * 2 * BLOCK + [False] * 2 * BLOCK + [True] * BLOCK
    assert TILE % BLOCK == 0
