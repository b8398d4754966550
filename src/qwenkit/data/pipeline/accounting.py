"""The accounting of a corpus: the outcome of every document, shard by shard, and of all shards together.

    accounting = Accounting(seed, 5, ledger)          in a shard: counts, rows of the ledger, samples of every rule
    sources_of(...), funnel_of(...), samples_of(...)  of all done records: they must balance

For every source, read = kept + dropped + quarantined: no document is lost or counted twice.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qwenkit import rng
from qwenkit.data import parquet_io
from qwenkit.data.pipeline.config import ORDER, CorpusConfig, applies
from qwenkit.data.pipeline.executor import DoneRecord
from qwenkit.data.readers.documents import Source
from qwenkit.errors import Stopped
from qwenkit.records import Quarantine, Row

KEPT = "kept"
OPTIONAL = (
    "licence",
    "steps",
    "lines",
    "classifier",
    "perplexity",
)  # steps that the funnel leaves out where no source uses them


@dataclass
class Accounting:
    """The outcome of every document of a shard: counts, the ledger's rows, a few samples of every rule and source."""

    seed: int
    keep: int
    ledger: parquet_io.Writer
    read: int = 0
    recorded: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # step, rule, source
    samples: defaultdict[tuple[str, str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))

    def record(self, row: Row, step: str, rule: str, detail: str = "", duplicate_of: str = "", copies: int = 0) -> None:
        """Record the outcome of a document."""
        self.recorded += 1
        if step != KEPT:
            self.counts[step, rule, row["source"]] += 1
        place = {key: row[key] for key in ("id", "source", "place")}
        self.ledger.add({**place, "step": step, "rule": rule, "seen": detail, "of": duplicate_of, "copies": copies})
        self._sample(row, step, rule, detail or duplicate_of)

    def _sample(self, row: Row, step: str, rule: str, detail: str) -> None:
        """Keep a random few, by a draw that is the document's own."""
        sample_key = rng.derive_seed(self.seed, step, rule, row["source"], row["place"])
        shown = {"step": step, "rule": rule, "id": row["id"], "source": row["source"], "seen": detail}
        entry = (-sample_key, row["place"], self.recorded, {**shown, "text": row["text"][:1000]})  # places may be equal
        kept = self.samples[step, rule, row["source"]]
        if len(kept) < self.keep:
            heapq.heappush(kept, entry)
        elif kept and entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    def totals(self) -> DoneRecord:
        """Return the counts and samples for the done record of the shard."""
        counts = [[*key, count] for key, count in sorted(self.counts.items())]
        return {
            "read": self.read,
            "counts": counts,
            "samples": [
                [sample_key, place, row] for _, few in sorted(self.samples.items()) for sample_key, place, _, row in few
            ],
        }


def sources_of(
    sources: Iterable[Source], read: Sequence[DoneRecord], clean: Sequence[DoneRecord], ledgers: Sequence[Path]
) -> dict[str, Row]:
    """Return counts of every source: read = kept + dropped + quarantined.

    Kept counts come from the ledgers of the last phase, not from what is left over. Raises an error where a document is
    lost or counted twice."""
    by_source: dict[str, Row] = {
        s.name: {"file": Path(s.path).name, "read": 0, "kept": 0, "dropped": Counter(), "quarantined": Counter()}
        for s in sources
    }
    for mark, ledger in zip(read, ledgers):
        row, bad = by_source[mark["source"]], Counter(mark["bad"])
        row["quarantined"] += bad
        row["read"] += mark["read"] + bad.total()
        steps = pq.read_table(str(ledger), columns=["step"])["step"]
        row["kept"] += steps.to_pylist().count(KEPT)
    for mark in [*read, *clean]:
        for _, rule, source, count in mark["counts"]:
            by_source[source]["dropped"][rule] += count
    for row in by_source.values():  # plain tables, which can be written as JSON
        row["dropped"], row["quarantined"] = dict(row["dropped"]), dict(row["quarantined"])
    _refuse_open(by_source)
    return by_source


def funnel_of(
    sources: Sequence[Source], config: CorpusConfig, read: Sequence[DoneRecord], clean: Sequence[DoneRecord]
) -> list[Row]:
    """Return one row for every rule that dropped something, and one for each step that dropped nothing."""
    dropped: Counter[tuple[str, str]] = Counter()
    for step, rule, _, count in (line for mark in [*read, *clean] for line in mark["counts"]):
        dropped[step, rule] += count
    left, quarantined = sum(mark["read"] for mark in read), sum(sum(mark["bad"].values()) for mark in read)
    funnel: list[Row] = [{"step": "read", "rule": "quarantined", "dropped": quarantined, "left": left}]
    for step in ("extract", *ORDER, "mixture"):
        if step in OPTIONAL and not any(applies(step, source, config) for source in sources):
            continue
        for rule, count in sorted((r, c) for (s, r), c in dropped.items() if s == step) or [("", 0)]:
            left -= count
            funnel.append({"step": step, "rule": rule, "dropped": count, "left": left})
    return funnel


def samples_of(marks: Iterable[DoneRecord], most: int) -> list[Row]:
    """Return the few samples of every rule and source with the smallest random keys, over all shards."""
    by_rule: dict[tuple[str, str, str], list[Any]] = {}
    for mark in marks:
        for sample_key, place, row in mark["samples"]:
            by_rule.setdefault((row["step"], row["rule"], row["source"]), []).append((-sample_key, place, row))
    return [entry[2] for key in sorted(by_rule) for entry in sorted(by_rule[key], key=lambda e: e[:2])[:most]]


def sizes_of(clean: Iterable[DoneRecord]) -> dict[str, dict[str, dict[str, int]]]:
    """Return documents and characters by source, language and licence, the largest first."""
    sizes: dict[str, dict[str, list[int]]] = {key: {} for key in ("source", "language", "licence")}
    for mark in clean:
        for key, value, documents, characters in mark["sizes"]:
            sums = sizes[key].setdefault(value, [0, 0])
            sums[0], sums[1] = sums[0] + documents, sums[1] + characters
    return {
        key: {v: {"documents": d, "characters": c} for v, (d, c) in sorted(sums.items(), key=lambda i: -i[1][1])}
        for key, sums in sizes.items()
    }


def quarantine_of(read: Iterable[DoneRecord]) -> Quarantine:
    """Return the quarantine of all splits: records that could not be read."""
    quarantine = Quarantine()
    for mark in read:
        quarantine.counts.update(mark["bad"])
        quarantine.rows += mark["quarantine"][: max(0, quarantine.keep - len(quarantine.rows))]
    return quarantine


def _refuse_open(sources: dict[str, Row]) -> None:
    """Refuse a corpus in which a document was lost, or counted twice: read = kept + dropped + quarantined."""
    unbalanced = []
    for name, row in sources.items():
        dropped, bad = sum(row["dropped"].values()), sum(row["quarantined"].values())
        if row["read"] != row["kept"] + dropped + bad:
            unbalanced.append(f"{name}: {row['read']} read, {row['kept']} kept, {dropped} dropped, {bad} quarantined")
    if unbalanced:
        balance = "read = kept + dropped + quarantined"
        raise Stopped("documents were lost or counted twice", where="; ".join(unbalanced), expected=balance)
