"""Keys that several stages share: how a model is trained. Defaults are the report's (§2.4, Table 1 for 7B), or marked.
Those of every training stand in `training/settings.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from qwenkit.config import StageConfig, content, stage_config
from qwenkit.errors import UserError
from qwenkit.model.lora_config import LoRAConfig, read_settings, settings_table
from qwenkit.training.settings import TrainingSettings


class TrainingConfig(stage_config(TrainingSettings), StageConfig):  # pyright: ignore[reportGeneralTypeIssues]
    """Batch, optimizer, schedule and precision of one training stage."""


ADAPTER = (
    "train an adapter on frozen weights (LoRA), not the weights: a table of rank, alpha, dropout, targets, rslora,"
    " dora, modules_to_save, lr_scale; {} is rank 16 on all linear layers (ours)"
)


class AdapterConfig(StageConfig):
    """A training whose result may be an adapter of its model."""

    adapter: dict[str, Any] | None = content(None, doc=ADAPTER, added=True)

    @property
    def lora(self) -> LoRAConfig | None:
        """Return the settings of the adapter, or None where all weights are trained."""
        return None if self.adapter is None else read_settings(self.adapter)

    @model_validator(mode="after")
    def _adapter(self) -> Self:
        """Refuse a table that means nothing."""
        try:
            _ = self.lora
        except UserError as error:
            raise ValueError(error.text()) from None
        return self

    def identity(self) -> dict[str, Any]:
        """Return the content keys; of an adapter all its settings."""
        lora = self.lora
        return super().identity() | ({} if lora is None else {"adapter": settings_table(lora)})


class PackedTrainingConfig(TrainingConfig):
    """A training on packed rows, whose batch may also be given in tokens, as the report gives it."""

    batch_tokens: float | None = content(
        None,
        doc="tokens in a batch, in place of `batch_size`: the number of rows that comes nearest",
        ge=1,
        le=1e12,
        resolved=True,
        before="micro_batch_size",
    )

    @model_validator(mode="before")
    @classmethod
    def _batch_size(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        """Write a batch in tokens as rows; the two at once are refused."""
        tokens, row = table.get("batch_tokens"), table.get("seq_length", cls.model_fields["seq_length"].default)
        if tokens is None:
            return dict(table)
        if table.get("batch_size") is not None:
            raise ValueError("`batch_size` and `batch_tokens` are two ways to say one thing: give one of them")
        if not isinstance(tokens, int | float) or not isinstance(row, int) or not 1 <= tokens <= 1e12 or row < 1:
            return dict(table)  # what is wrong with it, the key's own check says
        return {**table, "batch_size": max(1, round(tokens / row))}
