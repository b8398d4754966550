"""Text extraction on gold pages: qwenkit's `extract_text` beside two others.

    python benchmarks/extraction.py [--pages 200]

Gold: the article-extraction-benchmark (full article text), DAnIEL (news in five languages) and the Trafilatura set
(strings that must and must not be kept). Speed: every fifth page, five rounds in turn, medians of processor time; the
last line is the ratio to trafilatura. They are found in QWENKIT_TEST_DATA, by default ../shared/data; without them
this prints so and ends. Score: F1 over the multiset of 4-grams of units (words; characters of Chinese), precision and
recall averaged over pages, as the article-extraction-benchmark counts. Intervals: bootstrap over pages, 95 %.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from resiliparse.extract.html2text import extract_plain_text

from qwenkit.data import extract
from qwenkit.data.charset import decode
from qwenkit.data.units import units

DATA = Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data"))
Page = tuple[str, bytes, str]  # group, HTML, gold text


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield Path(member.name).name, file.read()


def article_benchmark() -> Iterator[Page]:
    folder = DATA / "web_article_benchmark"
    gold = json.loads(gzip.decompress((folder / "ground-truth.json.gz").read_bytes()))
    for name, html in members(folder / "html.tar.xz"):
        if name.removesuffix(".html") in gold:
            yield "articles", html, gold[name.removesuffix(".html")]["articleBody"]


def daniel() -> Iterator[Page]:
    folder = DATA / "web_daniel"
    language = json.loads(gzip.decompress((folder / "doc_lg.json.gz").read_bytes()))
    plain = (re.sub(rb"</?\w[^>]*>", b" ", text) for _, text in members(folder / "reference.tar.xz"))
    names = (name for name, _ in members(folder / "reference.tar.xz"))
    gold = {name: text.decode("utf-8", "replace") for name, text in zip(names, plain)}
    for name, html in members(folder / "html.tar.xz"):
        if name in gold:
            yield f"daniel {language.get(name, '?')}", html, gold[name]


def overlap(got: str, gold: str, size: int = 4) -> tuple[float, float]:
    """Precision and recall of 4-grams."""
    grams = [Counter(zip(*(units(text)[offset:] for offset in range(size)))) for text in (got, gold)]
    common = (grams[0] & grams[1]).total()
    return common / max(1, grams[0].total()), common / max(1, grams[1].total())


def f1(pairs: np.ndarray) -> float:
    precision, recall = pairs.mean(axis=0)
    return float(2 * precision * recall / max(1e-9, precision + recall))


def interval(pairs: np.ndarray) -> float:
    """Half of the 95 % bootstrap interval of F1."""
    rng = np.random.default_rng(0)
    drawn = [f1(pairs[rng.integers(0, len(pairs), len(pairs))]) for _ in range(300)]
    return float(np.subtract(*np.percentile(drawn, [97.5, 2.5])) / 2)


def measure(name: str, extractor: Callable[[bytes], str], pages: list[Page]) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    start = time.perf_counter()
    texts = [extractor(html) for _, html, _ in pages]
    seconds = time.perf_counter() - start
    for (group, _, gold), text in zip(pages, texts):
        groups.setdefault(group, []).append(overlap(text, gold))
    cells = [f"{group} {f1(np.array(p)):.3f} ±{interval(np.array(p)):.3f}" for group, p in sorted(groups.items())]
    print(f"{name:<12} {len(pages) / seconds:6.0f} pages/s  " + "  ".join(cells), flush=True)


def strings_kept(name: str, extractor: Callable[[bytes], str], limit: int) -> None:
    """The Trafilatura set: share of wanted strings kept and of unwanted strings left out."""
    folder = DATA / "web_trafilatura"
    gold = {
        row["file"]: row for row in json.loads(gzip.decompress((folder / "evaldata.json.gz").read_bytes())).values()
    }
    hits: list[tuple[int, int]] = []
    wanted = unwanted = kept = wrong = 0
    for file, html in list(members(folder / "html.tar.xz"))[:limit]:
        if file in gold:
            text = extractor(html)
            wanted += len(gold[file]["with"])
            unwanted += len(gold[file]["without"])
            kept += sum(string in text for string in gold[file]["with"])
            wrong += sum(string in text for string in gold[file]["without"])
            hits.append((kept, wrong))
    precision, recall = kept / max(1, kept + wrong), kept / max(1, wanted)
    print(
        f"{name:<12} strings kept {recall:.3f}, unwanted kept {wrong / max(1, unwanted):.3f}, "
        f"F1 {2 * precision * recall / (precision + recall):.3f} ({len(hits)} pages)"
    )


def speeds(pages: list[bytes], rounds: int = 5) -> dict[str, list[float]]:
    """Pages a second of processor time, the extractors in turn."""
    rates: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    for _ in range(rounds):
        for name, extractor in EXTRACTORS.items():
            start = time.process_time()
            for html in pages:
                extractor(html)
            rates[name].append(len(pages) / (time.process_time() - start))
    return rates


def resiliparse(html: bytes) -> str:
    page = decode(html)
    return extract.tidy(
        extract_plain_text(page, main_content=True, preserve_formatting=True, alt_texts=False, comments=False)
    )


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    "qwenkit": extract.extract_text,
    "resiliparse": resiliparse,
    "trafilatura": lambda html: extract.tidy(extract.extract_careful(decode(html))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=10_000, help="at most this many pages of each set")
    limit = parser.parse_args().pages
    if not (DATA / "web_article_benchmark").is_dir():
        print(f"no gold pages in {DATA.name} (set QWENKIT_TEST_DATA)")
        return
    pages = [*list(article_benchmark())[:limit], *list(daniel())[:limit]]
    for name, extractor in EXTRACTORS.items():
        measure(name, extractor, pages)
        strings_kept(name, extractor, limit)
    rates = speeds([html for _, html, _ in pages[::5]])
    print("pages/s:", ", ".join(f"{name} {np.median(r):.0f} ({min(r):.0f}-{max(r):.0f})" for name, r in rates.items()))
    print(f"ratio {np.median(rates['qwenkit']) / np.median(rates['trafilatura']):.2f}")


if __name__ == "__main__":
    main()
