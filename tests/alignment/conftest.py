"""Toy models of this room's tests."""

from collections.abc import Callable

import pytest

from qwenkit.model import ModelConfig, ScalarModel, Transformer, init_weights

VOCAB, IM_END = 24, 23


def toy(seed: int = 0, std: float = 0.2, layers: int = 2) -> Transformer:
    """A policy small enough to learn in seconds."""
    config = ModelConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
                         num_attention_heads=2, initializer_range=std, eos_token_id=IM_END)  # fmt: skip
    return init_weights(Transformer(config), seed).eval()


@pytest.fixture
def make_policy() -> Callable[..., Transformer]:
    return toy


@pytest.fixture
def make_scalar() -> Callable[..., ScalarModel]:
    return lambda seed=0, **given: ScalarModel(toy(seed, **given), seed).eval()
