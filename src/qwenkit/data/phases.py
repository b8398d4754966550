"""What is done to one chunk in each phase of a corpus (`corpus` joins them; `copies` does what needs all chunks).

    read_part     a part of a source: documents, text out of pages, language         -> rows, ledger
    sign_part     exact keys and MinHash bands of those rows                         -> signatures
    clean_part    of what is no copy: quality, personal data, tests, mixture         -> documents, ledger, attributes

Each is a pure function of its arguments and files: no order, no state, no clock. A document is in the ledger once, with
what became of it: by that `read = kept + dropped by each rule + quarantined` can be counted to the record.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qwenkit import draws
from qwenkit.data import dedup, mixture, quality, tables
from qwenkit.data.classifier import QualityClassifier
from qwenkit.data.copies import copies_of
from qwenkit.data.decontaminate import Match, TestIndex
from qwenkit.data.extract import extract_text, tidy
from qwenkit.data.language import detect_language
from qwenkit.data.perplexity import Perplexity
from qwenkit.data.pii import scrub
from qwenkit.data.published import bad_words
from qwenkit.data.readers import Document, Source, Split, read_split
from qwenkit.data.settings import CorpusConfig, applies
from qwenkit.data.wordlist import WordLists
from qwenkit.records import Quarantine

Row = dict[str, Any]
Fate = tuple[str, str, str, str]  # step, rule, what was seen, of which document
ROWS, LEDGER, SIGNATURES = "rows.parquet", "ledger.parquet", "signatures.parquet"
DOCUMENTS, ATTRIBUTES = "documents.parquet", "attributes.parquet"
KEPT = "kept"
_NO_LANGUAGE = "code"
_AROUND = 200  # characters kept before and after an overlap


@dataclass
class Books:
    """The fate of every document of a chunk: counts, the ledger's rows, a few samples of every rule and source."""

    seed: int
    keep: int
    ledger: tables.Writer
    read: int = 0
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # step, rule, source
    samples: defaultdict[tuple[str, str, str], list[Any]] = field(default_factory=lambda: defaultdict(list))

    def fate(self, row: Row, step: str, rule: str, seen: str = "", of: str = "", copies: int = 0) -> None:
        """Write down what became of a document."""
        if step != KEPT:
            self.counts[step, rule, row["source"]] += 1
        place = {key: row[key] for key in ("id", "source", "place")}
        self.ledger.add({**place, "step": step, "rule": rule, "seen": seen, "of": of, "copies": copies})
        self._sample(row, step, rule, seen or of)

    def _sample(self, row: Row, step: str, rule: str, seen: str) -> None:
        """Keep a random few, by a draw that is the document's own."""
        luck = draws.derive(self.seed, step, rule, row["source"], row["place"])
        shown = {"step": step, "rule": rule, "id": row["id"], "source": row["source"], "seen": seen}
        entry = (-luck, row["place"], {**shown, "text": row["text"][:1000]})
        kept = self.samples[step, rule, row["source"]]
        if len(kept) < self.keep:
            heapq.heappush(kept, entry)
        elif kept and entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    def mark(self) -> dict[str, Any]:
        """What the chunk's mark says of its books."""
        counts = [[*key, count] for key, count in sorted(self.counts.items())]
        return {
            "read": self.read,
            "counts": counts,
            "samples": [e for k in sorted(self.samples) for e in self.samples[k]],
        }


# -- phase 1: read, extract, language --------------------------------------------------------------------------------


def read_part(out: Path, split: Split, source: Source, config: CorpusConfig) -> dict[str, Any]:
    """Documents of a part of a source as rows; those without text or of an unwanted language end here."""
    quarantine = Quarantine()
    with tables.Writer(out / ROWS, tables.DOCUMENT) as rows, tables.Writer(out / LEDGER, tables.LEDGER) as ledger:
        books = Books(config.seed, config.samples_per_rule, ledger)
        for document in read_split(split, source, quarantine):
            books.read += 1
            row, sure = _row(source, document)
            fate = _unwanted(row, sure, source, config)
            if fate:
                books.fate(row, *fate)
            else:
                rows.add(row)
    bad = {"quarantine": quarantine.rows, "bad": dict(quarantine.counts)}
    return {**books.mark(), **bad, "source": source.name}


