"""First weights (report §1.3: normal, std 0.02; residual projections scaled down by the depth).

    model = init_weights(Transformer(config), seed=0)
    with without_weights():
        model = Transformer(config)      # on the meta device, for weights from a file

Every tensor draws from its own generator, seeded by (seed, its name): adding a tensor changes no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qwenkit.model.config import ModelConfig
from qwenkit.rng import derive_seed

Module = TypeVar("Module", bound=nn.Module)
_RESIDUAL = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def init_weights(model: Module, seed: int, std: float | None = None) -> Module:
    """Fill every parameter in place and return the model.

    | tensor                                             | value                                |
    | -------------------------------------------------- | ------------------------------------ |
    | embed_tokens.weight, lm_head.weight                | normal(0, std)                       |
    | q_proj, k_proj, v_proj, gate_proj, up_proj .weight | normal(0, std)                       |
    | gate.weight, shared_expert_gate.weight (experts)   | normal(0, std)                       |
    | o_proj.weight, down_proj.weight                    | normal(0, std / sqrt(2 * layers))    |
    | q_proj, k_proj, v_proj .bias                       | 0                                    |
    | every norm's weight                                | 1                                    |
    | score_head.weight of a scalar model                | normal(0, std)                       |

    `std` is the configuration's `initializer_range` unless given. The two residual projections of each layer add to
    one stream, so scaling them keeps its variance the same for any depth.
    """
    config: ModelConfig | None = getattr(model, "config", None)
    if std is None:
        std = 0.02 if config is None else config.initializer_range
    depth = 1 if config is None else config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.zero_()
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            scale = (2 * depth) ** -0.5 if name.endswith(_RESIDUAL) else 1.0
            generator = torch.Generator().manual_seed(derive_seed(seed, "init", name))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (std * scale))
    return model


@contextmanager
def without_weights() -> Iterator[None]:
    """Make modules on the meta device inside the `with` block: shapes, and no numbers."""
    with torch.device("meta"), _NoFilling():
        yield


class _NoFilling(TorchFunctionMode):
    """Skip `torch.nn.init`. To draw numbers on the meta device torch would import its compiler: 3 s and 100 MB."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or return the tensor that it would fill."""
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
