"""Text extraction on gold pages: qwenkit's `extract_text` beside two others, and beside itself as it was.

    python benchmarks/extraction.py [--pages 200] [--save before.json] [--against before.json]

Gold: the article-extraction-benchmark (full article text), DAnIEL (news in five languages), Readability's test pages
(the page's own markup, cleaned) and the Trafilatura set (strings that must and must not be kept). `--save` writes every
page's score, and `--against` compares with such a file, page by page: for each set the difference of F1 with its
paired interval, and each page that lost more than 0.1 or gained as much; both leave the other extractors and the speed
out. Speed: every fifth page, five rounds in turn, medians of processor time; the last line is the ratio to
trafilatura. The pages are found in QWENKIT_TEST_DATA, by default ../shared/data; without them this prints so and ends.
Score: F1 over the multiset of 4-grams of units (words; characters of Chinese), precision and recall averaged over
pages, as the article-extraction-benchmark counts; of the strings, kept ones among wanted ones, and wanted ones among
kept ones. Intervals: bootstrap over pages, 95 %.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from resiliparse.extract.html2text import extract_plain_text

from qwenkit.data.extract import text as extract
from qwenkit.data.readers.encoding import decode
from qwenkit.data.text_units import units

DATA = Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data"))
Score = tuple[float, float, float, float]  # hits and all of what was given; hits and all of what was wanted
Scores = dict[str, dict[str, Score]]  # by set and page
_BLOCK_TAG = re.compile(r"</?(?:p|div|li|h\d|td|th|tr|pre|br|figure|figcaption|blockquote|section|article|dt|dd)\b")
MARGIN = 0.1  # of F1: a page that changes by more is named


class Page(NamedTuple):
    group: str
    name: str
    html: bytes
    score: Callable[[str], Score]


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def article_benchmark() -> Iterator[Page]:
    folder = DATA / "web_article_benchmark"
    gold = json.loads(gzip.decompress((folder / "ground-truth.json.gz").read_bytes()))
    for path, page in members(folder / "html.tar.xz"):
        name = Path(path).name.removesuffix(".html")
        if name in gold:
            yield Page("articles", name, page, against_text(gold[name]["articleBody"]))


def daniel() -> Iterator[Page]:
    folder = DATA / "web_daniel"
    language = json.loads(gzip.decompress((folder / "doc_lg.json.gz").read_bytes()))
    gold = {Path(path).name: text for path, text in members(folder / "reference.tar.xz")}
    for path, page in members(folder / "html.tar.xz"):
        name = Path(path).name
        if name in gold:
            plain = re.sub(rb"</?\w[^>]*>", b" ", gold[name]).decode("utf-8", "replace")
            yield Page(f"daniel {language.get(name, '?')}", name, page, against_text(plain))


def readability() -> Iterator[Page]:
    files = dict(members(DATA / "web_readability" / "test-pages.tar.xz"))
    for path, page in sorted(files.items()):
        gold = files.get(path.replace("source.html", "expected.html"))
        if path.endswith("source.html") and gold:
            marked = _BLOCK_TAG.sub(r" \g<0>", gold.decode("utf-8", "replace"))
            yield Page(
                "readability", path.split("/")[-2], page, against_text(html.unescape(re.sub("<[^>]*>", "", marked)))
            )


def trafilatura_set() -> Iterator[Page]:
    folder = DATA / "web_trafilatura"
    rows = json.loads(gzip.decompress((folder / "evaldata.json.gz").read_bytes())).values()
    gold = {row["file"]: row for row in rows}
    for path, page in members(folder / "html.tar.xz"):
        name = Path(path).name
        if name in gold:
            yield Page("trafilatura", name, page, against_strings(gold[name]["with"], gold[name]["without"]))


def against_text(gold: str) -> Callable[[str], Score]:
    """Shares of 4-grams: so each page counts alike."""

    def score(text: str) -> Score:
        grams = [Counter(zip(*(units(side)[offset:] for offset in range(4)))) for side in (text, gold)]
        common = (grams[0] & grams[1]).total()
        return common / max(1, grams[0].total()), 1, common / max(1, grams[1].total()), 1

    return score


def against_strings(wanted: list[str], unwanted: list[str]) -> Callable[[str], Score]:
    """Counts: so each string counts alike."""

    def score(text: str) -> Score:
        kept = sum(string in text for string in wanted)
        return kept, kept + sum(string in text for string in unwanted), kept, len(wanted)

    return score


def f1(scores: np.ndarray) -> float:
    hits, given, found, wanted = scores.sum(axis=0)
    precision, recall = hits / max(1e-9, given), found / max(1e-9, wanted)
    return float(2 * precision * recall / max(1e-9, precision + recall))


def interval(*sides: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of F1, or of how much more the second side has on the same pages."""
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    for _ in range(1000):
        pages = rng.integers(0, len(sides[0]), len(sides[0]))
        values = [f1(side[pages]) for side in sides]
        drawn.append(values[-1] - (values[0] if len(values) > 1 else 0))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def measure(extractor: Callable[[bytes], str], pages: list[Page]) -> Scores:
    scores: Scores = {}
    for page in pages:
        scores.setdefault(page.group, {})[page.name] = page.score(extractor(page.html))
    return scores


