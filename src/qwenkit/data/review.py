"""Reading a corpus (section 2.1, step 6: manual sampling and review): one page of funnel, curves and samples.

    page(Path("runs/nano/corpus"))              -> HTML, self-contained
    serve(folder, Path("review.jsonl"))         the same page on 127.0.0.1, where a reader's judgements are saved
    summary(Path("review.jsonl"))               -> per rule: how often the readers agreed with it

For every rule the page shows documents that it dropped, and beside them some that were kept; "right" and "wrong" are a
reader's judgement of what the rule did. The S-curve shows how likely a pair of a given similarity is to be compared:
theory, and pairs of random sets with that similarity.
"""

from __future__ import annotations

import html
import json
import socketserver
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from qwenkit import draws
from qwenkit.data import dedup
from qwenkit.errors import UserError
from qwenkit.records import dumps, read_json, read_jsonl

Points = list[tuple[float, float]]


def page(corpus: Path, threshold: float = 0.8) -> str:
    """The review page of a corpus artifact."""
    if not (corpus / "manifest.json").exists() or not (corpus / "samples.jsonl").exists():
        raise UserError("no corpus here", where=str(corpus), expected="a folder with samples.jsonl and manifest.json")
    manifest = read_json(corpus / "manifest.json")
    metrics, threshold = manifest["metrics"], manifest["config"].get("near_threshold", threshold)
    style = resources.files("qwenkit.data").joinpath("review.css").read_text(encoding="utf-8")
    script = resources.files("qwenkit.data").joinpath("review.js").read_text(encoding="utf-8")
    parts = [
        f"<h1>{html.escape(manifest['node'])}</h1><p>{html.escape(manifest['headline'])}</p>",
        "<h2>Funnel</h2>" + _funnel(metrics["funnel"]),
        *(f"<h2>By {key}</h2>" + _sizes(metrics[f"by_{key}"]) for key in ("source", "language", "licence")),
        "<h2>Length</h2>" + bars(_lengths(corpus), "documents of so many characters"),
        "<h2>Near duplicates: the S-curve</h2>" + _curve(threshold),
        "<h2>Samples</h2>" + "".join(_samples(read_jsonl(corpus / "samples.jsonl"))),
    ]
    head = f"<meta charset=utf-8><title>{html.escape(manifest['node'])}: review</title><style>{style}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}<script>{script}</script></body></html>\n"


def _funnel(rows: Sequence[dict[str, Any]]) -> str:
    read = max(1, rows[0]["left"] + rows[0]["dropped"])
    cells = (
        f"<tr><td>{row['step']}<td>{row['rule']}<td>{row['dropped']:,}<td>{row['left']:,}"
        f"<td><i style='width:{100 * row['left'] / read:.1f}%'></i>"
        for row in rows
    )
    return f"<table><tr><th>step<th>rule<th>dropped<th>left<th class=bar>{''.join(cells)}</table>"


def _sizes(found: dict[str, dict[str, int]]) -> str:
    total = max(1, sum(size["characters"] for size in found.values()))
    cells = (
        f"<tr><td>{html.escape(name)}<td>{size['documents']:,}<td>{size['characters']:,}"
        f"<td><i style='width:{100 * size['characters'] / total:.1f}%'></i>"
        for name, size in found.items()
    )
    return f"<table><tr><th><th>documents<th>characters<th class=bar>{''.join(cells)}</table>"


def _lengths(corpus: Path) -> list[tuple[str, int]]:
    """How many documents have 2^n characters and more, up to twice that."""
    counts: Counter[int] = Counter()
    for path in sorted(corpus.glob("documents-*.parquet")):
        file = pq.ParquetFile(str(path))
        for group in range(file.metadata.num_row_groups):
            texts = file.read_row_group(group, columns=["text"])["text"].to_pylist()
            counts.update(max(0, len(text)).bit_length() for text in texts)
    sizes = range(min(counts, default=0), max(counts, default=-1) + 1)
    return [(f"{2 ** max(0, bits - 1):,}", counts[bits]) for bits in sizes]


def bars(values: Sequence[tuple[str, int]], title: str) -> str:
    """A small bar chart as SVG."""
    most = max((count for _, count in values), default=1) or 1
    drawn = "".join(
        f"<rect x={n * 46} y={100 - 100 * count / most:.1f} width=40 height={100 * count / most:.1f} />"
        f"<text x={n * 46 + 20} y=114>{label}</text>"
        f"<text x={n * 46 + 20} y={96 - 100 * count / most:.1f}>{count:,}</text>"
        for n, (label, count) in enumerate(values)
    )
    return f"<svg role=img aria-label='{title}' viewBox='0 -14 {max(1, len(values)) * 46} 134'>{drawn}</svg>"


