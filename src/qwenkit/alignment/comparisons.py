"""From scored answers to preference pairs (report §3.2.1: annotators score several answers, pairs follow from scores).

    rows = [{"id": "q7", "messages": [...], "answers": [{"text": "Lund.", "score": 0.9, "policy": "chat"}, ...]}, ...]
    pairs, counts = make_pairs(rows, strategy="best_worst", min_margin=0.05)

An answer may carry `parts` (a mapping of criteria to numbers); the pair's `component` then names the criterion that
differs most. Pairs come in the order of the rows, and nothing is drawn at random.

The report does not say which pairs are formed from the scores: `strategy`, `min_margin` and `max_pairs` are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from qwenkit.errors import UserError, nearest
from qwenkit.records import Row

Answer = Mapping[str, Any]

STRATEGIES = ("best_worst", "adjacent", "all")
"""best_worst: one pair per prompt, the widest; adjacent: neighbours in rank; all: every two answers."""


def make_pairs(
    rows: Iterable[Row],
    *,
    strategy: str = "best_worst",
    min_margin: float = 0.0,
    max_pairs: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return comparison pairs, and counts of what became of each two answers that the strategy compared.

    A pair is made when the scores differ by more than `min_margin`, and never of equal texts. At most `max_pairs` pairs
    of a prompt are kept, those with the widest margins. Every label is true: `flipped`, which rows from elsewhere may
    have, is false in every row and 0 in the counts. Raises a `UserError` for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise UserError(f"no way to form pairs is called {strategy!r}", expected=", ".join(STRATEGIES),
                        nearest=nearest(strategy, STRATEGIES))  # fmt: skip
    pairs: list[dict[str, Any]] = []
    counts = Counter(prompts=0, pairs=0, tied=0, same_text=0, over_limit=0, flipped=0)
    for row in rows:
        counts["prompts"] += 1
        candidates = []
        for better, worse in _candidates(row["answers"], strategy):
            reason = _refused(better, worse, min_margin)
            if reason:
                counts[reason] += 1
            else:
                candidates.append((better, worse))
        candidates.sort(key=lambda two: two[1]["score"] - two[0]["score"])  # stable: ties keep the order of the ranks
        counts["over_limit"] += len(candidates[max_pairs:]) if max_pairs is not None else 0
        pairs += [_pair(row, better, worse, number) for number, (better, worse) in enumerate(candidates[:max_pairs])]
    counts["pairs"] = len(pairs)
    return pairs, dict(counts)


def _candidates(answers: Sequence[Answer], strategy: str) -> list[tuple[Answer, Answer]]:
    """Return which two answers to compare, the better first; equal scores rank in the order given."""
    ranked = sorted(answers, key=lambda answer: -answer["score"])
    if len(ranked) < 2:
        return []
    if strategy == "best_worst":
        return [(ranked[0], ranked[-1])]
    return list(pairwise(ranked)) if strategy == "adjacent" else list(combinations(ranked, 2))


def _refused(better: Answer, worse: Answer, min_margin: float) -> str | None:
    """Return why two answers make no pair; None where they make one."""
    if better["text"] == worse["text"]:
        return "same_text"
    return "tied" if better["score"] - worse["score"] <= min_margin else None


def _pair(row: Row, better: Answer, worse: Answer, number: int) -> dict[str, Any]:
    return {
        "id": f"{row['id']}/{number}",
        "messages": row["messages"],
        "chosen": better["text"],
        "rejected": worse["text"],
        "policy": f"{better.get('policy', '')}>{worse.get('policy', '')}",
        "component": _component(better.get("parts") or {}, worse.get("parts") or {}),
        "margin": better["score"] - worse["score"],
        "flipped": False,
        **{key: row[key] for key in ("tools", "task", "language") if key in row},
    }


def _component(better: Mapping[str, float], worse: Mapping[str, float]) -> str:
    """Return the criterion that differs most in favour of the better answer; `total` where none is known."""
    gaps = {name: better[name] - worse[name] for name in better if name in worse and name != "total"}
    return max(gaps, key=lambda name: gaps[name]) if gaps else "total"
