"""Small models of every shape, a paged cache with shuffled blocks, and how to read sequences with a decoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from qwenkit.inference.native import NativeDecoder
from qwenkit.inference.native.build import Unavailable
from qwenkit.inference.native.library import library
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.model.config import ContextExtension, Yarn
from qwenkit.model.quantized_linear import QuantConfig

SHAPE: dict[str, Any] = dict(vocab_size=96, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
                             num_attention_heads=4, max_position_embeddings=1024)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen1": {"extension": ContextExtension(seq_length=16, dynamic_ntk=True, logn=True), "windows": (24, None)},
    "logn": {"extension": ContextExtension(seq_length=16, logn=True)},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2-odd": {"num_key_value_heads": 1, "num_attention_heads": 7, "head_dim": 10, "hidden_size": 70,
                  "intermediate_size": 51},
    "yarn": {"yarn": Yarn(factor=4.0, original_max_position_embeddings=64)},
    "qwen3": {"qkv_bias": False, "qk_norm": True, "head_dim": 24, "num_key_value_heads": 2},
    "windows": {"num_key_value_heads": 2, "head_dim": 64, "windows": (17, 300)},
}  # fmt: skip
SCHEMES = [QuantConfig(4, 32), QuantConfig(4, -1), QuantConfig(8, 64), QuantConfig(8, -1)]


def compiles() -> bool:
    try:
        library()
    except Unavailable:
        return False
    return True


needs_compiler = pytest.mark.skipif(not compiles(), reason="no C++ compiler here")


def make(family: str = "qwen2", **changes: Any) -> Transformer:
    config = ModelConfig(**{**SHAPE, **FAMILIES[family], **changes})
    return init_weights(Transformer(config), seed=1, std=0.15).eval()


def random_ids(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed))


@dataclass
class Pages:
    """A decoder over a cache of its own; blocks are given out in a shuffled order."""

    model: Transformer
    dtype: torch.dtype | None = None
    blocks: int = 128
    threads: int = 1
    free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.model.config
        shape = (config.kv_heads, self.blocks * 16, config.head_size)
        dtype = self.dtype or self.model.model.embed_tokens.weight.dtype
        self.keys = [torch.full(shape, float("nan"), dtype=dtype) for _ in range(config.num_hidden_layers)]
        self.values = [tensor.clone() for tensor in self.keys]  # what nobody wrote must not be read
        self.free = random.Random(0).sample(range(self.blocks), self.blocks)
        self.decoder = NativeDecoder(self.model, self.keys, self.values, self.threads)

    def table(self, tokens: int) -> list[int]:
        return [self.free.pop() for _ in range(-(-tokens // 16))]

    def read(self, ids_T: Tensor, pieces: Sequence[int], table: list[int] | None = None, **given: Any) -> Tensor:
        """The logits [T, V] of one sequence that is read in pieces of these sizes."""
        table_1n = torch.tensor([self.table(len(ids_T)) if table is None else table])
        positions_T, parts = torch.arange(len(ids_T)), []
        lengths_T = torch.full((len(ids_T),), len(ids_T))
        for part in torch.arange(len(ids_T)).split(list(pieces)):
            first = torch.zeros(len(part))
            parts.append(self.decoder.step(ids_T[part], positions_T[part], table_1n, sequences_N=first,
                                           lengths_N=lengths_T[part], **given))  # fmt: skip
        return torch.cat(parts)


def bound(model: Transformer) -> float:
    """How far float32 logits may be from exact ones, as share of the largest: each of the products in a row rounds at
    most once for each of its inputs."""
    config = model.config
    widest = max(config.hidden_size, config.intermediate_size)
    return (7 * config.num_hidden_layers + 1) * widest * 2.0**-24
