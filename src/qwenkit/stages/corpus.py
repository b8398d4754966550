"""`corpus`: raw pages and text to clean, deduplicated, decontaminated documents (report §2.1).

Files: `documents-00000.parquet`, ... (id, text, source, kind, licence, language, url, place, meta), `ledger.parquet`
(what became of every document that was read), `attributes-00000.parquet`, ... (what each rule of quality saw),
`samples.jsonl` (kept beside dropped, for people to review), `quarantine.jsonl`, `contaminated.jsonl` with the spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from qwenkit.config import StageConfig, edge, runtime, stage_config
from qwenkit.data.pipeline.config import CorpusConfig, ScoreSettings, check_settings, least_scores
from qwenkit.data.pipeline.corpus_sources import (
    WORLD,
    SourceSettings,
    check_sources,
    make_sources,
    numbered,
    source_names,
)
from qwenkit.data.test_sets import named_texts
from qwenkit.errors import UserError, refuse_unnamed
from qwenkit.settings import filled
from qwenkit.stages.base import RUNNER, Input, Result, StageContext, many
from qwenkit.stages.card import CardPart, funnel_view
from qwenkit.stages.claims import Claim, accounting_claims
from qwenkit.stages.results import Metrics, NodeResults, counted

SUMMARY = "raw pages and text -> clean, deduplicated, decontaminated documents"
EXAMPLE = "--extra notes --extra more.jsonl --decontaminate runs/nano/testsets"
ORDER = 30
VERSION = 7  # 7: kinds by contents, more encodings and full stops; pages keep more; 6: vowel signs are in words
PRODUCES = ("documents",)
SEED_METRICS = ("kept",)
CARD_PARTS = (CardPart("data", "Corpus", "funnel", funnel_view),)
NEEDS = {  # keys that are about what another key gives
    "min_score": "filter",
    "min_bits_per_byte": "perplexity_model",
    "max_bits_per_byte": "perplexity_model",
    "most_documents": "decontaminate",
}


class Config(stage_config(SourceSettings), stage_config(ScoreSettings), stage_config(CorpusConfig), StageConfig):  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """Where the text comes from and what is kept. Thresholds of the report's steps are ours: it gives none."""

    world: str | None = edge(None, doc="a world: its pages, text, instructions and real code", accepts="world")
    extra: list[str] = edge(
        [], doc="your own text: folders, JSONL, Parquet, CSV, WARC, pages, code", accepts="text", many=True
    )
    decontaminate: str | None = edge(None, doc="test sets whose 13-grams no document may hold", accepts="tests")
    filter: list[str] = edge([], doc="learned filters, from `qwenkit train-filter`", accepts="filter", many=True)
    offensive_words: str | None = edge(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        doc="words no page should hold, one a line: a file, or a folder of files named en, zh, ...",
        accepts="words",
    )
    perplexity_model: str | None = edge(
        None, doc="a model that scores text from the web in bits per byte", accepts="model", hub="model"
    )
    runner: Literal["local", "ray"] = runtime("local", doc=RUNNER)
    chunks: str = runtime("", doc="a folder where chunks stay: other thresholds or tests begin there; empty: they go")

    @model_validator(mode="after")
    def _known(self) -> Config:
        """Refuse names that do not exist with the recipe, and keys that do nothing without another."""
        try:
            check_sources(source_names(bool(self.world), len(self.extra)), filled(SourceSettings, self))
            for key, needed in NEEDS.items():
                if getattr(self, key) != type(self).model_fields[key].get_default() and not getattr(self, needed):
                    raise UserError(f"`{key}` does nothing without `{needed}`")
            refuse_unnamed("filter", self.min_scores, numbered("filter", len(self.filter)))
            check_settings(filled(CorpusConfig, self))
        except UserError as error:
            raise ValueError(error.text()) from None
        return self

    def identity(self) -> dict[str, Any]:
        """Return the content keys; your own steps count by the SHA-256 of their files, where there are some."""
        if not self.steps:
            return super().identity()
        from qwenkit.data.pipeline.custom_steps import find_steps

        return {**super().identity(), "steps": [[step.name, step.digest] for step in find_steps(self.steps)]}


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Build the corpus and write it with its accounting."""
    from qwenkit.data.filters.word_list import read_lists
    from qwenkit.data.pipeline.corpus_artifact import build_of_all, corpus_metrics, save_corpus

    world = [inputs["world"].file(name) for name, _, _ in WORLD] if "world" in inputs else []
    sources = make_sources(world, [given.path for given in many(inputs, "extra")], filled(SourceSettings, config))
    named = named_texts(inputs["decontaminate"].path) if "decontaminate" in inputs else []
    tests = [text for _, text in named]
    filters = [str(given.path) for given in many(inputs, "filter")]
    scores = filled(ScoreSettings, config)
    settings = filled(
        CorpusConfig, config,
        seed=context.seed,
        offensive_words=read_lists(inputs["offensive_words"].path) if "offensive_words" in inputs else {},
        classifiers=least_scores(filters, numbered("filter", len(filters)), scores),
        perplexity_model=str(inputs["perplexity_model"].path) if "perplexity_model" in inputs else None,
        bits_per_byte=(scores.min_bits_per_byte, scores.max_bits_per_byte),
    )  # fmt: skip
    result = build_of_all(
        sources, tests, settings, context.progress, scratch=context.scratch,
        folder=Path(config.chunks) if config.chunks else None, workers=context.threads, runner=config.runner,
        version=VERSION,
    )  # fmt: skip
    save_corpus(result, named, context.out)
    return Result(*corpus_metrics(result, tests))


def card_number(metrics: Metrics) -> str:
    """Return how many documents there are."""
    return counted(metrics.get("documents"), "documents")


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield whether test texts are in a corpus, and whether its counts balance."""
    return accounting_claims(nodes)
