"""Reading a corpus (report §2.1, step 6: manual sampling and review): one page of funnel, curves and samples.

    page(Path("runs/nano/corpus"))              -> HTML, self-contained; `review_server` shows it and saves judgements
    summary(Path("review.jsonl"))               -> by rule and source: how often the readers agreed, with intervals

For every source and rule the page shows documents that the rule dropped, and beside them some of that source that were
kept; and every document that overlaps a test (of many, a random hundred) beside the test. "Right" and "wrong" are a
reader's judgement of the decision: wrong overlaps are false positives. The S-curve shows how likely a pair of a given
similarity is to be compared: theory, and pairs of random sets with that similarity.

A corpus may come from anywhere: its manifest and ledger are checked before they are shown.
"""

from __future__ import annotations

import functools
import html
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qwenkit import pages, rng
from qwenkit.artifacts import MANIFEST, STRAY, Manifest, damage, damaged, read_manifest
from qwenkit.data import parquet_io
from qwenkit.data.dedup import minhash
from qwenkit.errors import UserError
from qwenkit.records import Row, read_jsonl
from qwenkit.statistics import wilson

Points = list[tuple[float, float]]
_KEYS = ("source", "language", "licence")
KEPT, OVERLAP = "kept", "test_overlap"
SAYS = ("right", "wrong")
_MOST_OVERLAPS, _MOST_SPANS, _MOST_BARS = 100, 3, 15


def page(corpus: Path, threshold: float = 0.8) -> str:
    """Return the review page of a corpus artifact."""
    manifest = _manifest(corpus)
    metrics, threshold = manifest.metrics, manifest.config.get("near_threshold", threshold)
    return pages.page(
        "data/review/review.html",
        node=manifest.node,
        headline=manifest.headline,
        funnel=_funnel(metrics["funnel"]),
        sources=[_source(name, row) for name, row in metrics["sources"].items()],
        sizes={key: _sizes(metrics[f"by_{key}"]) for key in _KEYS},
        languages=bars(_languages(metrics["by_language"]), "documents of a language"),
        lengths=bars(_lengths(corpus), "documents of so many characters and more"),
        curve=_curve(threshold),
        overlaps=_overlaps(corpus / "contaminated.jsonl"),
        samples=_samples(_rows(corpus / "samples.jsonl", _SAMPLE)),
        says=SAYS,
    )


_FUNNEL: dict[str, type] = {"step": str, "rule": str, "dropped": int, "left": int}
_SOURCE: dict[str, type] = {"file": str, "read": int, "kept": int, "dropped": dict, "quarantined": dict}
_SIZE: dict[str, type] = {"documents": int, "characters": int}
_SPAN: dict[str, type] = dict.fromkeys(("id", "source"), str)
_SAMPLE: dict[str, type] = dict.fromkeys(("step", "rule", "id", "source", "seen", "text"), str)


def _manifest(corpus: Path) -> Manifest:
    """Return the manifest of an intact corpus: what stands beside its files, as a page in that folder does, is not
    damage."""
    if not (corpus / MANIFEST).exists():
        raise UserError("no corpus here", where=str(corpus), expected=f"a folder with samples.jsonl and {MANIFEST}")
    manifest = read_manifest(corpus)
    if manifest.kind != "corpus":
        raise UserError(f"an artifact of the kind {manifest.kind!r}", where=str(corpus), expected="a corpus")
    if lines := [line for line in damage(corpus, quick=True) if not line.endswith(STRAY)]:
        raise damaged(corpus, lines, "make the corpus again")
    if odd := _odd(manifest):
        raise UserError(f"this key of a corpus cannot be shown: `{odd}`", where=str(corpus / MANIFEST),
                        expected="what this qwenkit writes", hint="make the corpus again")  # fmt: skip
    return manifest


def _odd(manifest: Manifest) -> str | None:
    """Return the first key of a manifest that the page cannot show."""
    metrics, tables = manifest.metrics, {"sources": _SOURCE, **{f"by_{key}": _SIZE for key in _KEYS}}
    funnel, threshold = metrics.get("funnel"), manifest.config.get("near_threshold", 1)
    if not isinstance(funnel, list) or not funnel or not all(_is(row, _FUNNEL) for row in funnel):
        return "metrics.funnel"
    for name, kinds in tables.items():
        rows = metrics.get(name)
        if not isinstance(rows, dict) or not all(_is(row, kinds) for row in rows.values()):
            return f"metrics.{name}"
    counts = [
        count
        for row in metrics["sources"].values()
        for key in ("dropped", "quarantined")
        for count in row[key].values()
    ]
    if not all(isinstance(count, int) for count in counts):
        return "metrics.sources"
    return None if isinstance(threshold, int | float) and 0 < threshold <= 1 else "config.near_threshold"


