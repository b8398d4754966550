"""One pass of pairwise training: preference-model pretraining and the reward model (report §3.2.1).

    steps, loss = train_pairs(settings, model, pairs, epochs=1, validation=validation_pairs, ...)
    margins, accuracy = measure_pairs(model, {"held out": validation_pairs, "other policies": more}, seed)

The accuracy is the share of measured pairs in which the better answer has the higher score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qwenkit.records import Row
from qwenkit.rng import derive_seed
from qwenkit.training.settings import TrainingSettings, rows_per_pass
from qwenkit.training.world import ALONE, World

if TYPE_CHECKING:
    from qwenkit.alignment.pair_encoding import Pair
    from qwenkit.events import Log
    from qwenkit.model import ScalarModel


class PairTraining(NamedTuple):
    """What a training on pairs came to: its steps, and the loss of the last one in nats per pair."""

    steps: int
    train_loss: float | None


def train_pairs(
    settings: TrainingSettings,
    model: ScalarModel,
    pairs: Sequence[Pair],
    epochs: float,
    *,
    validation: Sequence[Pair] = (),
    device: str,
    log: Log,
    folder: Path,
    progress: Callable[..., None],
    seed: int,
    world: World = ALONE,
) -> PairTraining:
    """Train a scalar model to rank pairs, with checkpoints in `folder`; the accuracy on `validation` is logged."""
    from qwenkit.alignment.ranking import ranking_metrics
    from qwenkit.alignment.reward_model import PairBatches, PairwiseObjective
    from qwenkit.training import train
    from qwenkit.training.data_parallel import guarded

    def evaluate(_: object) -> dict[str, float]:
        return guarded(world, [model], lambda: ranking_metrics(model, validation))

    batches = PairBatches(pairs, settings.batch_size, derive_seed(seed, "order"), rows_per_pass(settings), world)
    steps = batches.steps(epochs)
    last = train(
        settings, model, batches, steps, device=device, log=log, folder=folder, progress=progress, seed=seed,
        objective=PairwiseObjective(), evaluate=evaluate if validation else None, world=world,
    )  # fmt: skip
    return PairTraining(steps, last.get("loss"))


def measure_pairs(model: ScalarModel, sets: Mapping[str, Sequence[Pair]], seed: int) -> tuple[list[Row], Row]:
    """Return (margins, accuracy): a row of `ranking.margin_rows` for each pair, and of each set the share of its pairs
    that is ranked correctly, with an interval by resampling from `seed`."""
    from qwenkit.alignment.ranking import margin_rows, ranking_accuracy

    margins = [row for name, pairs in sets.items() for row in margin_rows(model, pairs, name)]
    return margins, ranking_accuracy(margins, seed)