def text_of(source: Source, document: Document) -> str:
    """A document's text. A page is decoded and extracted; other text is only tidied, and code left as it is."""
    if source.kind == "html":
        return dedup.collapse_repeated_lines(extract_text(document.body, document.url, document.charset))
    text = document.body if isinstance(document.body, str) else document.body.decode("utf-8", "replace")
    return text.encode("utf-8", "replace").decode() if source.kind == "code" else tidy(text)


def _row(source: Source, document: Document) -> tuple[Row, float]:
    """A document's row, and how sure its language is."""
    text = text_of(source, document)
    fields = {key: value for key, value in document.fields.items() if _is_plain(value)}
    licence, license_, language = (fields.pop(key, "") for key in ("licence", "license", "language"))
    licence = _text(licence) or _text(license_) or source.licence
    language, sure = _text(language), 1.0
    if not language:
        language, sure = (_NO_LANGUAGE, 1.0) if source.kind == "code" else detect_language(text)
    own = ("id", "text", "source", "kind", "url", "place", "meta", "copy")
    meta = {key: value for key, value in fields.items() if key not in own}
    row = {"id": document.id, "text": text, "source": source.name, "kind": source.kind, "licence": licence}
    row |= {"language": language, "url": document.url, "place": document.place}
    return {**row, "meta": json.dumps(meta, ensure_ascii=True) if meta else None}, sure


