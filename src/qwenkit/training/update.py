"""The one stock update: forward, backward and optimizer of a step, for pretraining, SFT and reward models alike.

    update = train_update(model, optimizer, batches, schedule, dtype=torch.bfloat16)
    metrics = update(state, step)          # loss, grad_norm, lr, tokens, ...

`batches(step)` gives the micro-batches of a step. The loss is the objective's sum over all of them divided by their
summed weight. A step without supervised content, or a loss or gradient that is not finite, raises an alarm BEFORE the
optimizer moves; the alarm names rows and documents.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from qwenkit.training.checkpoint import RunState
from qwenkit.training.lm_loss import Objective, lm_objective
from qwenkit.training.lr_schedule import Schedule
from qwenkit.training.optim import OptimizerSet
from qwenkit.training.sentinel import raise_alarm

Metrics = dict[str, float]
Update = Callable[[RunState, int], Metrics]
"""`update(state, step)`: train one step and return its metrics."""


class MicroBatch(Protocol):
    """What the stock update needs of a micro-batch; `training.batches.Batch` is one. All counts lie on the host."""

    @property
    def weight(self) -> float:
        """Return what the batch adds to the divisor of the loss."""
        ...

    @property
    def content(self) -> int | None:
        """Return how much of what is supervised is content (tokens of assistant turns, or pairs), or None where none is
        expected.

        An alarm is raised where the sum over a whole step is zero."""
        ...

    @property
    def tokens(self) -> int:
        """Return the number of tokens read, without padding."""
        ...

    @property
    def fingerprint(self) -> int:
        """Return a number that is equal for equal batches."""
        ...

    def to(self, device: torch.device | str, /) -> Self:
        """Return the batch with its tensors on a device."""
        ...

    def describe(self) -> str:
        """Return where the batch comes from, for an alarm."""
        ...


class Compiled:
    """A model whose `hidden` and `score` are compiled for fixed shapes; everything else is the model's own."""

    def __init__(self, model: nn.Module) -> None:
        """Compile the methods that the model has."""
        self._model = model
        for name in ("hidden", "score"):
            if hasattr(model, name):
                setattr(self, name, torch.compile(getattr(model, name), dynamic=False))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model."""
        return getattr(self._model, name)


def train_update(
    model: nn.Module,
    optimizer: OptimizerSet,
    batches: Callable[[int], Sequence[MicroBatch]],
    schedule: Schedule,
    *,
    objective: Objective = lm_objective,
    max_grad_norm: float = 1.0,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Update:
    """Return the stock update: forward, backward and optimizer of one step.

    `dtype` is autocast's (None: the model's own), `max_grad_norm` bounds the norm of all gradients together (report:
    1.0), `compile` pays for long runs with one shape.

    The metrics of a step: `loss` (the objective's, per unit of weight; nats per supervised token for language models)
    and whatever else the objective sums up, each divided by the step's weight; `grad_norm` before clipping; `lr` of the
    first parameter group; `tokens` read without padding; `supervised`, the step's weight; `batch`, a fingerprint of its
    data. `state.numbers["tokens"]` counts the tokens of the run."""
    device = next(model.parameters()).device
    forward = Compiled(model) if compile else model

    def update(state: RunState, step: int) -> Metrics:
        model.train()
        micro_batches = [batch.to(device) for batch in batches(step)]
        weight = _total_weight(micro_batches)
        sums: dict[str, float] = {}
        for batch in micro_batches:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss, others = objective(forward, batch)
            _add(sums, {"loss": loss.detach(), **others})
            (loss / weight).backward()
        if not math.isfinite(sums["loss"]):
            optimizer.zero_grad()
            raise_alarm("nonfinite-loss", sums["loss"], _describe(micro_batches))
        norm = clip_gradients(optimizer, max_grad_norm, lambda: _describe(micro_batches))
        optimizer.set_factor(schedule(step))
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(batch.tokens for batch in micro_batches)
        state.numbers["tokens"] = state.numbers.get("tokens", 0) + tokens
        return {
            **{name: value / weight for name, value in sums.items()},
            "grad_norm": norm,
            "lr": optimizer.lr,
            "tokens": tokens,
            "supervised": weight,
            "batch": _fingerprint(micro_batches),
        }

    return update


def clip_gradients(optimizer: OptimizerSet, max_grad_norm: float, where: Callable[[], str] = str) -> float:
    """Scale all gradients to a joint norm of at most `max_grad_norm` (Pascanu et al., 2013); return their norm before.

    A norm that is not finite drops the gradients and raises the alarm `nonfinite-gradient`, at the place that `where`
    describes."""
    norm = float(nn.utils.clip_grad_norm_(optimizer.parameters, max_grad_norm))
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise_alarm("nonfinite-gradient", norm, where())
    return norm


def _total_weight(batches: Sequence[MicroBatch]) -> float:
    """Return the weight of a step; raises the alarm `no-content` where there is nothing to learn from."""
    weight = sum(batch.weight for batch in batches)
    content = [batch.content for batch in batches if batch.content is not None]
    if weight <= 0 or (content and not any(content)):
        raise_alarm("no-content", 0, _describe(batches))
    return weight


def _add(sums: dict[str, float], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + float(value)


def _describe(batches: Sequence[MicroBatch]) -> str:
    return "; ".join(batch.describe() for batch in batches)


def _fingerprint(batches: Sequence[MicroBatch]) -> int:
    return zlib.crc32(b"".join(batch.fingerprint.to_bytes(8, "little") for batch in batches))
