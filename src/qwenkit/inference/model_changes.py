"""Whether new weights, or a new configuration, fit the model of a running engine.

Every function raises a `UserError` before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference.argument_checks import shown
from qwenkit.model import ModelConfig, Transformer
from qwenkit.model.trainable import trainable_state

CHANGEABLE = {"rope_theta", "yarn", "extension", "windows", "max_position_embeddings", "initializer_range", "dropout",
              "bos_token_id", "model_type"}  # fmt: skip
"""Settings that no tensor, no module and nothing of the engine was made with."""


def check_config(config: ModelConfig, current: ModelConfig) -> None:
    """Refuse a configuration that changes what the weights, or the cache, were made with."""
    if not isinstance(config, ModelConfig):
        raise UserError(f"{shown(config)}", where="new configuration", expected="a ModelConfig")
    for field in fields(ModelConfig):
        value, old = getattr(config, field.name), getattr(current, field.name)
        if field.name not in CHANGEABLE and value != old:
            raise UserError(f"{field.name} = {shown(value)}", where="new configuration",
                            expected=f"{shown(old)}, as the model was made")  # fmt: skip


def without_tied_head(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Drop the head that Hugging Face's state of a model with tied embeddings has as a copy of the embedding."""
    rest, head = {**state}, state.get("lm_head.weight")
    table = rest.get("model.embed_tokens.weight")
    if head is None or table is None or not torch.equal(head, table):
        return state
    del rest["lm_head.weight"]
    return rest


def check_state(state: Mapping[str, Tensor], model: Transformer) -> None:
    """Raise a `UserError` for weights that do not fit, before the first one is taken over: neither all tensors of the
    model nor, without a frozen one among them, those that are trained in it."""
    current, trained = model.state_dict(), trainable_state(model)
    whole = any(name in current and name not in trained for name in state) or not trained
    shapes, expected = (
        {name: tensor.shape for name, tensor in tensors.items()} for tensors in (state, current if whole else trained)
    )
    if wrong := sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name)):
        raise UserError(f"tensors that do not fit the model: {', '.join(wrong[:3])}",
                        expected="every tensor of the model, in its shape")  # fmt: skip