def _is(row: Any, kinds: dict[str, type]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())


def _rows(path: Path, kinds: dict[str, type]) -> Iterator[Row]:
    """Yield the rows of an accounting file of the corpus; raises a `UserError` that names another row."""
    for number, row in enumerate(read_jsonl(path), 1):
        if not _is(row, kinds):
            raise UserError("not a row of such a file", where=f"{path}, line {number}", expected=", ".join(kinds))
        yield row


def _funnel(rows: Sequence[Row]) -> list[Row]:
    """Return the steps with the share of all records that is left after each."""
    read = max(1, rows[0]["left"] + rows[0]["dropped"])
    return [{**row, "share": row["left"] / read} for row in rows]


def _source(name: str, row: Row) -> Row:
    """Return what became of a source's records, its rules by how many they took."""
    dropped, quarantined = Counter(row["dropped"]), Counter(row["quarantined"])
    rules = ", ".join(f"{rule} {count:,}" for rule, count in (dropped + quarantined).most_common())
    counts = (row["read"], row["kept"], dropped.total(), quarantined.total())
    return {"name": name, "file": row["file"], "counts": counts, "rules": rules}


def _sizes(sizes: dict[str, dict[str, int]]) -> list[Row]:
    """Return each group's documents and characters, and its share of all characters."""
    total = max(1, sum(size["characters"] for size in sizes.values()))
    return [{"name": name, **size, "share": size["characters"] / total} for name, size in sizes.items()]