def s_curve(threshold: float, pairs: int = 200, size: int = 200) -> tuple[Points, Points]:
    """(Theory, measured): the chance that a pair of a similarity agrees in a band."""
    bands, rows = dedup.bands_for(threshold)
    theory = [(s, 1 - (1 - s**rows) ** bands) for s in np.linspace(0, 1, 101).tolist()]
    measured = []
    for step in range(2, 21):
        common = round(2 * size * step / 20 / (1 + step / 20))
        found = sum(_agree(pair, common, size, bands, rows) for pair in range(pairs))
        measured.append((common / (2 * size - common), found / pairs))
    return theory, measured


def _agree(pair: int, common: int, size: int, bands: int, rows: int) -> bool:
    values = draws.bits(7, pair, common, np.arange(2 * size - common))
    left, right = (dedup.signature(part, bands * rows) for part in (values[:size], values[size - common :]))
    equal = (left == right)[: bands * rows].reshape(rows, bands)
    return bool(equal.all(axis=0).any())


def _curve(threshold: float) -> str:
    theory, measured = s_curve(threshold)
    line = " ".join(f"{400 * x:.1f},{200 - 200 * y:.1f}" for x, y in theory)
    dots = "".join(f"<circle cx={400 * x:.1f} cy={200 - 200 * y:.1f} r=3 />" for x, y in measured)
    mark = f"<line x1={400 * threshold} x2={400 * threshold} y1=0 y2=200 />"
    words = "<p>Line: theory. Dots: pairs of random sets. Upright: the threshold. Found pairs are then verified.</p>"
    return f"<svg viewBox='-10 -10 430 230'><polyline points='{line}' />{dots}{mark}</svg>{words}"


def _samples(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    by_rule: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rule[row["step"], row["rule"]].append(row)
    for (step, rule), found in sorted(by_rule.items()):
        cards = "".join(_card(row, rule or step) for row in found)
        yield f"<h3>{step} {rule}</h3><section>{cards}</section>"


def _card(row: dict[str, Any], rule: str) -> str:
    name, source, seen, text = (html.escape(row[key], True) for key in ("id", "source", "seen", "text"))
    shown = f"<h4>{source} · {name}</h4><p class=seen>{seen}</p><pre>{text}</pre>"
    buttons = "".join(f"<button data-say={say}>{say}</button>" for say in ("right", "wrong"))
    return f'<article data-id="{name}" data-rule="{rule}">{shown}{buttons}</article>'


def serve(corpus: Path, saved: Path, port: int = 0) -> socketserver.TCPServer:
    """A server of the page on this machine alone; each judgement is a row of `saved`. `serve_forever()` runs it."""
    body = page(corpus).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/" else 404, body if self.path == "/" else b"")

        def do_POST(self) -> None:
            if self.headers.get("Origin", f"http://{self.headers.get('Host')}") != f"http://{self.headers.get('Host')}":
                return self._answer(403, b"")  # another site's page, not ours
            try:
                given = json.loads(self.rfile.read(min(10_000, max(0, int(self.headers.get("Content-Length", 0))))))
                row = {key: str(given[key]) for key in ("id", "rule", "say")}
                if row["say"] not in ("right", "wrong"):
                    raise ValueError(row["say"])
            except (ValueError, KeyError, TypeError, RecursionError):
                return self._answer(400, b"")
            with saved.open("a", encoding="utf-8") as file:
                file.write(dumps(row) + "\n")
            return self._answer(204, b"")

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the page's own reader is its only visitor."""

    return _Server(("127.0.0.1", port), Handler)


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection: browsers open one in advance and leave it idle, and it must not hold up others."""

    daemon_threads = True


def summary(saved: Path) -> dict[str, dict[str, int]]:
    """Of every rule, how many of its samples were judged right and wrong; a later judgement replaces an earlier one."""
    last: dict[tuple[str, str], str] = {}
    for number, row in enumerate(read_jsonl(saved), 1):
        if missing := [key for key in ("rule", "id", "say") if not isinstance(row.get(key), str)]:
            raise UserError(f"no {missing[0]}", where=f"{saved}:{number}", expected="a judgement: id, rule and say")
        last[row["rule"], row["id"]] = row["say"]
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (rule, _), say in sorted(last.items()):
        counts[rule][say] += 1
    return {rule: {"right": said["right"], "wrong": said["wrong"]} for rule, said in counts.items()}
