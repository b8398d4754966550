"""The one stock update: forward, backward and optimizer of a step, for pretraining, SFT and reward models alike.

    update = train_update(model, optimizer, batches, schedule, dtype=torch.bfloat16)
    metrics = update(state, step)          # loss, grad_norm, lr, tokens, ...

`batches(step)` gives the micro-batches of a step with the numbers of the whole step (`step_batch`). The loss is the
objective's sum over all of them divided by the step's weight. A step without supervised content, or a loss or gradient
that is not finite, raises an alarm BEFORE the optimizer moves; the alarm names rows and documents. The host reads from
the device once a step, when loss and gradient norm are known (`step_sums`); only a mixture of experts asks besides, in
each layer, which experts were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from qwenkit.training.checkpoint import RunState
from qwenkit.training.data_parallel import guarded, sum_gradients
from qwenkit.training.lm_loss import Objective, lm_objective
from qwenkit.training.lr_schedule import Schedule
from qwenkit.training.optim import OptimizerSet
from qwenkit.training.sentinel import raise_alarm
from qwenkit.training.step_batch import MicroBatch, StepBatch, StepBatches
from qwenkit.training.step_sums import StepSums
from qwenkit.training.world import ALONE, World, together

Metrics = dict[str, float]
Update = Callable[[RunState, int], Metrics]
"""`update(state, step)`: train one step and return its metrics.

All processes of a world run it at once. It may exchange, so what can fail in one process alone is `together`'s, between
the exchanges. The loop passes on only an alarm of one process, which is raised after its last exchange."""

T = TypeVar("T")


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
    batches: StepBatches[MicroBatch],
    schedule: Schedule,
    *,
    objective: Objective = lm_objective,
    max_grad_norm: float = 1.0,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    world: World = ALONE,
) -> Update:
    """Return the stock update: forward, backward and optimizer of one step.

    In a `world` of several processes each has its own micro-batches; gradients and metrics are summed over all, and an
    alarm or an error of one is raised in each.

    `dtype` is autocast's (None: the model's own), `max_grad_norm` bounds the norm of all gradients together (report:
    1.0), `compile` pays for long runs with one shape.

    The metrics of a step: `loss` (the objective's, per unit of weight; nats per supervised token for language models)
    and whatever else the objective sums up, each divided by the step's weight; `grad_norm` before clipping; `lr` of the
    first parameter group; `tokens` read without padding; `supervised`, the step's weight; `batch`, a fingerprint of its
    data."""
    device = next(model.parameters()).device
    forward = Compiled(model) if compile else model

    def guard(work: Callable[[], T]) -> T:
        return guarded(world, [model], work)

    def backward(batch: StepBatch[MicroBatch]) -> StepSums:
        """Add the gradients of this process's micro-batches."""
        sums = StepSums(device)
        for micro_batch in batch.micro_batches:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss, others = objective(forward, micro_batch.to(device))
            sums.add({"loss": loss, **others})
            (loss / batch.weight).backward()
        return sums

    def move(step: int, norm: float) -> None:
        """Take the step of the optimizer along gradients of this joint norm."""
        scale_gradients(optimizer, norm, max_grad_norm)
        optimizer.set_factor(schedule(step))
        optimizer.step()
        optimizer.zero_grad()

    def update(state: RunState, step: int) -> Metrics:
        model.train()
        batch = together(world, lambda: batches(step))
        if not batch.learns:
            raise_alarm("no-content", 0, describe_all(world, batch))
        sums = guard(lambda: backward(batch))
        sum_gradients(world, optimizer.parameters)
        values = sums.read(world, {"grad_norm": guard(lambda: gradient_norm(optimizer))})
        if not all(map(math.isfinite, (values["loss"], values["grad_norm"]))):
            optimizer.zero_grad()
            _raise_nonfinite(world, values, sums, batch)
        norm = values.pop("grad_norm")
        guard(lambda: move(step, norm))
        return {
            **{name: value / batch.weight for name, value in values.items()},
            "grad_norm": norm,
            "lr": optimizer.lr,
            "tokens": batch.tokens,
            "supervised": batch.weight,
            "batch": batch.fingerprint,
        }

    return update


def gradient_norm(optimizer: OptimizerSet) -> Tensor:
    """Return the norm of all gradients together, a scalar on the device."""
    return get_total_norm(param.grad for param in optimizer.parameters if param.grad is not None)


def scale_gradients(optimizer: OptimizerSet, norm: float, max_grad_norm: float) -> None:
    """Scale all gradients, whose joint norm is `norm`, to one of at most `max_grad_norm` (Pascanu et al., 2013).

    Gradients that are clearly shorter already are not read again: the factor would be 1."""
    if norm > 0.999 * max_grad_norm:
        clip_grads_with_norm_(optimizer.parameters, max_grad_norm, torch.tensor(norm))


def clip_gradients(optimizer: OptimizerSet, max_grad_norm: float, where: Callable[[], str] = str) -> float:
    """Scale all gradients to a joint norm of at most `max_grad_norm`; return their norm before.

    A norm that is not finite drops the gradients and raises the alarm `nonfinite-gradient`, at the place that `where`
    describes."""
    norm = float(gradient_norm(optimizer))
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise_alarm("nonfinite-gradient", norm, where())
    scale_gradients(optimizer, norm, max_grad_norm)
    return norm


def describe_all(world: World, batch: StepBatch[MicroBatch], at_fault: bool = True) -> str:
    """Return where the data of a step comes from, for an alarm: that of the processes at fault, or of all where none
    knows itself to be. Every process of the world calls this."""
    places = world.gather((at_fault, together(world, batch.describe)))
    if world.size == 1:
        return places[0][1]
    some = any(at_fault for at_fault, _ in places)
    return "; ".join(f"rank {rank}: {place}" for rank, (fault, place) in enumerate(places) if fault or not some)


def _raise_nonfinite(world: World, values: Metrics, sums: StepSums, batch: StepBatch[MicroBatch]) -> NoReturn:
    """Raise the alarm of a loss that is not finite, where the data of its own processes is named, or of a gradient."""
    if not math.isfinite(values["loss"]):
        at_fault = not math.isfinite(sums.read_own("loss"))
        raise_alarm("nonfinite-loss", values["loss"], describe_all(world, batch, at_fault))
    raise_alarm("nonfinite-gradient", values["grad_norm"], describe_all(world, batch))
