"""The one stock update: forward, backward and optimizer of a step, for pretraining, SFT and reward models alike.

    update = lm_update(model, optimizer, batches, schedule, dtype=torch.bfloat16)
    metrics = update(state, step)          # loss, grad_norm, lr, tokens, ...

`batches(step)` gives the micro-batches of a step; each is anything like `MicroBatch`. The loss is the objective's sum
over all of them divided by their summed weight. A step without supervised content, a loss or a gradient that is not
finite: the update raises BEFORE the optimizer moves, and the alarm names rows and documents.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qwenkit.training.batches import on_device
from qwenkit.training.checkpoint import RunState
from qwenkit.training.lm_loss import Objective, lm_objective
from qwenkit.training.lr_schedule import Schedule
from qwenkit.training.optim import OptimizerSet
from qwenkit.training.sentinel import raise_alarm

Metrics = dict[str, float]
Update = Callable[[RunState, int], Metrics]


class MicroBatch(Protocol):
    """What the stock update asks of a micro-batch; `training.batches.Batch` is one."""

    @property
    def weight(self) -> float:
        """What it adds to the divisor of the loss."""
        ...

    @property
    def content(self) -> int | None:
        """How much of what is learnt is content, None where none is expected; zero in a whole step raises an alarm."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens read."""
        ...

    @property
    def fingerprint(self) -> int:
        """Equal for equal batches."""
        ...

    def describe(self) -> str:
        """Where it comes from, for an alarm."""
        ...


class Compiled:
    """A model whose `hidden` and `score` are compiled for fixed shapes; everything else is the model's own."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        for name in ("hidden", "score"):
            if hasattr(model, name):
                setattr(self, name, torch.compile(getattr(model, name), dynamic=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def lm_update(
    model: nn.Module,
    optimizer: OptimizerSet,
    batches: Callable[[int], Sequence[Any]],
    schedule: Schedule,
    *,
    objective: Objective = lm_objective,
    max_grad_norm: float = 1.0,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Update:
    """The stock update. `dtype` is autocast's (None: the model's own), `max_grad_norm` bounds the norm of all gradients
    together (report: 1.0). `compile` pays for long runs of one shape; a micro-batch may have a `to(device)`, and then
    it is called."""
    device = next(model.parameters()).device
    forward = Compiled(model) if compile else model

    def update(state: RunState, step: int) -> Metrics:
        model.train()
        micro = [on_device(batch, device) for batch in batches(step)]
        weight = _supervised(micro)
        sums: dict[str, float] = {}
        for batch in micro:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss, others = objective(forward, batch)
            _add(sums, {"loss": loss.detach(), **others})
            (loss / weight).backward()
        if not math.isfinite(sums["loss"]):
            optimizer.zero_grad()
            raise_alarm("nonfinite-loss", sums["loss"], _where(micro))
        norm = clip_gradients(optimizer, max_grad_norm, lambda: _where(micro))
        optimizer.set_factor(schedule(step))
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(batch.tokens for batch in micro)
        state.numbers["tokens"] = state.numbers.get("tokens", 0) + tokens
        return {
            **{name: value / weight for name, value in sums.items()},
            "grad_norm": norm,
            "lr": optimizer.lr,
            "tokens": tokens,
            "supervised": weight,
            "batch": _fingerprint(micro),
        }

    return update


def clip_gradients(optimizer: OptimizerSet, max_grad_norm: float, where: Callable[[], str] = str) -> float:
    """Scale gradients to a norm of at most `max_grad_norm`, and return their norm before; one that is not
    finite raises an alarm."""
    norm = float(nn.utils.clip_grad_norm_(optimizer.parameters, max_grad_norm))
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise_alarm("nonfinite-gradient", norm, where())
    return norm


def _supervised(micro: Sequence[MicroBatch]) -> float:
    weight = sum(batch.weight for batch in micro)
    expected = [batch.content for batch in micro if batch.content is not None]
    if weight <= 0 or (expected and not any(expected)):
        raise_alarm("no-content", 0, _where(micro))
    return weight


def _add(sums: dict[str, float], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + float(value)


def _where(micro: Sequence[MicroBatch]) -> str:
    return "; ".join(batch.describe() for batch in micro)


def _fingerprint(micro: Sequence[MicroBatch]) -> int:
    return zlib.crc32(b"".join(batch.fingerprint.to_bytes(8, "little") for batch in micro))