def _is_plain(value: Any) -> bool:
    """What a column of a document may hold; NaN, which others write where there is nothing, is no value."""
    return isinstance(value, str | int | bool) or (isinstance(value, float) and isfinite(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _unwanted(row: Row, sure: float, source: Source, config: CorpusConfig) -> tuple[str, str, str] | None:
    """The (step, rule, what was seen) that ends a document before all comparing; None: it goes on."""
    language, licence = row["language"], row["licence"]
    if not row["text"].strip():
        return "extract", "no_text", row["url"] or ""
    if applies("licence", source, config) and licence not in (config.allow_licences or ()):
        return "licence", "licence_not_allowed", licence
    if not applies("language", source, config):
        return None
    if config.languages is not None and language not in config.languages:
        return "language", "unwanted_language", f"{language} {sure:.2f}"
    if sure < config.min_confidence:
        return "language", "doubtful_language", f"{language} {sure:.2f}"
    return None


# -- phase 2: signatures ---------------------------------------------------------------------------------------------


def sign_part(out: Path, number: int, rows: Path, source: Source, config: CorpusConfig) -> dict[str, Any]:
    """Exact key, band keys, size and id of every row, by its number; of lines, how many rows hold them."""
    bands, _ = dedup.bands_for(config.near_threshold)
    exact, near = applies("exact_duplicates", source, config), applies("near_duplicates", source, config)
    fields = [("doc", pa.int64()), ("size", pa.int32()), ("name", pa.int64())]
    fields += [(name, pa.int64()) for name in ("exact", "exact_low", *(f"band_{band}" for band in range(bands)))]
    lines: Counter[int] = Counter()
    done = 0
    with pq.ParquetWriter(str(out / SIGNATURES), pa.schema(fields), compression="zstd") as writer:
        for batch in tables.read(rows, ["id", "text"]):
            texts = [row["text"] for row in batch]
            docs = (number << 32) + np.arange(done, done + len(batch))
            keys, columns = dedup.sketches(texts, config.near_threshold, near)
            keys = keys if exact else np.zeros_like(keys)
            names = np.array([dedup.name_key(row["id"]) for row in batch], np.int64)
            table = [docs, np.array(list(map(len, texts)), np.int32), names]
            table += [column.view(np.int64) for column in (*keys.T.copy(), *columns.T.copy())]
            writer.write_table(pa.table(dict(zip([name for name, _ in fields], table)), schema=pa.schema(fields)))
            if applies("lines", source, config):
                for text in texts:
                    lines.update(set(dedup.line_keys(text)) - {0})
            done += len(batch)
    if lines:
        values = np.array(sorted(lines), dtype=np.uint64).view(np.int64)
        counted = np.array([lines[key] for key in sorted(lines)], dtype=np.int64)
        pq.write_table(pa.table({"line": values, "count": counted}), str(out / "lines.parquet"))
    return {"rows": done}


# -- phase 4: quality, personal data, overlap, mixture ---------------------------------------------------------------


def clean_part(
    out: Path, number: int, rows: Path, source: Source, config: CorpusConfig, joined: Path, tests: Path
) -> dict[str, Any]:
    """What is left of a chunk, and the fate of all its rows."""
    judge = _Judge(source, config, joined, tests)
    copies, names = _copies(joined, number)
    pii: Counter[str] = Counter()
    sizes: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    done = 0
    with (
        tables.Writer(out / DOCUMENTS, tables.DOCUMENT) as documents,
        tables.Writer(out / LEDGER, tables.LEDGER) as ledger,
        tables.Writer(out / ATTRIBUTES, judge.schema) as attributes,
    ):
        books = Books(config.seed, config.samples_per_rule, ledger)
        for batch in tables.read(rows):
            for at, row in enumerate(batch, done):
                row["id"] = names.get(at, row["id"])
            fates = [copies.get(at) or judge.fate(row, pii) for at, row in enumerate(batch, done)]
            fates = judge.overlaps(batch, judge.unlikely(batch, fates))
            judge.write_attributes(attributes)
            done += len(batch)
            for row, fate in zip(batch, fates):
                if fate:
                    books.fate(row, *fate)
                    continue
                times = mixture.copies(source.weight, config.seed, source.name, str(row["id"]))
                books.fate(row, *((KEPT, "") if times else ("mixture", "sampled_out")), copies=times)
                for copied in mixture.repeat(row, times):
                    documents.add(copied)
                    for key in ("source", "language", "licence"):
                        sizes[key, row[key]][0] += 1
                        sizes[key, row[key]][1] += len(row["text"])
    counted = [[*key, *size] for key, size in sorted(sizes.items())]
    return {**books.mark(), "sizes": counted, "pii": dict(sorted(pii.items())), "contaminated": judge.contaminated}


def _copies(joined: Path, number: int) -> tuple[dict[int, Fate], dict[int, str]]:
    """Of a chunk: the rows that are copies, as a fate; and the rows that got another id."""
    path = copies_of(joined, number)
    found = pq.read_table(str(path)).to_pylist() if path.exists() else []
    fates = {row["row"]: (row["step"], row["rule"], f"of {row['of']}", row["of"]) for row in found if row["step"]}
    return fates, {row["row"]: row["name"] for row in found if row["name"]}


class _Judge:
    """The steps that look at one document of a source at a time."""

    def __init__(self, source: Source, config: CorpusConfig, joined: Path, tests: Path) -> None:
        self.config = config
        self.rules = _rules(source, config) if applies("quality", source, config) else ()
        self.scorers = _scorers(config) if applies("classifier", source, config) else {}
        self.model = _model(str(config.perplexity_model)) if applies("perplexity", source, config) else None
        self.tests = _tests(str(tests), config) if applies("decontaminate", source, config) else None
        self.common = _common(str(joined)) if applies("lines", source, config) else frozenset()
        self.contaminated: list[Row] = []
        self._seen: dict[str, Row] = {}  # attributes of the documents of a batch
        columns = [*(rule.name for rule in self.rules), *self.scorers, *(["bits_per_byte"] if self.model else [])]
        self.schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in columns)])

    def fate(self, row: Row, pii: Counter[str]) -> Fate | None:
        """The (step, rule, what was seen) that drops a document by itself. Its text may become another."""
        if self.common:
            row["text"] = dedup.without_lines(row["text"], self.common)
            if not row["text"].strip():
                return "lines", "only_repeated_lines", "", ""
        if fate := self._quality(row):
            return fate
        if self.config.scrub_pii:
            row["text"], counts = scrub(row["text"])
            pii.update(counts)
        return None

    def _quality(self, row: Row) -> Fate | None:
        seen = quality.measures(quality.View(row["text"], row["language"]), self.rules)
        self._seen[row["id"]] = seen
        if rule := quality.broken(seen, self.rules):
            return "quality", rule.name, f"{seen[rule.name]:.3g} not in [{rule.low:g}, {rule.high:g}]", ""
        for name, (scorer, least) in self.scorers.items():
            seen[name] = scorer.score(row["text"])
            if seen[name] < least:
                return "classifier", f"low_{name}", f"{seen[name]:.3f}", ""
        return None

    def unlikely(self, rows: list[Row], fates: list[Fate | None]) -> list[Fate | None]:
        """The fates of some documents with those whose bits per byte are out of the range; scored together."""
        left = [n for n, fate in enumerate(fates) if fate is None] if self.model else []
        if not self.model or not left:
            return fates
        low, high = self.config.bits_per_byte
        for n, bits in zip(left, self.model.bits_per_byte([rows[n]["text"] for n in left])):
            self._seen[rows[n]["id"]]["bits_per_byte"] = bits
            if bits is not None and not low <= bits <= (inf if high is None else high):
                fates[n] = ("perplexity", "too_likely" if bits < low else "too_unlikely", f"{bits:.3f} bits a byte", "")
        return fates

    def write_attributes(self, attributes: tables.Writer) -> None:
        """What was seen in the documents of a batch; nothing where nothing is looked at."""
        for name, seen in self._seen.items() if len(self.schema) > 1 else ():
            attributes.add({"id": name, **seen})
        self._seen = {}

    def overlaps(self, rows: list[Row], fates: list[Fate | None]) -> list[Fate | None]:
        """The fates of some documents with those that overlap a test; all are looked at together."""
        left = [n for n, fate in enumerate(fates) if fate is None] if self.tests else []
        if not self.tests or not left:
            return fates
        holding = self.tests.holding([rows[n]["text"] for n in left])
        for n in (n for n, holds in zip(left, holding) if holds):
            found = [_match(rows[n], match) for match in self.tests.matches(rows[n]["text"])]
            self.contaminated += found
            fates[n] = ("decontaminate", "test_overlap", found[0]["matched"][:400], "")
        return fates


