"""The stock training: optimizer, schedule, update and loop put together from one set of settings.

last = train(settings, model, batches, steps, device="cpu", log=log, folder=folder, progress=progress, seed=1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenkit import platform
from qwenkit.events import Log

if TYPE_CHECKING:
    from torch import nn

    from qwenkit.training.batches import Batch
    from qwenkit.training.loop import Evaluate
    from qwenkit.training.settings import TrainingSettings


def usable_precision(precision: str, device: str) -> str:
    """Return the precision asked for, or fp32 where bf16 would be emulated.

    One machine always decides alike, and a run stays with its processor."""
    return "fp32" if precision == "bf16" and not platform.has_bf16(device) else precision


def precision_warnings(precision: str, device: str) -> tuple[str, ...]:
    """Return what is said of a training that was not done in the precision asked for."""
    if usable_precision(precision, device) == precision:
        return ()
    return (f"trained in fp32: {platform.cpu_model()} has no instructions for bf16",)


def train(
    settings: TrainingSettings,
    model: nn.Module,
    batches: Callable[[int], Sequence[Batch]] | Callable[[int], Sequence[Any]],
    steps: int,
    *,
    device: str,
    log: Log,
    folder: Path,
    progress: Callable[..., None],
    seed: int,
    objective: Callable[..., Any] | None = None,
    evaluate: Evaluate | None = None,
    vocab_size: int | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Run the one loop with the stock update under these settings, with checkpoints in `folder`.

    Returns the last step's metrics. With `until` it ends there, in the middle of a schedule of `steps`; another call
    with the same folder goes on."""
    import torch

    from qwenkit.training import RunState, Sentinel, build_optimizer, build_schedule, lm_objective, lm_update, loop

    muon = settings.optimizer == "muon"
    optimizer = build_optimizer(
        model,
        settings.optimizer,
        settings.muon_lr if muon else settings.lr,
        settings.lr if muon else None,
        settings.weight_decay,
        (settings.beta1, settings.beta2),
        settings.eps,
    )
    update = lm_update(
        model,
        optimizer,
        batches,
        build_schedule(settings.schedule, steps, settings.warmup_steps, settings.min_lr_ratio),
        objective=objective or lm_objective,
        max_grad_norm=settings.max_grad_norm,
        dtype=torch.bfloat16 if usable_precision(settings.precision, device) == "bf16" else None,
        compile=settings.compile,
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
    )
