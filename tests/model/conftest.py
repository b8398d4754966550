"""Tiny random models, one for every shape that the family can take."""

from __future__ import annotations

import pytest

from qwenkit.model import ModelConfig

SHAPES = {
    "mha-untied": {},
    "gqa-tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mqa": {"num_key_value_heads": 1, "rope_theta": 500000.0},
    "wide-heads": {"head_dim": 24, "num_key_value_heads": 2},
    "no-bias": {"qkv_bias": False},
}


def tiny(**changes: object) -> ModelConfig:
    """Two layers of width 32."""
    shape: dict[str, object] = dict(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
                                    num_attention_heads=4, max_position_embeddings=256)  # fmt: skip
    return ModelConfig(**{**shape, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=SHAPES, name="config")
def _config(request: pytest.FixtureRequest) -> ModelConfig:
    return tiny(**SHAPES[request.param])
