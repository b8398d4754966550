"""What one step learns from, as plain data that is known before its first forward pass.

    batch = batches(step)             # `batches`: a `StepBatches`, such as `training.batches.Batches`
    batch.micro_batches               # this process's share, as tensors on the CPU
    batch.weight, batch.tokens        # of the whole step, whichever processes hold its parts

The order of the data is a pure function of the step, so a process counts the rows of the others in its own dataset and
asks nobody: the loss is divided by the weight of the whole step from the first micro-batch on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch

from qwenkit.errors import UserError
from qwenkit.training.world import World


class MicroBatch(Protocol):
    """What one forward pass reads; `training.batches.PackedBatch` is one. All counts lie on the host."""

    @property
    def weight(self) -> float:
        """Return what the batch adds to the divisor of the loss."""
        ...

    @property
    def content(self) -> int | None:
        """Return how much of what is supervised is content (tokens of assistant turns, or pairs), or None where none is
        expected."""
        ...

    @property
    def tokens(self) -> int:
        """Return the number of tokens read, without padding."""
        ...

    def to(self, device: torch.device | str, /) -> Self:
        """Return the batch with its tensors on a device."""
        ...

    def describe(self) -> str:
        """Return where the batch comes from, for an alarm."""
        ...


MicroBatchT = TypeVar("MicroBatchT", bound=MicroBatch, covariant=True)


@dataclass(frozen=True)
class StepBatch(Generic[MicroBatchT]):
    """The micro-batches that this process reads in a step, and the numbers of the whole step over all processes."""

    micro_batches: Sequence[MicroBatchT]
    weight: float
    """The divisor of the loss: the sum of all loss weights, or the number of pairs."""
    content: int | None
    """How much of what is supervised is content; None where none is expected, 0 where a mask was lost."""
    tokens: int
    """Tokens read, without padding."""
    fingerprint: int
    """Equal for equal data (CRC-32), however many processes share it and however it is cut into micro-batches."""

    @classmethod
    def of(cls, micro_batches: Sequence[MicroBatchT], fingerprint: int = 0) -> StepBatch[MicroBatchT]:
        """Return the batch of a step that one process reads as a whole: its numbers are the sums of these."""
        content = [batch.content for batch in micro_batches if batch.content is not None]
        return cls(
            micro_batches,
            sum(batch.weight for batch in micro_batches),
            sum(content) if content else None,
            sum(batch.tokens for batch in micro_batches),
            fingerprint,
        )

    @property
    def learns(self) -> bool:
        """Return whether there is anything to learn from: a weight, and content where content is expected."""
        return self.weight > 0 and self.content != 0

    def describe(self) -> str:
        """Return where this process's micro-batches come from, for an alarm."""
        return "; ".join(batch.describe() for batch in self.micro_batches)


def share_of(batch_size: int, world: World) -> int:
    """Return how much of a batch each process reads; raises a `UserError` where the shares would differ."""
    share, rest = divmod(batch_size, world.size)
    if rest or not share:
        raise UserError(
            f"a batch of {batch_size} cannot be divided among {world.size} processes",
            expected=f"batch_size that is a multiple of {world.size}",
        )
    return share


StepBatches = Callable[[int], StepBatch[MicroBatchT]]
"""`batches(step)`: the batch of a step, a pure function of its number."""
