"""Reading a corpus (section 2.1, step 6: manual sampling and review): one page of funnel, curves and samples.

    page(Path("runs/nano/corpus"))              -> HTML, self-contained; `review_server` shows it and saves judgements
    summary(Path("review.jsonl"))               -> by rule and source: how often the readers agreed, with intervals

For every source and rule the page shows documents that the rule dropped, and beside them some of that source that were
kept; and every document that overlaps a test (of many, a random hundred) beside the test. "Right" and "wrong" are a
reader's judgement of what was done: wrong overlaps are false positives. The S-curve shows how likely a pair of a given
similarity is to be compared: theory, and pairs of random sets with that similarity.

A corpus may come from anywhere: what its manifest and ledger say is looked at before it is shown.
"""

from __future__ import annotations

import functools
import html
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qwenkit import rng
from qwenkit.artifacts import MANIFEST, STRAY, Manifest, damage, damaged, read_manifest
from qwenkit.data import parquet_io
from qwenkit.data.dedup import minhash
from qwenkit.errors import UserError
from qwenkit.records import read_jsonl
from qwenkit.statistics import wilson

Row = dict[str, Any]
Points = list[tuple[float, float]]
_KEYS = ("source", "language", "licence")
KEPT, OVERLAP = "kept", "test_overlap"
SAYS = ("right", "wrong")
_MOST_OVERLAPS, _MOST_SPANS, _MOST_BARS = 100, 3, 15


def page(corpus: Path, threshold: float = 0.8) -> str:
    """Return the review page of a corpus artifact."""
    manifest = _manifest(corpus)
    metrics, threshold = manifest.metrics, manifest.config.get("near_threshold", threshold)
    home = resources.files("qwenkit.data.review")
    style, script = (home.joinpath(name).read_text(encoding="utf-8") for name in ("review.css", "review.js"))
    parts = [
        f"<h1>{_said(manifest.node)}</h1><p>{_said(manifest.headline)}</p><div id=summary></div>",
        "<h2>Funnel</h2>" + _funnel(metrics["funnel"]),
        "<h2>Sources</h2>" + _sources(metrics["sources"]),
        *(f"<h2>By {key}</h2>" + _sizes(metrics[f"by_{key}"]) for key in _KEYS),
        "<h2>Languages</h2>" + bars(_languages(metrics["by_language"]), "documents of a language"),
        "<h2>Length</h2>" + bars(_lengths(corpus), "documents of so many characters and more"),
        "<h2>Near duplicates: the S-curve</h2>" + _curve(threshold),
        *_overlaps(corpus / "contaminated.jsonl"),
        "<h2>Samples</h2>" + "".join(_samples(_rows(corpus / "samples.jsonl", _SAMPLE))),
    ]
    head = f"<title>{_said(manifest.node)}: review</title><style>{style}</style>"
    head = f'<meta charset=utf-8><meta name=viewport content="width=device-width">{head}'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}<script>{script}</script></body></html>\n"


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
    """The first key of a manifest that is not as the page shows it."""
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
    """Rows of a book of the corpus; one that is not such a row is named."""
    for number, row in enumerate(read_jsonl(path), 1):
        if not _is(row, kinds):
            raise UserError("not a row of such a file", where=f"{path}, line {number}", expected=", ".join(kinds))
        yield row


def _said(value: object) -> str:
    """What others wrote, as text of the page."""
    return html.escape(str(value), True)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; it scrolls by itself where the window is narrow."""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f"<div class=wide><table><tr>{''.join(f'<th>{name}' for name in names)}{lines}</table></div>"


def _share(part: float, whole: float) -> str:
    return f"<i style='width:{100 * part / max(1, whole):.1f}%'></i>"


def _funnel(rows: Sequence[Row]) -> str:
    read = rows[0]["left"] + rows[0]["dropped"]
    cells = (
        (_said(row["step"]), _said(row["rule"]), f"{row['dropped']:,}", f"{row['left']:,}", _share(row["left"], read))
        for row in rows
    )
    return _table(("step", "rule", "dropped", "left", ""), cells)


def _sources(sources: dict[str, Row]) -> str:
    """What became of each source's records, in the order of the recipe."""
    rows = []
    for source, row in sources.items():
        dropped, aside = Counter(row["dropped"]), Counter(row["quarantined"])
        numbers = (row["read"], row["kept"], dropped.total(), aside.total())
        named = ", ".join(f"{_said(rule)} {count:,}" for rule, count in (dropped + aside).most_common())
        rows.append((_said(source), _said(row["file"]), *(f"{number:,}" for number in numbers), named))
    return _table(("source", "file", "read", "kept", "dropped", "quarantined", "by"), rows)


def _sizes(sizes: dict[str, dict[str, int]]) -> str:
    total = sum(size["characters"] for size in sizes.values())
    cells = (
        (_said(name), f"{size['documents']:,}", f"{size['characters']:,}", _share(size["characters"], total))
        for name, size in sizes.items()
    )
    return _table(("", "documents", "characters", ""), cells)


