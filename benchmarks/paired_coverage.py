"""How often the 95 % interval of a paired difference holds the true difference of two simulated models.

    python benchmarks/paired_coverage.py [--pairs 400] [--items 500]

Each pair of models answers the same items. An item has a hardness, which both share; the models differ by a known
amount, between 0 and 10 points. The truth is the mean difference of the population that items are drawn from. Prints
the share of intervals that hold it, the share of comparisons where McNemar's test and the interval agree, and false
alarms where the difference is 0. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from qwenkit.statistics import mcnemar, paired_difference, wilson


def simulate(pairs: int, items: int, seed: int) -> dict[str, float]:
    """Return the shares over simulated pairs of models."""
    rng = np.random.default_rng(seed)
    held = agreed = alarms = equal = 0
    for index in range(pairs):
        shift = 0.02 * (index % 6)
        chance = rng.beta(2, 2, items) * (1 - shift)  # the weaker model; the stronger one is `shift` better everywhere
        a, b = ((rng.random(items) < chance + more).astype(float).tolist() for more in (shift, 0.0))
        difference, p = paired_difference(a, b, seed=index), mcnemar(a, b)
        outside = (
            difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high
        )
        held += (
            difference.low is not None and difference.high is not None and difference.low <= shift <= difference.high
        )
        agreed += outside == (p < 0.05)
        equal += shift == 0
        alarms += shift == 0 and p < 0.05
    interval = wilson(held, pairs)
    return {
        "pairs": pairs, "items": items, "coverage": held / pairs, "low": interval.low or 0.0,
        "high": interval.high or 0.0, "agreement_with_mcnemar": agreed / pairs, "false_alarms": alarms / equal,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = simulate(arguments.pairs, arguments.items, arguments.seed)
    for name, value in result.items():
        print(f"{name:>24} {value:.4g}")
    print(json.dumps(result))
