"""The stock training: optimizer, schedule, update and loop put together from one set of settings.

    last = train(settings, model, batches, steps, device="cpu", log=log, folder=folder, progress=progress, seed=1)
    training = train_packed(settings, model, dataset, order, steps, validation, device="cpu", ...)

`train` takes any batches; `train_packed` is for packed rows of tokens, as in pretraining and supervised fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qwenkit import platform
from qwenkit.events import Log
from qwenkit.training.settings import TrainingSettings, rows_per_pass
from qwenkit.training.world import ALONE, World

if TYPE_CHECKING:
    from torch import nn

    from qwenkit.data.tokens.dataset import TokenDataset
    from qwenkit.data.tokens.order import EpochOrder
    from qwenkit.training.batches import PackedBatch
    from qwenkit.training.lm_loss import Objective
    from qwenkit.training.loop import Evaluate
    from qwenkit.training.step_batch import MicroBatch, StepBatches


def usable_precision(precision: str, device: str) -> str:
    """Return the precision asked for, or fp32 where bf16 would be emulated.

    The decision depends on the processor alone, and a run stays with its processor."""
    return "fp32" if precision == "bf16" and not platform.has_bf16(device) else precision


def precision_warnings(precision: str, device: str) -> tuple[str, ...]:
    """Return the warnings of a training whose precision is not the one asked for."""
    if usable_precision(precision, device) == precision:
        return ()
    return (f"trained in fp32: {platform.cpu_model()} has no instructions for bf16",)


def train(
    settings: TrainingSettings,
    model: nn.Module,
    batches: StepBatches[MicroBatch],
    steps: int,
    *,
    device: str,
    log: Log,
    folder: Path,
    progress: Callable[..., None],
    seed: int,
    objective: Objective | None = None,
    evaluate: Evaluate | None = None,
    vocab_size: int | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Run the training loop with the stock update under these settings; checkpoints are written into `folder`.

    Returns the last step's metrics. With `until` it stops there, in the middle of a schedule of `steps`; another call
    with the same folder continues."""
    import torch

    from qwenkit.model.modes import set_activation_checkpointing
    from qwenkit.training import RunState, Sentinel, build_optimizer, build_schedule, lm_objective, loop, train_update

    set_activation_checkpointing(model, settings.activation_checkpointing)
    muon = settings.optimizer == "muon"
    optimizer = build_optimizer(
        model,
        settings.optimizer,
        settings.muon_lr if muon else settings.lr,
        settings.lr if muon else None,
        settings.weight_decay,
        (settings.beta1, settings.beta2),
        settings.eps,
        moments=settings.moments,
    )
    update = train_update(
        model,
        optimizer,
        batches,
        build_schedule(settings.schedule, steps, settings.warmup_steps, settings.min_lr_ratio),
        objective=objective or lm_objective,
        max_grad_norm=settings.max_grad_norm,
        dtype=torch.bfloat16 if usable_precision(settings.precision, device) == "bf16" else None,
        compile=settings.compile,
        world=world,
    )
    return loop.run(
        update,
        RunState({"model": model}, {"optimizer": optimizer}),
        steps if until is None else until,
        log=log,
        checkpoint_dir=folder,
        checkpoint_seconds=settings.checkpoint_seconds,
        sentinel=Sentinel(vocab_size),
        evaluate=evaluate,
        evaluate_every=settings.evaluate_every,
        progress=lambda done, total, **m: progress(done, total, loss=m["loss"]),
        seed=seed,
        world=world,
    )


class PackedTraining(NamedTuple):
    """What a training on packed rows came to: its tokens (padding included) and epochs, and the loss of the last step
    in nats per token."""

    tokens: int
    epochs: float
    train_loss: float | None


def train_packed(
    settings: TrainingSettings,
    model: nn.Module,
    dataset: TokenDataset,
    order: EpochOrder,
    steps: int,
    validation: Mapping[str, Sequence[PackedBatch]],
    *,
    device: str,
    log: Log,
    folder: Path,
    progress: Callable[..., None],
    seed: int,
    vocab_size: int | None = None,
    world: World = ALONE,
) -> PackedTraining:
    """Train on the rows into which `order` packs a dataset; the loss on the validation sets is logged on the way.

    With `vocab_size` the sentinel also watches for a loss above that of a uniform guess."""
    from qwenkit.training import Batches, validation_losses
    from qwenkit.training.data_parallel import guarded
    from qwenkit.training.step_batch import share_of

    share = share_of(settings.batch_size, world)
    last = train(
        settings,
        model,
        Batches(dataset, order, settings.batch_size, min(rows_per_pass(settings), share), world),
        steps,
        device=device,
        log=log,
        folder=folder,
        progress=progress,
        seed=seed,
        evaluate=lambda _: guarded(world, [model], lambda: validation_losses(model, validation)),
        vocab_size=vocab_size,
        world=world,
    )
    return PackedTraining(
        steps * settings.batch_size * settings.seq_length,
        round(order.epoch_of(steps, settings.batch_size), 3),
        last.get("loss"),
    )
