"""Optimizers: AdamW as in the report (§2.4: betas 0.9 and 0.95, eps 1e-8), and Muon for the matrices of small models.

    optimizer = build_optimizer(model, "adamw", lr=3e-4)
    optimizer = build_optimizer(model, "muon", lr=0.02, other_lr=3e-3)    # AdamW for embeddings, head, norms, biases
    optimizer.set_factor(schedule(step)); optimizer.step(); optimizer.zero_grad()

Weight decay (0.1) is on the matrices of linear layers only; the report does not say more. AdamW is Loshchilov and
Hutter, 2019. Muon (Jordan et al., 2024) is our addition: its orthogonalized steps learn faster on a small budget. It
stacks matrices of one shape and runs Newton-Schulz on the
stack, since one call per matrix costs more than the arithmetic.

Legend: S stacked matrices, N rows, M columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qwenkit.errors import UserError, listed, nearest
from qwenkit.model.lora import adapter_parameters
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.trainable import refuse_other_names, trainable_parameters
from qwenkit.training.adamw8bit import AdamW8bit

OPTIMIZERS = ("adamw", "muon")
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic (Jordan, 2024): all singular values to about [0.7, 1.2] in 5 steps


def orthogonalize(g_SNM: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return roughly the nearest (semi-)orthogonal matrices [S, N, M]: U V^T for each U diag(s) V^T.

    This is the Newton-Schulz iteration of Muon (Jordan et al., 2024) on a stack of matrices, along their short side, in
    the given `dtype`."""
    tall = g_SNM.shape[-2] > g_SNM.shape[-1]
    x = (g_SNM.mT if tall else g_SNM).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(g_SNM.dtype)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024): Nesterov momentum, orthogonalized; for matrices only.

    Steps are scaled by sqrt(max(1, rows / columns)), weight decay is decoupled (Loshchilov and Hutter, 2019), and
    `dtype` is that of Newton-Schulz."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Create the optimizer of some matrices [N, M], with their names or without; `lr` is the learning rate per
        step."""
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; matrices of one shape are orthogonalized as a stack."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for params in by_shape.values():
                self._step_stack(params, group)

    def _step_stack(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [param.grad for param in params if param.grad is not None]
        momenta = [self._momentum(param) for param in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        steps_SNM = torch.stack(grads).lerp_(torch.stack(momenta), group["momentum"])
        steps_SNM = orthogonalize(steps_SNM, dtype=self.dtype)
        scale = max(1.0, params[0].shape[0] / params[0].shape[1]) ** 0.5
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(steps_SNM.unbind()), alpha=-group["lr"] * scale)

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        return state["momentum"]


class OptimizerSet:
    """Several optimizers that step as one; their peak learning rates are scaled by one schedule factor."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Take over the optimizers, whose present learning rates are the peaks. They were given their parameters with
        names, as `build_optimizer` does."""
        self.optimizers = optimizers
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    @property
    def names(self) -> list[list[list[str]]]:
        """Return the names of the parameters, by optimizer and group."""
        return [[list(group["param_names"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    @property
    def parameters(self) -> list[Tensor]:
        """Return all parameters that are trained."""
        return [param for opt in self.optimizers for group in opt.param_groups for param in group["params"]]

    @property
    def lr(self) -> float:
        """Return the learning rate of the first group, for the log."""
        return self.optimizers[0].param_groups[0]["lr"]

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to `factor` times its peak."""
        for optimizer, peaks in zip(self.optimizers, self._peaks):
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = peak * factor

    def step(self) -> None:
        """Step each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return `groups` (of each its kind, the names of its parameters, and its settings) and `state`, by name."""
        groups: list[dict[str, Any]] = []
        states: dict[str, Any] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
                groups.append({"kind": _kind(optimizer), "names": list(group["param_names"]), **settings})
                states |= {
                    name: dict(optimizer.state.get(param, {}))
                    for name, param in zip(group["param_names"], group["params"], strict=True)
                }
        return {"groups": groups, "state": states}

    def load_state_dict(self, state: dict[str, Any], what: str = "the optimizer") -> None:
        """Load what `state_dict` returned, whatever the order of parameters and groups was.

        Raises a `UserError` for a missing or unknown name, for a parameter that was in another group, and for the state
        of another kind of optimizer; `what` names this one in the message."""
        names = [name for optimizer in self.names for group in optimizer for name in group]
        refuse_other_names([name for group in state["groups"] for name in group["names"]], names, what)
        refuse_other_names(state["state"], names, what)
        for optimizer in self.optimizers:
            groups = [_saved_group(state, optimizer, group["param_names"], what) for group in optimizer.param_groups]
            positions = itertools.count()
            for group in groups:
                group["params"] = list(itertools.islice(positions, len(group["param_names"])))
            states = (state["state"][name] for group in groups for name in group["param_names"])
            by_position = {position: each for position, each in enumerate(states) if each}
            optimizer.load_state_dict({"state": by_position, "param_groups": groups})


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__.lower()