def _languages(sizes: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    """Documents of the commonest languages, the others together."""
    counts = Counter({name: size["documents"] for name, size in sizes.items()}).most_common()
    others = sum(count for _, count in counts[_MOST_BARS:])
    return counts[:_MOST_BARS] + ([("others", others)] if others else [])


def _lengths(corpus: Path) -> list[tuple[str, int]]:
    """How many documents have 2^n characters and more, up to twice that."""
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
        f"<text x={n * 46 + 20} y=114>{_said(label)}</text>"
        f"<text x={n * 46 + 20} y={96 - 100 * count / most:.1f}>{count:,}</text>"
        for n, (label, count) in enumerate(values)
    )
    width = max(6, len(values)) * 46
    words = f"<text x={width / 2} y=132>{_said(title)}</text>"
    return f"<svg role=img aria-label='{_said(title)}' viewBox='0 -14 {width} 152' width={width}>{drawn}{words}</svg>"


def s_curve(threshold: float, pairs: int = 200, size: int = 200) -> tuple[Points, Points]:
    """Return (Theory, measured): the chance that a pair of a similarity agrees in a band."""
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
    words = "<p>Line: theory. Dots: pairs of random sets. Upright: the threshold. Found pairs are then verified.</p>"
    box = "viewBox='-46 -10 460 246' width=460"
    return f"<svg role=img aria-label='S-curve' {box}>{axes}<polyline points='{line}' />{mark}{dots}</svg>{words}"


def _overlaps(path: Path) -> Iterator[str]:
    """Every document that was dropped for a test beside the test; of more than a hundred a random hundred."""
    documents: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _rows(path, _SPAN) if path.exists() else ():
        documents[row["source"], row["id"]].append(row)
    luckiest = sorted(documents, key=lambda name: rng.derive_seed(0, "overlap", *name))[:_MOST_OVERLAPS]
    if luckiest:
        yield f"<h2>Overlaps with tests</h2><p>{len(luckiest)} of {len(documents)} documents. Wrong: the document "
        yield "does not give the test away, and was lost for nothing.</p><section>"
        yield "".join(_overlap(documents[name]) for name in sorted(luckiest)) + "</section>"


def _overlap(spans: Sequence[Row]) -> str:
    shown = ""
    for row in spans[:_MOST_SPANS]:
        before, matched, after, test = (_said(row.get(key, "")) for key in ("before", "matched", "after", "test_text"))
        name = row.get("test_name", row.get("test", ""))
        shown += f"<pre>{before}<mark>{matched}</mark>{after}</pre><h5>test {_said(name)}</h5><pre>{test}</pre>"
    more = f"<p>and {len(spans) - _MOST_SPANS} more places</p>" if len(spans) > _MOST_SPANS else ""
    return _article(spans[0], OVERLAP, shown + more)


def _samples(rows: Iterable[Row]) -> Iterator[str]:
    """By source: what each rule dropped on the left, what was kept on the right. Overlaps are shown above."""
    sources: defaultdict[str, defaultdict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["rule"] != OVERLAP:
            sources[row["source"]][row["step"], row["rule"]].append(row)
    for source, rules in sorted(sources.items()):
        kept = "".join(_sample(row, KEPT) for row in rules.pop((KEPT, ""), []))
        dropped = "".join(
            f"<h4>{_said(step)} {_said(rule)}</h4>" + "".join(_sample(row, rule or step) for row in samples)
            for (step, rule), samples in sorted(rules.items())
        )
        sides = (
            (f"<h4>{name}</h4>{cards}" if cards else f"<h4>{name}: none</h4>")
            for name, cards in (("dropped", dropped), ("kept", kept))
        )
        yield f"<h3>{_said(source)}</h3><div class=beside>{''.join(f'<div>{side}</div>' for side in sides)}</div>"


def _sample(row: Row, rule: str) -> str:
    return _article(row, rule, f"<p class=seen>{_said(row['seen'])}</p><pre>{_said(row['text'])}</pre>")


def _article(row: Row, rule: str, shown: str) -> str:
    name, source = _said(row["id"]), _said(row["source"])
    buttons = "".join(f"<button data-say={say}>{say}</button>" for say in SAYS)
    data = f'data-id="{name}" data-source="{source}" data-rule="{_said(rule)}"'
    return f"<article {data}><h5>{source} · {name}</h5>{shown}{buttons}</article>"


def judgements(saved: Path) -> list[dict[str, str]]:
    """Return what readers said, in order; a later judgement of a document replaces an earlier one."""
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
    """Return how many judgements were right and wrong, with the share of right ones and its 95 % interval (Wilson): of
    every rule, every source, and every rule of every source; and the share of overlaps with tests that are none."""
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
