"""Training, section 2.4 of the report: one loop, one stock update, optimizers, run state, sentinel.

    order = EpochOrder(dataset.digest, seed, dataset.lengths, seq_length=256, split_documents=True)
    batches = Batches(dataset, order, batch_size=16)
    optimizer = build_optimizer(model, "muon", lr=0.02, other_lr=3e-3)
    update = train_update(model, optimizer, batches, build_schedule("cosine", total=400, warmup=30))
    run(update, RunState({"model": model}, {"main": optimizer}), until=400, log=log, checkpoint_dir=folder)

Reading order: `settings` -> `trainer` -> `loop` -> `update` -> `step_sums` (what it reads off the device) -> `lm_loss`
-> `step_batch` -> `batches` -> `validation` -> `optim` -> `adamw8bit` -> `lr_schedule` -> `checkpoint`
(`checkpoint_metadata`: read without running it; `checkpoint_upgrade`: of earlier versions) ->
`sentinel` -> `world` -> `data_parallel`.
Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from qwenkit.lazy import lazy

_HOME = {
    "run": "loop",
    "train_update": "update",
    "clip_gradients": "update",
    "MicroBatch": "step_batch",
    "StepBatch": "step_batch",
    "StepBatches": "step_batch",
    "lm_objective": "lm_loss",
    "mean_loss": "lm_loss",
    "PackedBatch": "batches",
    "Batches": "batches",
    "build_batch": "batches",
    "document_batches": "batches",
    "validation_batches": "batches",
    "validation_sets": "validation",
    "validation_chats": "validation",
    "validation_losses": "validation",
    "train": "trainer",
    "train_packed": "trainer",
    "build_optimizer": "optim",
    "OptimizerSet": "optim",
    "Muon": "optim",
    "build_schedule": "lr_schedule",
    "RunState": "checkpoint",
    "save_checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "latest_checkpoint": "checkpoint",
    "World": "world",
    "Alone": "world",
    "ProcessGroup": "world",
    "Sentinel": "sentinel",
    "ALARMS": "sentinel",
    "AlarmError": "sentinel",
    "raise_alarm": "sentinel",
}

__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
