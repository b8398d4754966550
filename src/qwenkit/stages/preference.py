"""`preference`: preference-model pretraining, PMP (report §3.2.1): learn from many noisy comparisons which answer is
better, before the few and clean ones of the reward model. The artifact opens in Hugging Face for sequence
classification; `margins.jsonl` in it says of each measured pair how it was ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qwenkit.config import edge
from qwenkit.stages.base import PAIRS, Input, Result, StageContext
from qwenkit.stages.claims import Claim, ranking_claims
from qwenkit.stages.pair_config import PairConfig, train_scorer
from qwenkit.stages.results import PAIR_CURVES, Metrics, NodeResults, mean_scores, percent

SUMMARY = "preference-model pretraining on many noisy comparisons (PMP)"
EXAMPLE = "--model runs/nano/base --data runs/nano/world --tests runs/nano/testsets"
ORDER = 80
VERSION = 5  # 5: as pretrain; 4: trained in float32
PRODUCES = ("scorer", "tokenizer")
CURVES = PAIR_CURVES


class Config(PairConfig):
    """What to learn from."""

    model: str = edge(doc="the base model", accepts=("model", "scorer"), hub="model")
    data: str = edge(doc=PAIRS, accepts="comparisons", several=True)
    tests: str | None = edge(None, doc="test sets with pairs.jsonl", accepts="tests")


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Train on the pairs and measure the accuracy on the validation pairs and on those of the test sets."""
    return train_scorer(config, inputs, context)


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield for each set of pairs whether the model ranks them better than chance."""
    return ranking_claims(nodes, seeds)


def card_number(metrics: Metrics) -> str:
    """Return the accuracy on each set of pairs."""
    return percent(mean_scores(metrics.get("accuracy")))
