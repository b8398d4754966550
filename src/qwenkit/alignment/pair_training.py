"""One pass of pairwise training: preference-model pretraining and the reward model (report §3.2.1).

    model = load_scorer(folder, "float32", device, seed)
    training = train_pairs(settings, model, pairs, {"held out": held_out}, epochs=1, ...)
    training.accuracy        # of each set of pairs that is measured, with its interval

The accuracy is the share of measured pairs in which the better answer has the higher score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qwenkit.records import Row, read_json
from qwenkit.rng import derive_seed
from qwenkit.training.settings import TrainingSettings, rows_per_pass

if TYPE_CHECKING:
    from qwenkit.alignment.pair_encoding import Pair
    from qwenkit.events import Log
    from qwenkit.model import ScalarModel

HELD_OUT = "held out"
"""The measured set on which the accuracy is also logged while the model learns."""


class PairTraining(NamedTuple):
    """What a training on pairs came to.

    `margins` are rows of `ranking.margin_rows`, one for each measured pair; `accuracy` says of each measured set which
    share of it is ranked correctly.
    """

    steps: int
    train_loss: float | None
    margins: list[Row]
    accuracy: Row


def load_scorer(folder: Path, dtype: str, device: str, seed: int) -> ScalarModel:
    """Return the scalar model of a folder, or its language model with a new scalar head drawn from `seed`."""
    from qwenkit.model import ScalarModel, load_model, load_scalar

    architecture = read_json(folder / "config.json").get("architectures", [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return load_scalar(folder, dtype, device)
    return ScalarModel(load_model(folder, dtype, device), seed=derive_seed(seed, "head"))


def train_pairs(
    settings: TrainingSettings,
    model: ScalarModel,
    pairs: Sequence[Pair],
    measured: Mapping[str, Sequence[Pair]],
    epochs: float,
    *,
    device: str,
    log: Log,
    folder: Path,
    progress: Callable[..., None],
    seed: int,
) -> PairTraining:
    """Train a scalar model to rank pairs, with checkpoints in `folder`, and measure it on each set of `measured`."""
    from qwenkit.alignment.ranking import margin_rows, ranking_accuracy, ranking_metrics
    from qwenkit.alignment.reward_model import PairBatches, PairwiseObjective
    from qwenkit.training import train

    batches = PairBatches(pairs, settings.batch_size, derive_seed(seed, "order"), rows_per_pass(settings))
    steps = batches.steps(epochs)
    watched = measured.get(HELD_OUT)
    last = train(
        settings, model, batches, steps, device=device, log=log, folder=folder, progress=progress, seed=seed,
        objective=PairwiseObjective(), evaluate=(lambda _: ranking_metrics(model, watched)) if watched else None,
    )  # fmt: skip
    margins = [row for name, pairs_of_set in measured.items() for row in margin_rows(model, pairs_of_set, name)]
    return PairTraining(steps, last.get("loss"), margins, ranking_accuracy(margins, seed))
