"""What is measured of the documents of a corpus, apart from the thresholds that judge them (phase 4 of `corpus`).

    measure_part    of a chunk's rows that are no copies, in order: rules, learned filters, a model   -> attributes

Measures are the dear part of quality and thresholds the part that people try out: measuring is a phase of its own, so
that other thresholds are asked of the attributes that lie there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qwenkit.artifacts import stamps
from qwenkit.data import parquet_io
from qwenkit.data.dedup import minhash
from qwenkit.data.dedup.minhash_dedup import LINES, fates_and_names
from qwenkit.data.filters import default as quality
from qwenkit.data.filters.classifier import QualityClassifier
from qwenkit.data.filters.perplexity import Perplexity
from qwenkit.data.filters.published import bad_words
from qwenkit.data.filters.word_list import WordLists
from qwenkit.data.pipeline.config import CorpusConfig, applies
from qwenkit.data.readers.documents import Source

ATTRIBUTES, BITS = "attributes.parquet", "bits_per_byte"


def measure_part(
    out: Path, number: int, rows: Path, source: Source, config: CorpusConfig, joined: Path
) -> dict[str, Any]:
    """What rules, filters and a model see in the rows that are no copies, in their order. No threshold is asked."""
    gauge = Gauge(source, config)
    common = common_lines(source, config, joined)
    copies, names = fates_and_names(joined, number)
    done = 0
    with parquet_io.Writer(out / ATTRIBUTES, gauge.schema) as attributes:
        for batch in parquet_io.read(rows, ["id", "text", "language"]) if gauge.columns else ():
            left = [(at, row) for at, row in enumerate(batch, done) if at not in copies]
            texts = [without(row["text"], common) for _, row in left]
            for (at, row), seen in zip(left, gauge.see(texts, [row["language"] for _, row in left])):
                attributes.add({"id": names.get(at, row["id"]), **seen})
            done += len(batch)
    return {"measured": done}


class Gauge:
    """What is measured of the documents of a source: by each rule, learned filter and model, under the names of their
    attributes."""

    def __init__(self, source: Source, config: CorpusConfig) -> None:
        self.rules = rules_of(source, config)
        self.scorers = {
            name: _scorer(path, *stamps(Path(path))) for name, (path, _) in filters_of(source, config).items()
        }
        self.model = _model_of(config) if applies("perplexity", source, config) else None
        self.columns = [*(rule.name for rule in self.rules), *self.scorers, *([BITS] if self.model else [])]
        self.schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in self.columns)])

    def see(self, texts: Sequence[str], languages: Sequence[str]) -> Iterator[dict[str, float | None]]:
        """The attributes of some texts, which a model scores together."""
        bits = self.model.bits_per_byte(texts) if self.model else [None] * len(texts)
        for text, language, found in zip(texts, languages, bits):
            scores = {name: scorer.score(text) for name, scorer in self.scorers.items()}
            yield {**quality.measures(quality.View(text, language), self.rules), **scores, BITS: found}


def rules_of(source: Source, config: CorpusConfig) -> tuple[quality.Rule, ...]:
    """The rules that judge a source: all of prose for what comes from the web, few for what was chosen by hand."""
    if not applies("quality", source, config):
        return ()
    if source.kind == "code":
        return quality.CODE_RULES
    prose = _with_lists(quality.prose_rules(config.rules), config)
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


def filters_of(source: Source, config: CorpusConfig) -> dict[str, tuple[str, float]]:
    """Files and least scores of the learned filters, under the names of their attributes: score, score1, ..."""
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
    """Keys of the lines that stand in too many documents, where a source is cleaned of them."""
    path = joined / LINES
    there = applies("lines", source, config) and path.exists()
    return _lines(str(path), *stamps(path)) if there else frozenset()


@lru_cache(maxsize=2)
def _lines(path: str, *_: int) -> frozenset[int]:
    return frozenset(np.load(path).tolist())


def without(text: str, common: frozenset[int]) -> str:
    """A text without the lines of too many documents."""
    return minhash.without_lines(text, common) if common else text
