"""What training changes in a model: the one answer for optimizers, checkpoints and what is published of an adapter.

    trainable_parameters(model)             # name -> parameter, for an optimizer
    state = trainable_state(model)          # name -> tensor, for a checkpoint
    load_trainable_state(model, state)      # the way back: no name may be missing or unknown

Frozen parameters are not among them: they are those of the folder that the model was loaded from. Parameters that are
tied have one name, the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError, listed


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that take a gradient, by name, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return everything that training changes, by name: the trained parameters, and the persistent buffers (such as
    running statistics) of all modules but those whose parameters are all frozen. The tensors are the model's own."""
    return {**trainable_parameters(model), **dict(_buffers(model))}


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        if getattr(module, "trains_around", False):  # quantized weights below an adapter
            continue
        parameters = list(module.parameters())
        if not parameters or any(parameter.requires_grad for parameter in parameters):
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                    yield name, buffer


@torch.no_grad()
def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor], what: str = "the model") -> None:
    """Copy a saved state into the model; raises a `UserError` for a missing or unknown name and another shape, before
    anything is copied. `what` names the model in the message."""
    own = trainable_state(model)
    refuse_other_names(state, own, what)
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"`{name}` of {what} is saved as {list(state[name].shape)}", expected=str(list(tensor.shape))
            )
    for name, tensor in own.items():
        tensor.copy_(state[name])


def refuse_other_names(saved: Iterable[str], trained: Iterable[str], what: str) -> None:
    """Raise a `UserError` where saved and trained names differ."""
    saved_names, trained_names = set(saved), set(trained)
    missing = [name for name in trained if name not in saved_names]
    unknown = [name for name in saved if name not in trained_names]
    hint = "train the same parameters as before, or remove the checkpoints"
    if missing:
        raise UserError(f"nothing is saved for {listed(missing)} of {what}", hint=hint)
    if unknown:
        raise UserError(f"{listed(unknown)} is saved, but not trained in {what}", hint=hint)
