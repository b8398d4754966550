"""Repeated lines: runs of equal lines within a text, and lines that occur in too many documents."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from qwenkit.data.text_units import mix, unit_hashes


def collapse_repeated_lines(text: str) -> str:
    """Return the text with every run of equal lines once: menus, counters and broken templates leave such runs."""
    lines = text.split("\n")
    return "\n".join(line for before, line in zip([None, *lines], lines) if line != before or not line.strip())


def line_keys(text: str) -> list[int]:
    """Return one number for each line of a text, equal for lines that are equal after normalisation; 0 for an empty
    line."""
    hashes, starts, _ = unit_hashes(text)
    if not len(hashes):
        return [0] * (text.count("\n") + 1)
    breaks = np.flatnonzero(np.array([char == "\n" for char in text])) if "\n" in text else np.empty(0, np.int64)
    edges = np.concatenate([[0], np.searchsorted(starts, breaks), [len(starts)]])
    with np.errstate(over="ignore"):
        places = np.arange(len(hashes)) - np.repeat(edges[:-1], np.diff(edges))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(mix(hashes + places.astype(np.uint64)))])
        keys = sums[edges[1:]] - sums[edges[:-1]]
    return np.where(np.diff(edges) > 0, keys | np.uint64(1), np.uint64(0)).tolist()


def without_lines(text: str, common: Collection[int]) -> str:
    """Return a text without the lines whose keys are known to occur in many texts."""
    return "\n".join(line for line, key in zip(text.split("\n"), line_keys(text)) if key not in common)
