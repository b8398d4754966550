"""How a preference or reward model ranks pairs: loss and accuracy while it trains, margins and accuracy at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qwenkit.alignment.pair_encoding import Pair
from qwenkit.alignment.reward_model import pair_margins, pairwise_loss, ranked_correctly
from qwenkit.model import ScalarModel
from qwenkit.records import Row
from qwenkit.statistics import mean_interval


def true_label(row: Row) -> Row:
    """Return a pair with its true label: where `flipped` says that the label is noise, the sides are exchanged."""
    if not row.get("flipped"):
        return row
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"], "flipped": False}


def ranking_metrics(model: ScalarModel, pairs: Sequence[Pair]) -> dict[str, float]:
    """Return loss (nats per pair) and accuracy (a tie counts one half) on a validation split during training."""
    margins = pair_margins(model, pairs)
    loss = pairwise_loss(torch.tensor(margins), torch.zeros(())).mean()
    accuracy = sum(map(ranked_correctly, margins)) / len(margins)
    return {"comparisons": round(float(loss), 5), "accuracy": round(accuracy, 5)}


def margin_rows(model: ScalarModel, pairs: Sequence[Pair], name: str) -> list[Row]:
    """Return one row for each pair with its margin, the reward of the better answer minus that of the worse.

    Two models can be compared pair by pair; `name` is the name of the set."""
    return [
        {"set": name, "id": pair.id, "margin": margin, "right": ranked_correctly(margin)}
        for pair, margin in zip(pairs, pair_margins(model, pairs))
    ]


def ranking_accuracy(items: Sequence[Row], seed: int) -> dict[str, dict[str, Any]]:
    """Return the share of pairs ranked correctly in each set of `margin_rows`, with its interval."""
    sets: dict[str, list[float]] = {}
    for item in items:
        sets.setdefault(item["set"], []).append(item["right"])
    return {name: mean_interval(right, seed=seed)._asdict() for name, right in sets.items()}
