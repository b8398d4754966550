"""Measure the documents of a corpus, apart from the thresholds that judge them (phase 4 of `corpus`).

    measure_part    of a shard's rows that are not copies, in order: rules, learned filters, a model -> attributes

Measuring is the expensive part of quality filtering and thresholds the part that people vary: measuring is a phase of
its own, so that other thresholds apply to stored attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from qwenkit.data.pipeline.executor import DoneRecord
from qwenkit.artifacts import stamps
from qwenkit.data import parquet_io
from qwenkit.data.dedup.lines import without_lines
from qwenkit.data.dedup.minhash_dedup import LINES, outcomes_and_names
from qwenkit.data.filters.c4 import bad_words
from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.filters.code import CODE_RULES
from qwenkit.data.filters.default import CURATED_RULES, offensive, packaged_words
from qwenkit.data.filters.perplexity import Perplexity
from qwenkit.data.filters.rule_sets import prose_rules
from qwenkit.data.filters.rules import Rule, TextView, measures
from qwenkit.data.filters.word_list import WordLists
from qwenkit.data.pipeline.config import CorpusConfig, applies
from qwenkit.data.readers.documents import Source

ATTRIBUTES, BITS = "attributes.parquet", "bits_per_byte"


def measure_part(out: Path, number: int, rows: Path, source: Source, config: CorpusConfig, joined: Path) -> DoneRecord:
    """Write what rules, classifiers and a model measure of a shard's documents that are not copies, in order; return
    the count.

    No threshold is applied here."""
    extractor = SignalExtractor(source, config)
    common = common_lines(source, config, joined)
    copies, names = outcomes_and_names(joined, number)
    done = 0
    with parquet_io.Writer(out / ATTRIBUTES, extractor.schema) as attributes:
        for batch in parquet_io.read(rows, ["id", "text", "language"]) if extractor.columns else ():
            left = [(at, row) for at, row in enumerate(batch, done) if at not in copies]
            texts = [without(row["text"], common) for _, row in left]
            for (at, row), signals in zip(left, extractor.compute(texts, [row["language"] for _, row in left])):
                attributes.add({"id": names.get(at, row["id"]), **signals})
            done += len(batch)
    return {"measured": done}


class SignalExtractor:
    """Measures the documents of a source by each rule, learned classifier and model, under the names of their
    attributes."""

    def __init__(self, source: Source, config: CorpusConfig) -> None:
        """Load the rules, classifiers and model that judge this source."""
        self.rules = rules_for(source, config)
        self.scorers = {
            name: _scorer(path, *stamps(Path(path))) for name, (path, _) in learned_filters(source, config).items()
        }
        self.model = _model_of(config) if applies("perplexity", source, config) else None
        self.columns = [*(rule.name for rule in self.rules), *self.scorers, *([BITS] if self.model else [])]
        self.schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in self.columns)])

    def compute(self, texts: Sequence[str], languages: Sequence[str]) -> Iterator[dict[str, float | None]]:
        """Yield the attributes of some texts, which a model scores together."""
        bits = self.model.bits_per_byte(texts) if self.model else [None] * len(texts)
        for text, language, bits_per_byte in zip(texts, languages, bits):
            scores = {name: scorer.score(text) for name, scorer in self.scorers.items()}
            yield {**measures(TextView(text, language), self.rules), **scores, BITS: bits_per_byte}


def rules_for(source: Source, config: CorpusConfig) -> tuple[Rule, ...]:
    """Return the rules that judge a source: all prose rules for text from the web, few for text chosen by hand."""
    if not applies("quality", source, config):
        return ()
    if source.kind == "code":
        return CODE_RULES
    prose = _with_lists(prose_rules(config.rules), config)
    if source.kind == "text":
        return tuple(rule for rule in prose if rule.name in CURATED_RULES)
    return prose


def _with_lists(rules: tuple[Rule, ...], config: CorpusConfig) -> tuple[Rule, ...]:
    """Return the rules with the user's lists of words: added to the package's for the rate, alone for C4's rule, which
    is left out without a list."""
    given = config.offensive_words
    if not given:
        return tuple(rule for rule in rules if rule.name != "c4_bad_words")
    with_words = {
        "offensive": partial(offensive, lists=WordLists({**packaged_words(), **given})),
        "c4_bad_words": partial(bad_words, lists=WordLists(given)),
    }
    return tuple(replace(rule, measure=with_words.get(rule.name, rule.measure)) for rule in rules)


def learned_filters(source: Source, config: CorpusConfig) -> dict[str, tuple[str, float]]:
    """Return the file and minimum score of each learned classifier by the names of their attributes: score, score1,
    ..."""
    numbered = enumerate(config.classifiers) if applies("classifier", source, config) else ()
    return {f"score{n or ''}": given for n, given in numbered}


@lru_cache(maxsize=8)
def _scorer(path: str, *_: int) -> QualityClassifier:
    return QualityClassifier.load(path)


def _model_of(config: CorpusConfig) -> Perplexity:
    folder = Path(str(config.perplexity_model))
    return _model(str(folder), *stamps(folder))


@lru_cache(maxsize=1)
def _model(folder: str, *_: int) -> Perplexity:
    return Perplexity(folder)


def common_lines(source: Source, config: CorpusConfig, joined: Path) -> frozenset[int]:
    """Return the keys of lines that occur in too many documents, for a source that is cleaned of them."""
    path = joined / LINES
    there = applies("lines", source, config) and path.exists()
    return _lines(str(path), *stamps(path)) if there else frozenset()


@lru_cache(maxsize=2)
def _lines(path: str, *_: int) -> frozenset[int]:
    return frozenset(np.load(path).tolist())


def without(text: str, common: frozenset[int]) -> str:
    """Return a text without the lines of these keys."""
    return without_lines(text, common) if common else text