def _rules(source: Source, config: CorpusConfig) -> tuple[quality.Rule, ...]:
    """The rules that judge a source: all of prose for what comes from the web, few for what was chosen by hand."""
    if source.kind == "code":
        return quality.with_thresholds(quality.CODE_RULES, config.thresholds)
    prose = _with_lists(quality.with_thresholds(quality.prose_rules(config.rules), config.thresholds), config)
    if source.kind == "text":
        return tuple(rule for rule in prose if rule.name in quality.CHOSEN_TEXT)
    return prose


def _with_lists(rules: tuple[quality.Rule, ...], config: CorpusConfig) -> tuple[quality.Rule, ...]:
    """The rules with a person's lists of words: beside the package's for the rate, alone for C4's rule, which is left
    out where none is given."""
    given = config.offensive_words
    if not given:
        return tuple(rule for rule in rules if rule.name != "c4_bad_words")
    measures = {
        "offensive": partial(quality.offensive, lists=WordLists({**quality.packaged_words(), **given})),
        "c4_bad_words": partial(bad_words, lists=WordLists(given)),
    }
    return tuple(replace(rule, measure=measures.get(rule.name, rule.measure)) for rule in rules)


def _scorers(config: CorpusConfig) -> dict[str, tuple[QualityClassifier, float]]:
    """The learned filters and their least scores, under the names of their attributes: score, score1, ..."""
    numbered = enumerate(config.classifiers)
    return {f"score{n or ''}": (_scorer(path), least) for n, (path, least) in numbered}


@lru_cache(maxsize=8)
def _scorer(path: str) -> QualityClassifier:
    return QualityClassifier.load(path)


@lru_cache(maxsize=1)
def _model(folder: str) -> Perplexity:
    return Perplexity(folder)


@lru_cache(maxsize=2)
def _cached_tests(path: str, gram: int, shortest: int, common: str) -> TestIndex:
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    ignored = np.load(common) if common else None
    return TestIndex(texts, gram, shortest, ignored)


def _tests(folder: str, config: CorpusConfig) -> TestIndex:
    common = Path(folder) / "common.npy"
    return _cached_tests(
        str(Path(folder) / "tests.json"), config.gram, config.shortest, str(common) if common.exists() else ""
    )


@lru_cache(maxsize=2)
def _common(joined: str) -> frozenset[int]:
    """Keys of the lines that stand in too many documents."""
    path = Path(joined) / "lines.npy"
    return frozenset(np.load(path).tolist()) if path.exists() else frozenset()


def _match(row: Row, match: Match) -> Row:
    """An overlap with what stands around it, so that a reader can say whether it gives the test away."""
    text, start, stop = row["text"], match.start, match.stop
    around = {"before": text[max(0, start - _AROUND) : start], "after": text[stop : stop + _AROUND]}
    span = {"start": start, "stop": stop, "matched": text[start:stop]}
    return {"id": row["id"], "source": row["source"], "test": match.test, **span, **around}
