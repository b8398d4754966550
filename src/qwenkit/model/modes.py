"""Train and eval mode of modules.

    with evaluating(model): ...

Eval mode switches dropout off; the mode that the model had is restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode (no dropout) inside the `with` block; restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def set_activation_checkpointing(model: nn.Module, mode: str) -> None:
    """Keep all activations of a forward pass with gradients (`none`), or compute each block anew in the backward pass
    (`full`)."""
    for module in model.modules():
        if "activation_checkpointing" in vars(module):
            vars(module)["activation_checkpointing"] = mode == "full"
