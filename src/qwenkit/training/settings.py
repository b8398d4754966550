"""The settings of a training (report §2.4, Table 1 for 7B). What the report does not say is marked `memo` (the
technical memo of the first release) or `ours`. No torch here: a recipe is checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenkit.settings import setting

PRECISION = "precision of the matrix products, bf16 where the hardware has it; weights and sums stay in fp32"
CHECKPOINTING = (
    "full: keep only the input of each block and compute the rest again in the backward pass, for less memory, a third"
    " more time and the same bits; none: keep all (ours)"
)

MOMENTS = "how AdamW keeps its moments: float32, or int8 in blocks of 256, 2 bytes for a parameter in place of 8 (ours)"

ScheduleShape = Literal["cosine", "linear", "constant"]
"""Shapes of a learning-rate schedule; `lr_schedule.py` draws them."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Batch, optimizer, schedule and precision of one training. Each is a key of every stage that trains a model."""

    seq_length: int = setting(2048, doc="context length: tokens in a packed row", ge=8)
    batch_size: int = setting(2048, doc="rows in a batch (2048 x 2048 tokens: 4M)", ge=1)
    micro_batch_size: int = setting(8, doc="rows in one forward pass; the rest is accumulated (ours)", ge=1)
    optimizer: Literal["adamw", "muon"] = setting("adamw", doc="adamw (the report's), or muon for the matrices (ours)")
    lr: float = setting(3e-4, doc="peak learning rate of AdamW", gt=0)
    muon_lr: float = setting(0.02, doc="peak learning rate of Muon, for the matrices (ours)", gt=0)
    schedule: ScheduleShape = setting("cosine", doc="shape of the decay")
    min_lr_ratio: float = setting(0.1, doc="last learning rate over the peak", ge=0, le=1)
    warmup_steps: int = setting(2000, doc="steps of linear warm-up (memo)", ge=0)
    weight_decay: float = setting(0.1, doc="weight decay of matrices only (memo)", ge=0)
    max_grad_norm: float = setting(1.0, doc="largest gradient norm (memo)", gt=0)
    beta1: float = setting(0.9, doc="decay of AdamW's average of gradients", ge=0, lt=1)
    beta2: float = setting(0.95, doc="decay of AdamW's average of squared gradients", ge=0, lt=1)
    eps: float = setting(1e-8, doc="AdamW's epsilon", gt=0)
    moments: Literal["float32", "int8"] = setting("float32", doc=MOMENTS, added=True)
    precision: Literal["fp32", "bf16"] = setting("bf16", doc=PRECISION)
    compile: bool = setting(False, doc="compile the forward pass with torch.compile (ours)")
    activation_checkpointing: Literal["none", "full"] = setting("none", doc=CHECKPOINTING, role="runtime")
    checkpoint_seconds: float = setting(300, doc="seconds between checkpoints", gt=0, role="runtime")
    evaluate_every: int = setting(
        0, doc="steps between held-out evaluations; 0: only at the start and at the end", ge=0, role="runtime"
    )


def rows_per_pass(settings: TrainingSettings) -> int:
    """Return the rows of one forward pass: never more than a batch has."""
    return min(settings.micro_batch_size, settings.batch_size)


STATE_BYTES = {"adamw": 16, "muon": 12}
"""Bytes of float32 for each parameter, by optimizer: itself, its gradient, and two moments (AdamW) or one (Muon)."""
MOMENT_BYTES = {"float32": 8, "int8": 2}
"""Bytes of AdamW's two moments for each parameter, by how they are kept."""


def state_bytes(optimizer: str, moments: str) -> int:
    """Return the bytes that each trained parameter takes: itself, its gradient, and what the optimizer keeps."""
    saved = MOMENT_BYTES["float32"] - MOMENT_BYTES[moments] if optimizer == "adamw" else 0
    return STATE_BYTES[optimizer] - saved
