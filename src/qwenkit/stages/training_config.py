"""Keys that several stages share: how a model is trained. Defaults are the report's (§2.4, Table 1 for 7B); what it
does not say is marked `memo` (the technical memo of the first release) or `ours`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from qwenkit.config import StageConfig, content, runtime

if TYPE_CHECKING:
    pass


Schedule = Literal["cosine", "linear", "constant"]
PRECISION = "of the matrix products, bf16 where the hardware has it; weights and sums stay in fp32"


class TrainingConfig(StageConfig):
    """Optimizer, schedule, batch and precision of one training stage."""

    seq_length: int = content(2048, doc="context length: tokens in a packed row", ge=8)
    batch_size: int = content(2048, doc="rows in a batch (2048 x 2048 tokens: 4M)", ge=1)
    micro_batch_size: int = content(8, doc="rows in one forward pass; the rest is accumulated (ours)", ge=1)
    optimizer: Literal["adamw", "muon"] = content("adamw", doc="adamw (the report's), or muon for the matrices (ours)")
    lr: float = content(3e-4, doc="peak learning rate of AdamW", gt=0)
    muon_lr: float = content(0.02, doc="peak learning rate of Muon, for the matrices (ours)", gt=0)
    schedule: Schedule = content("cosine", doc="shape of the decay")
    min_lr_ratio: float = content(0.1, doc="last learning rate over the peak", ge=0, le=1)
    warmup_steps: int = content(2000, doc="steps of linear warm-up (memo)", ge=0)
    weight_decay: float = content(0.1, doc="of matrices only (memo)", ge=0)
    max_grad_norm: float = content(1.0, doc="largest gradient norm (memo)", gt=0)
    beta1: float = content(0.9, doc="AdamW", ge=0, lt=1)
    beta2: float = content(0.95, doc="AdamW", ge=0, lt=1)
    eps: float = content(1e-8, doc="AdamW", gt=0)
    precision: Literal["fp32", "bf16"] = content("bf16", doc=PRECISION)
    compile: bool = content(False, doc="compile the forward pass with torch.compile (ours)")
    checkpoint_seconds: float = runtime(300, doc="seconds between checkpoints", gt=0)
    evaluate_every: int = runtime(
        0, doc="steps between held-out evaluations; 0: only at the start and at the end", ge=0
    )