def _saved_group(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, names: list[str], what: str
) -> dict[str, Any]:
    """Return the settings of the saved group with these parameters, and their names in the order of this optimizer."""
    saved = next(group for group in state["groups"] if names[0] in group["names"])
    if saved["kind"] != _kind(optimizer):
        raise UserError(
            f"{what} is {_kind(optimizer)} for `{names[0]}`, the saved one {saved['kind']}",
            hint="train with the same optimizer as before, or remove the checkpoints",
        )
    if set(saved["names"]) != set(names):
        odd = sorted(set(saved["names"]) ^ set(names))
        raise UserError(
            f"{listed(odd)} of {what} is saved in another group than now",
            hint="train with the same groups as before, or remove the checkpoints",
        )
    return {**{key: value for key, value in saved.items() if key not in ("kind", "names")}, "param_names": names}


Parameters = dict[str, nn.Parameter]
"""Parameters by their names in a model."""


def split_parameters(model: nn.Module) -> tuple[Parameters, Parameters, Parameters]:
    """Return (matrices of linear layers, embeddings and heads, vectors): every trained parameter is in exactly one
    of them, but for those of adapters (`model.lora.adapter_parameters`).

    A head is a linear layer whose name ends with `head`; with tied weights the table counts as an embedding."""
    tables: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and name.endswith("head")):
            tables.update(id(param) for param in module.parameters() if param.ndim > 1)
    adapters = adapter_parameters(model)
    trained = [(name, param) for name, param in trainable_parameters(model).items() if name not in adapters]
    matrices = {name: param for name, param in trained if param.ndim > 1 and id(param) not in tables}
    embeddings = {name: param for name, param in trained if id(param) in tables}
    vectors = {name: param for name, param in trained if param.ndim <= 1}
    grouped = len(matrices) + len(embeddings) + len(vectors)
    assert len(trained) == grouped, f"groups hold {grouped} parameters, the model trains {len(trained)}"
    return matrices, embeddings, vectors


def build_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    other_lr: float | None = None,
    weight_decay: float = WEIGHT_DECAY,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    muon_dtype: torch.dtype = torch.float32,
    moments: str = "float32",
) -> OptimizerSet:
    """Return AdamW (Kingma and Ba, 2015; decoupled weight decay: Loshchilov and Hutter, 2019) or Muon over all trained
    parameters.

    `lr` is the peak learning rate, `other_lr` (by default `lr`) that of everything but the linear layers. What an
    adapter trains is always AdamW's, at `lr_scale` times that of embeddings. With `moments` of "int8" AdamW keeps its
    moments in 8 bits (`adamw8bit`). Raises a `UserError` for other names."""
    if name not in OPTIMIZERS:
        raise UserError(f"no optimizer is called {name}", expected="adamw, muon", nearest=nearest(name, OPTIMIZERS))
    matrices, embeddings, vectors = split_parameters(model)
    others = [*embeddings.items(), *vectors.items()]
    rest = [{"params": others, "lr": lr if other_lr is None else other_lr, "weight_decay": 0.0}]
    decayed = [{"params": list(matrices.items()), "lr": lr, "weight_decay": weight_decay}]
    optimizers: list[torch.optim.Optimizer] = []
    if name == "muon" and matrices:
        optimizers.append(Muon(matrices.items(), lr=lr, weight_decay=weight_decay, dtype=muon_dtype))
    groups = [group for group in (decayed if name == "adamw" else []) + rest if group["params"]]
    groups = _adapter_groups(model, lr if other_lr is None else other_lr, weight_decay) + groups
    if groups:
        if moments == "int8":
            optimizers.append(AdamW8bit(groups, betas=betas, eps=eps))
        else:
            optimizers.append(torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True))
    return OptimizerSet(optimizers)


def _adapter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of what an adapter trains, first, so that their learning rate is the one that is logged: A and
    B, and DoRA's norms, which do not decay."""
    config, parameters = getattr(model, "adapter", None), adapter_parameters(model)
    if not isinstance(config, LoRAConfig):
        return []
    decays = {True: weight_decay, False: 0.0}
    parts = {kind: [item for item in parameters.items() if (item[1].ndim > 1) is kind] for kind in decays}
    return [{"params": parts[kind], "lr": lr * config.lr_scale, "weight_decay": decays[kind]}
            for kind in decays if parts[kind]]  # fmt: skip
