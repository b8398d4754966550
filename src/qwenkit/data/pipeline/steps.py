"""The work on one shard in each phase of a corpus (`corpus` joins them; `minhash_dedup` does what needs all shards, and
`quality_signals` measures what `clean_part` judges).

    read_part     a part of a source: documents, text out of pages, language             -> rows, ledger
    sign_part     exact keys and MinHash bands of those rows                             -> signatures
    spread_part   n-grams of the tests in those that are not copies                      -> document count of each
    clean_part    of what is not a copy: quality, personal data, tests, mixture          -> documents, ledger

Each is a pure function of its arguments and files: no order, no state, no clock. A document is in the ledger once, with
its outcome, so that `read = kept + dropped by each rule + quarantined` can be checked record by record.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from qwenkit.data.pipeline.executor import DoneRecord
from qwenkit.artifacts import refuse_changed, stamps
from qwenkit.data import parquet_io
from qwenkit.data.decontamination import Match, TestIndex
from qwenkit.data.dedup import minhash
from qwenkit.data.dedup.exact import name_key
from qwenkit.data.dedup.lines import collapse_repeated_lines, line_keys
from qwenkit.data.dedup.minhash_dedup import Outcome, outcomes_and_names
from qwenkit.data.dedup.row_ids import row_id
from qwenkit.data.extract.text import extract_text, tidy
from qwenkit.data.filters.pii import scrub
from qwenkit.data.filters.quality_signals import BITS, common_lines, learned_filters, rules_for, without
from qwenkit.data.filters.rules import first_broken, with_thresholds
from qwenkit.data.language import detect_language
from qwenkit.data.pipeline import mixture
from qwenkit.data.pipeline.accounting import KEPT, Accounting, Row
from qwenkit.data.pipeline.config import CorpusConfig, applies
from qwenkit.data.pipeline.custom_steps import StepFile, apply_steps
from qwenkit.data.readers.documents import Document, Source, SourceSplit, read_source_split
from qwenkit.data.readers.encoding import decode
from qwenkit.errors import Stopped
from qwenkit.records import Quarantine

ROWS, LEDGER, SIGNATURES = "rows.parquet", "ledger.parquet", "signatures.parquet"
SPREAD, DOCUMENTS = "spread.npz", "documents.parquet"
_NO_LANGUAGE = "code"
_AROUND = 200  # characters kept before and after an overlap


# -- phase 1: read, extract, language --------------------------------------------------------------------------------


def read_part(
    out: Path,
    split: SourceSplit,
    source: Source,
    config: CorpusConfig,
    signatures: Sequence[list[int]] = (),
    steps: Sequence[StepFile] = (),
) -> DoneRecord:
    """Write the documents of a split of a source as rows; return the counts and the quarantine.

    Documents without text or in an unwanted language are dropped here. Raises a `UserError` for files whose
    `signatures` have changed since the build began: their digests are already taken."""
    quarantine = Quarantine()
    _refuse_changed(split, source, signatures)
    with (
        parquet_io.Writer(out / ROWS, parquet_io.DOCUMENT) as rows,
        parquet_io.Writer(out / LEDGER, parquet_io.LEDGER) as ledger,
    ):
        accounting = Accounting(config.seed, config.samples_per_rule, ledger)
        for document in read_source_split(split, source, quarantine):
            accounting.read += 1
            row, sure = _row(source, document)
            outcome = _unwanted(row, sure, source, config) or _by_steps(row, steps)
            if outcome:
                accounting.record(row, *outcome)
            else:
                rows.add(row)
    _refuse_changed(split, source, signatures)
    bad = {"quarantine": quarantine.rows, "bad": dict(quarantine.counts)}
    return {**accounting.totals(), **bad, "source": source.name}


def _refuse_changed(split: SourceSplit, source: Source, signatures: Sequence[list[int]]) -> None:
    for name, before in zip(split.paths, signatures):
        refuse_changed(Path(name), before, f"source {source.name}: {name}")


def text_of(source: Source, document: Document) -> str:
    """Return the text of a document: a page is decoded and extracted, other text only tidied, code unchanged."""
    if document.form == "html":
        return collapse_repeated_lines(extract_text(document.body, document.url, document.charset))
    text = document.body if isinstance(document.body, str) else decode(document.body, document.charset)
    return text.encode("utf-8", "replace").decode() if "code" in (document.form, source.kind) else tidy(text)


def _row(source: Source, document: Document) -> tuple[Row, float]:
    """Return the row of a document, and the confidence of its language."""
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
    """Return whether a column of a document may hold this value; NaN, which others write for a missing value, is not
    one."""
    return isinstance(value, str | int | bool) or (isinstance(value, float) and isfinite(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _unwanted(row: Row, sure: float, source: Source, config: CorpusConfig) -> tuple[str, str, str] | None:
    """Return the (step, rule, detail) that drops a document before deduplication, or None."""
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


def _by_steps(row: Row, steps: Sequence[StepFile]) -> tuple[str, str, str] | None:
    """Return the (step, rule, detail) by which a custom step drops a document, or None; steps may also change it."""
    if drop := apply_steps(row, steps):
        return "steps", drop.rule, drop.detail
    return None if row["text"].strip() else ("steps", "no_text", "")


# -- phase 2: signatures ---------------------------------------------------------------------------------------------


def sign_part(out: Path, number: int, rows: Path, source: Source, config: CorpusConfig) -> DoneRecord:
    """Write the exact key, band keys, size and id of every row by its number; return how many rows hold each line."""
    bands, _ = minhash.bands_for(config.near_threshold)
    exact, near = applies("exact_duplicates", source, config), applies("near_duplicates", source, config)
    fields = [("doc", pa.int64()), ("size", pa.int32()), ("name", pa.int64())]
    fields += [(name, pa.int64()) for name in ("exact", "exact_low", *(f"band_{band}" for band in range(bands)))]
    lines: Counter[int] = Counter()
    done = 0
    with pq.ParquetWriter(str(out / SIGNATURES), pa.schema(fields), compression="zstd") as writer:
        for batch in parquet_io.read(rows, ["id", "text"]):
            texts = [row["text"] for row in batch]
            docs = row_id(number, np.arange(done, done + len(batch)))
            keys, columns = minhash.sketches(texts, config.near_threshold, near, source.kind in ("code", "instruction"))
            keys = keys if exact else np.zeros_like(keys)
            names = np.array([name_key(row["id"]) for row in batch], np.int64)
            table = [docs, np.array(list(map(len, texts)), np.int32), names]
            table += [column.view(np.int64) for column in (*keys.T.copy(), *columns.T.copy())]
            writer.write_table(pa.table(dict(zip([name for name, _ in fields], table)), schema=pa.schema(fields)))
            if applies("lines", source, config):
                for text in texts:
                    lines.update(set(line_keys(text)) - {0})
            done += len(batch)
    if lines:
        values = np.array(sorted(lines), dtype=np.uint64).view(np.int64)
        counted = np.array([lines[key] for key in sorted(lines)], dtype=np.int64)
        pq.write_table(pa.table({"line": values, "count": counted}), str(out / "lines.parquet"))
    return {"rows": done}


# -- phase 4: quality, personal data, overlap, mixture ---------------------------------------------------------------


def spread_part(out: Path, number: int, rows: Path, config: CorpusConfig, joined: Path, tests: Path) -> DoneRecord:
    """Write in how many documents of a shard each n-gram of the tests occurs, copies left out; return the number of
    n-grams."""
    index, (copies, _) = index_of(tests, config), outcomes_and_names(joined, number)
    grams_of_documents = [np.empty(0, dtype=np.uint64)]
    done = 0
    for batch in parquet_io.read(rows, ["text"]):
        grams_of_documents += [index.grams_in(row["text"]) for at, row in enumerate(batch, done) if at not in copies]
        done += len(batch)
    grams, counts = np.unique(np.concatenate(grams_of_documents), return_counts=True)
    np.savez(out / SPREAD, grams=grams, counts=counts)
    return {"grams": len(grams)}


def clean_part(
    out: Path,
    number: int,
    rows: Path,
    source: Source,
    config: CorpusConfig,
    joined: Path,
    measured: Path,
    tests: Path,
    common: Path | None,
) -> DoneRecord:
    """Write the documents of a shard that are kept, and the outcome of all its rows; return the counts.

    `tests` and `common` are the files of `index_of`."""
    index = index_of(tests, config, common) if applies("decontaminate", source, config) else None
    judge = _Judge(source, config, joined, index)
    copies, names = outcomes_and_names(joined, number)
    attributes = (row for batch in parquet_io.read(measured) for row in batch)
    pii: Counter[str] = Counter()
    sizes: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    done = 0
    with (
        parquet_io.Writer(out / DOCUMENTS, parquet_io.DOCUMENT) as documents,
        parquet_io.Writer(out / LEDGER, parquet_io.LEDGER) as ledger,
    ):
        accounting = Accounting(config.seed, config.samples_per_rule, ledger)
        for batch in parquet_io.read(rows):
            for at, row in enumerate(batch, done):
                row["id"] = names.get(at, row["id"])
            outcomes = [copies.get(at) or judge.outcome(row, attributes, pii) for at, row in enumerate(batch, done)]
            outcomes = judge.overlaps(batch, outcomes)
            done += len(batch)
            for row, outcome in zip(batch, outcomes):
                if outcome:
                    accounting.record(row, *outcome)
                    continue
                times = mixture.copies(source.weight, config.seed, source.name, str(row["id"]))
                accounting.record(row, *((KEPT, "") if times else ("mixture", "sampled_out")), copies=times)
                for copied in mixture.repeat(row, times):
                    documents.add(copied)
                    for key in ("source", "language", "licence"):
                        sizes[key, row[key]][0] += 1
                        sizes[key, row[key]][1] += len(row["text"])
    counted = [[*key, *size] for key, size in sorted(sizes.items())]
    return {
        **accounting.totals(),
        "sizes": counted,
        "pii": dict(sorted(pii.items())),
        "contaminated": judge.contaminated,
    }


class _Judge:
    """The steps that look at one document of a source at a time, with what was measured of it."""

    def __init__(self, source: Source, config: CorpusConfig, joined: Path, tests: TestIndex | None) -> None:
        self.config, self.tests = config, tests
        self.rules = with_thresholds(rules_for(source, config), config.thresholds)
        self.least = {name: least for name, (_, least) in learned_filters(source, config).items()}
        self.model = applies("perplexity", source, config)
        self.common = common_lines(source, config, joined)
        self.contaminated: list[Row] = []

    def outcome(self, row: Row, attributes: Iterator[Row], pii: Counter[str]) -> Outcome | None:
        """Return the (step, rule, what was seen) that drops a document by itself. Its text may become another."""
        signals = self._next(row, attributes)
        if self.common:
            row["text"] = without(row["text"], self.common)
            if not row["text"].strip():
                return "lines", "only_repeated_lines", "", ""
        if outcome := self._quality(signals):
            return outcome
        if self.config.scrub_pii:
            row["text"], counts = scrub(row["text"])
            pii.update(counts)
        return None

    def _next(self, row: Row, attributes: Iterator[Row]) -> dict[str, float]:
        """Return the measures of a document: attributes are in the order of the rows."""
        if not (self.rules or self.least or self.model):
            return {}
        signals = next(attributes)
        if signals.pop("id") != row["id"]:
            raise Stopped("attributes of other documents", where=f"{row['source']}, {row['place']}")
        return {name: value for name, value in signals.items() if value is not None}

    def _quality(self, signals: dict[str, float]) -> Outcome | None:
        if rule := first_broken(signals, self.rules):
            return "quality", rule.name, f"{signals[rule.name]:.3g} not in [{rule.low:g}, {rule.high:g}]", ""
        for name, least in self.least.items():
            if signals[name] < least:
                return "classifier", f"low_{name}", f"{signals[name]:.3f}", ""
        low, high = self.config.bits_per_byte
        if BITS in signals and not low <= (bits := signals[BITS]) <= (inf if high is None else high):
            return "perplexity", "too_likely" if bits < low else "too_unlikely", f"{bits:.3f} bits a byte", ""
        return None

    def overlaps(self, rows: list[Row], outcomes: list[Outcome | None]) -> list[Outcome | None]:
        """Return the outcomes of some documents with those that overlap a test; all are looked at together."""
        left = [n for n, outcome in enumerate(outcomes) if outcome is None] if self.tests else []
        if not self.tests or not left:
            return outcomes
        holding = self.tests.holding([rows[n]["text"] for n in left])
        for n in (n for n, holds in zip(left, holding) if holds):
            overlaps = [_match(rows[n], match) for match in self.tests.matches(rows[n]["text"])]
            self.contaminated += overlaps
            outcomes[n] = ("decontaminate", "test_overlap", overlaps[0]["matched"][:400], "")
        return outcomes


def index_of(tests: Path, config: CorpusConfig, common: Path | None = None) -> TestIndex:
    """Return the index of the test texts in the file `tests`, without the n-grams in the file `common`."""
    ignored = () if common is None else (str(common), *stamps(common))
    return _index((str(tests), *stamps(tests)), ignored, config.gram, config.shortest)


@lru_cache(maxsize=2)
def _index(tests: tuple[Any, ...], common: tuple[Any, ...], gram: int, shortest: int) -> TestIndex:
    texts = json.loads(Path(tests[0]).read_text(encoding="utf-8"))
    return TestIndex(texts, gram, shortest, np.load(common[0]) if common else None)


def _match(row: Row, match: Match) -> Row:
    """Return an overlap with its context, so that a reader can say whether it reveals the test."""
    text, start, stop = row["text"], match.start, match.stop
    around = {"before": text[max(0, start - _AROUND) : start], "after": text[stop : stop + _AROUND]}
    span = {"start": start, "stop": stop, "matched": text[start:stop]}
    return {"id": row["id"], "source": row["source"], "test": match.test, **span, **around}
