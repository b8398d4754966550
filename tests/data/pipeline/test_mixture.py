"""Up-sampling: right on average, the same every time, ids kept apart."""

from __future__ import annotations

from collections import Counter

import pytest

from qwenkit.data.pipeline.mixture import copies, repeat
from qwenkit.records import Row

ROWS = [{"id": f"{source}{n}", "text": "x" * 10, "source": source} for source in "abc" for n in range(1000)]


def mix(rows: list[Row], weights: dict[str, float], seed: int) -> list[Row]:
    """The rows, each as often as the pipeline takes it."""
    return [
        copied
        for row in rows
        for copied in repeat(row, copies(weights.get(row["source"], 1.0), seed, row["source"], row["id"]))
    ]


def test_weights_are_met() -> None:
    mixed = mix(ROWS, {"a": 2.5, "b": 0.3}, seed=1)
    counts = Counter(row["source"] for row in mixed)
    assert counts["a"] == pytest.approx(2500, abs=60) and counts["b"] == pytest.approx(300, abs=60)
    assert counts["c"] == 1000
    assert len({(row["id"], row["copy"]) for row in mixed}) == len(mixed)


def test_same_seed_same_mixture_and_sources_do_not_disturb_each_other() -> None:
    first = [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=1)]
    assert first == [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=1)]
    assert first != [row["id"] for row in mix(ROWS, {"a": 0.5, "b": 0.5}, seed=2)]
    alone = [row["id"] for row in mix([row for row in ROWS if row["source"] == "b"], {"b": 0.5}, seed=1)]
    assert alone == [name for name in first if name.startswith("b")]
