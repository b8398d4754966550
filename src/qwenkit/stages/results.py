"""What a kind of node says of its results: to the report card, and to a plan before anything runs.

A stage module may define

    CURVES = (("Entropy", "nats per token", ("entropy",)),)       # title, unit, metrics of `step` events in one drawing
    SEED_METRICS = ("heldout_loss.*",)                            # numbers shown by seed; `*` is any name
    def card_number(metrics) -> str: ...                          # a few words for its box in the drawing of the family
    def claims(nodes, seeds) -> Iterator[Claim]: ...              # what worked and what did not (`stages.claims`)
    def estimate(config, vocab_rows) -> Estimate: ...             # what it will take

Here is what these are made of: numbers in words, curves, estimates. Claims are in `stages.claims`, tables of the card
in `stages.card`. Metrics come from manifests, which may be anybody's: `json_values` reads them without an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwenkit.json_values import mapping, number
from qwenkit.records import Row

Metrics = Mapping[str, Any]

PAIR_CURVES = (
    ("Loss", "nats per pair", ("loss",)),
    ("Accuracy on training pairs", "share", ("accuracy",)),
    ("Learned reward", "reward model's score", ("reward",)),
)
"""What is drawn of a training on pairs."""


class NodeResults(Protocol):
    """A published node as the claims of its kind see it: the manifest's metrics, and rows of the event log by step."""

    @property
    def name(self) -> str:
        """Return the node's name in its recipe."""
        ...

    @property
    def metrics(self) -> Row:
        """Return the metrics of its manifest."""
        ...

    @property
    def steps(self) -> list[Row]:
        """Return what was logged at each step."""
        ...

    @property
    def evals(self) -> list[Row]:
        """Return what was measured on the way, by step."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What one training takes."""

    parameters: int
    tokens: float
    flops: float
    """6 for each parameter and token, the usual estimate."""
    memory: int
    """Bytes, at the least."""

    def devices(self, room: int) -> int:
        """Return how many devices of `room` bytes the state of the training needs at the least."""
        return max(1, -(-self.memory // room))

    def text(self) -> str:
        """Return the estimate in words, for people."""
        return (
            f"{short(self.parameters)} parameters, {short(self.tokens)} tokens, {self.flops:.1e} FLOPs,"
            f" more than {self.memory / 1e9:.3g} GB of memory"
        )


_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short(number: float) -> str:
    """Return a number as three digits and a suffix: `7.72 B`."""
    scale, suffix = next((pair for pair in _SUFFIXES if number >= pair[0]), (1.0, ""))
    return f"{number / scale:.3g} {suffix}".rstrip()


def curve(rows: Sequence[Row], name: str, most: int = 400) -> tuple[list[float], list[float]]:
    """Return (steps, values) of one metric, thinned to about `most` points by the mean of neighbours."""
    points = [(float(row["step"]), value) for row in rows if (value := number(row.get(name))) is not None]
    width = max(1, math.ceil(len(points) / most))
    bins = [points[i : i + width] for i in range(0, len(points), width)]
    return [b[-1][0] for b in bins], [sum(value for _, value in b) / len(b) for b in bins]


def share(score: Metrics) -> str:
    """Return a score in [0, 1] in words: `81.2 % [77.0, 84.8], n = 300`."""
    mean, low, high = (number(score.get(name)) for name in ("mean", "low", "high"))
    if mean is None:
        return "no number"
    ends = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else ""
    return f"{100 * mean:.1f} %{ends}" + (f", n = {score['n']}" if "n" in score else "")


def signed(row: Metrics) -> str:
    """Return a difference in words: `+0.12 [+0.08, +0.16]`."""
    mean, low, high = (number(row.get(name)) for name in ("mean", "low", "high"))
    if mean is None:
        return "unknown"
    ends = f" [{low:+.3f}, {high:+.3f}]" if low is not None and high is not None else ""
    return f"{mean:+.3f}{ends}".replace("-", "−")


def counted(value: object, what: str) -> str:
    """Return a count in words, `12,000 tokens`; empty where it is unknown."""
    count = number(value)
    return "" if count is None else f"{count:,.0f} {what}"


def mean_scores(table: object) -> dict[str, float]:
    """Return the mean of every score in a table."""
    means = {str(name): number(mapping(score).get("mean")) for name, score in mapping(table).items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def percent(table: Mapping[str, float]) -> str:
    """Return shares in words: `base 12 %, chat 80 %`."""
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in table.items())


def validation_loss(row: Row, name: str) -> float | None:
    """Return one set's validation loss in an `eval` event, whichever way the event nests it."""
    nested = mapping(row.get("heldout") or row.get("heldout_loss"))
    return number(nested.get(name, row.get(name)))


def loss_number(metrics: Metrics) -> str:
    """Return the validation loss in words: of the easiest and of the hardest group, where there are several."""
    losses = sorted(loss for value in mapping(metrics.get("heldout_loss")).values() if (loss := number(value)))
    ends = dict.fromkeys((losses[0], losses[-1])) if losses else ()
    return "held-out loss " + " to ".join(f"{loss:.2f}" for loss in ends) if losses else ""