def tell(name: str, scores: Scores) -> None:
    cells: list[str] = []
    for group, rows in sorted(scores.items()):
        values = np.array(list(rows.values()))
        low, high = interval(values)
        cells.append(f"{group} ({len(rows)}) {f1(values):.3f} ±{(high - low) / 2:.3f}")
    print(f"{name:<12}", "  ".join(cells), flush=True)


def compare(before: Scores, after: Scores) -> None:
    """Set by set, and the pages that changed much."""
    for group, rows in sorted(after.items()):
        names = [name for name in rows if name in before.get(group, {})]
        if not names:
            continue
        old, new = np.array([before[group][n] for n in names]), np.array([rows[n] for n in names])
        low, high = interval(old, new)
        verdict = "worse" if high < 0 else "better" if low > 0 else "level"
        change = f"{f1(new) - f1(old):+.4f} [{low:+.4f}, {high:+.4f}] {verdict}"
        print(f"{group:<16} ({len(names)}) {f1(old):.4f} -> {f1(new):.4f}  {change}")
        changes = sorted((f1(new[i : i + 1]) - f1(old[i : i + 1]), name) for i, name in enumerate(names))
        for change, name in changes:
            if abs(change) > MARGIN:
                print(f"    {change:+.3f} {name}")


def speeds(pages: list[bytes], rounds: int = 5) -> dict[str, list[float]]:
    """Pages a second of processor time, the extractors in turn."""
    rates: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    for _ in range(rounds):
        for name, extractor in EXTRACTORS.items():
            start = time.process_time()
            for page in pages:
                extractor(page)
            rates[name].append(len(pages) / (time.process_time() - start))
    return rates


def resiliparse(page: bytes) -> str:
    text = extract_plain_text(
        decode(page), main_content=True, preserve_formatting=True, alt_texts=False, comments=False
    )
    return extract.tidy(text)


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    "qwenkit": extract.extract_text,
    "resiliparse": resiliparse,
    "trafilatura": lambda page: extract.tidy(extract.extract_careful(decode(page))),
}


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=10_000, help="at most this many pages of each set")
    parser.add_argument("--save", type=Path, help="write every page's score there")
    parser.add_argument("--against", type=Path, help="compare with the scores that were saved there")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not (DATA / "web_article_benchmark").is_dir():
        print(f"no gold pages in {DATA.name} (set QWENKIT_TEST_DATA)")
        return
    sets = (article_benchmark, daniel, readability, trafilatura_set)
    pages = [page for read in sets for page in list(read())[: args.pages]]
    ours = measure(extract.extract_text, pages)
    tell("qwenkit", ours)
    if args.save:
        args.save.write_text(json.dumps(ours))
    if args.against:
        compare(json.loads(args.against.read_text()), ours)
    if args.save or args.against:
        return
    for name, extractor in list(EXTRACTORS.items())[1:]:
        tell(name, measure(extractor, pages))
    rates = speeds([page.html for page in pages[::5]])
    print("pages/s:", ", ".join(f"{name} {np.median(r):.0f} ({min(r):.0f}-{max(r):.0f})" for name, r in rates.items()))
    print(f"ratio {np.median(rates['qwenkit']) / np.median(rates['trafilatura']):.2f}")


if __name__ == "__main__":
    main()