def _languages(sizes: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    """Return the documents of the most frequent languages, the others together."""
    counts = Counter({name: size["documents"] for name, size in sizes.items()}).most_common()
    others = sum(count for _, count in counts[_MOST_BARS:])
    return counts[:_MOST_BARS] + ([("others", others)] if others else [])


def _lengths(corpus: Path) -> list[tuple[str, int]]:
    """Return how many documents have 2^n characters or more, up to twice that."""
    counts = np.zeros(64, dtype=np.int64)
    for path in sorted(corpus.glob("documents-*.parquet")):
        with parquet_io.sound(path):
            file = pq.ParquetFile(str(path))
            for group in range(file.metadata.num_row_groups):
                sizes = pc.utf8_length(file.read_row_group(group, columns=["text"])["text"])  # pyright: ignore
                counts += np.bincount(np.frexp(sizes.to_numpy())[1], minlength=64)
    used = np.flatnonzero(counts)
    between = range(used[0], used[-1] + 1) if len(used) else ()
    return [(f"{2 ** max(0, bits - 1):,}", int(counts[bits])) for bits in between]


def bars(values: Sequence[tuple[str, int]], title: str) -> str:
    """Return a small bar chart as SVG."""
    most = max((count for _, count in values), default=1) or 1
    drawn = "".join(
        f"<rect x={n * 46} y={100 - 100 * count / most:.1f} width=40 height={100 * count / most:.1f} />"
        f"<text x={n * 46 + 20} y=114>{html.escape(label)}</text>"
        f"<text x={n * 46 + 20} y={96 - 100 * count / most:.1f}>{count:,}</text>"
        for n, (label, count) in enumerate(values)
    )
    width = max(6, len(values)) * 46
    words = f"<text x={width / 2} y=132>{html.escape(title)}</text>"
    label = f"role=img aria-label='{html.escape(title)}'"
    return f"<svg {label} viewBox='0 -14 {width} 152' width={width}>{drawn}{words}</svg>"


def s_curve(threshold: float, pairs: int = 200, size: int = 200) -> tuple[Points, Points]:
    """Return two curves over the Jaccard similarity, (theory, measured): the chance that a pair of documents agrees in
    a band (LSH)."""
    bands, rows = minhash.bands_for(threshold)
    theory = [(s, 1 - (1 - s**rows) ** bands) for s in np.linspace(0, 1, 101).tolist()]
    measured = []
    for step in range(2, 21):
        common = round(2 * size * step / 20 / (1 + step / 20))
        count = sum(_agree(pair, common, size, bands, rows) for pair in range(pairs))
        measured.append((common / (2 * size - common), count / pairs))
    return theory, measured


def _agree(pair: int, common: int, size: int, bands: int, rows: int) -> bool:
    values = rng.random_bits(7, pair, common, np.arange(2 * size - common))
    left, right = (minhash.signature(part, bands * rows) for part in (values[:size], values[size - common :]))
    equal = (left == right)[: bands * rows].reshape(rows, bands)
    return bool(equal.all(axis=0).any())


@functools.lru_cache
def _curve(threshold: float) -> str:
    theory, measured = s_curve(threshold)
    line = " ".join(f"{400 * x:.1f},{200 - 200 * y:.1f}" for x, y in theory)
    dots = "".join(f"<circle cx={400 * x:.1f} cy={200 - 200 * y:.1f} r=3 />" for x, y in measured)
    mark = f"<line class=mark x1={400 * threshold} x2={400 * threshold} y1=0 y2=200 />"
    axes = "<line x1=0 x2=400 y1=200 y2=200 /><line x1=0 x2=0 y1=0 y2=200 />"
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = 400 * tick, 200 - 200 * tick
        axes += f"<line x1={x:g} x2={x:g} y1=200 y2=204 /><text x={x:g} y=214>{tick:g}</text>"
        axes += f"<line x1=-4 x2=0 y1={y:g} y2={y:g} /><text class=left x=-7 y={y + 3:g}>{tick:g}</text>"
    axes += "<text x=200 y=230>Jaccard similarity of two documents</text>"
    axes += "<text x=-100 y=-32 transform='rotate(-90)'>chance that they are compared</text>"
    box = "viewBox='-46 -10 460 246' width=460"
    return f"<svg role=img aria-label='S-curve' {box}>{axes}<polyline points='{line}' />{mark}{dots}</svg>"


def _overlaps(path: Path) -> Row:
    """Return every document that was dropped for a test beside the test; of more than a hundred a random hundred."""
    documents: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _rows(path, _SPAN) if path.exists() else ():
        documents[row["source"], row["id"]].append(row)
    luckiest = sorted(documents, key=lambda name: rng.derive_seed(0, "overlap", *name))[:_MOST_OVERLAPS]
    return {"total": len(documents), "documents": [_overlap(documents[name]) for name in sorted(luckiest)]}


def _overlap(spans: Sequence[Row]) -> Row:
    first, keys = spans[0], ("before", "matched", "after", "test_text")
    places = [
        {**{key: row.get(key, "") for key in keys}, "test": row.get("test_name", row.get("test", ""))}
        for row in spans[:_MOST_SPANS]
    ]
    return {"id": first["id"], "source": first["source"], "rule": OVERLAP, "places": places,
            "more": max(0, len(spans) - _MOST_SPANS)}  # fmt: skip


def _samples(rows: Iterable[Row]) -> list[Row]:
    """Return by source what each rule dropped and what was kept. Overlaps are shown above."""
    sources: defaultdict[str, defaultdict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["rule"] != OVERLAP:
            sources[row["source"]][row["step"], row["rule"]].append(row)
    result: list[Row] = []
    for source, rules in sorted(sources.items()):
        kept = [{**row, "rule": KEPT} for row in rules.pop((KEPT, ""), [])]
        dropped = [
            {"title": f"{step} {rule}", "cards": [{**row, "rule": rule or step} for row in samples]}
            for (step, rule), samples in sorted(rules.items())
        ]
        result.append({"source": source, "kept": kept, "dropped": dropped})
    return result


def judgements(saved: Path) -> list[dict[str, str]]:
    """Return the judgements of readers in order; a later one of the same document replaces an earlier one.

    Raises a `UserError` for a line that is not a judgement."""
    last: dict[tuple[str, str, str], dict[str, str]] = {}
    keys = ("rule", "source", "id", "say")
    for number, row in enumerate(read_jsonl(saved), 1):
        if missing := [key for key in keys if not isinstance(row.get(key), str)]:
            expected = "a judgement: id, source, rule and say"
            raise UserError(f"no {missing[0]}", where=f"{saved}:{number}", expected=expected)
        if row["say"] not in SAYS:
            raise UserError(f"say is {row['say']!r}", where=f"{saved}:{number}", expected=" or ".join(SAYS))
        last[row["rule"], row["source"], row["id"]] = {key: row[key] for key in keys}
    return list(last.values())


def summary(saved: Path) -> dict[str, Any]:
    """Return how many judgements were right and wrong, with the share of right ones and its 95 % interval (Wilson,
    1927): by rule, by source, and by both; and the share of overlaps with tests that are false positives."""
    rows = judgements(saved)
    return {
        "by_rule": _agreed(rows, lambda row: row["rule"]),
        "by_source": _agreed(rows, lambda row: row["source"]),
        "by_source_and_rule": _agreed(rows, lambda row: f"{row['source']} {row['rule']}"),
        "false_positives": _agreed((row for row in rows if row["rule"] == OVERLAP), lambda row: "overlaps", "wrong"),
    }


def _agreed(
    rows: Iterable[dict[str, str]], key: Callable[[dict[str, str]], str], counted: str = "right"
) -> dict[str, dict[str, float | None]]:
    judged: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        judged[key(row)][row["say"]] += 1
    result = {}
    for name, counts in sorted(judged.items()):
        share, low, high, _ = wilson(counts[counted], counts.total())
        result[name] = {"right": counts["right"], "wrong": counts["wrong"], "share": share, "low": low, "high": high}
    return result
