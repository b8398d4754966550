"""`corpus`: raw pages and text to clean, deduplicated, decontaminated documents (report §2.1).

Files: `documents-00000.parquet`, ... (id, text, source, kind, licence, language, url, place, meta), `ledger.parquet`
(what became of every document that was read), `attributes-00000.parquet`, ... (what each rule of quality saw),
`samples.jsonl` (kept beside dropped, for people to review), `quarantine.jsonl`, `contaminated.jsonl` with the spans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from qwenkit.config import StageConfig, content, edge, runtime
from qwenkit.data.test_sets import named_texts
from qwenkit.errors import UserError, refuse_unnamed
from qwenkit.stages.base import RUNNER, Input, Result, StageContext, many
from qwenkit.stages.results import DID_NOT_WORK, WORKED, Claim, Metrics, NodeResults, counted, mapping, number, sequence

if TYPE_CHECKING:
    from qwenkit.data import Source

SUMMARY = "raw pages and text -> clean, deduplicated, decontaminated documents"
EXAMPLE = "--extra notes --extra more.jsonl --decontaminate runs/nano/testsets"
ORDER = 30
VERSION = 7  # 7: kinds by contents, more encodings and full stops; pages keep more; 6: vowel signs are in words
PRODUCES = ("documents",)
SEED_METRICS = ("kept",)
MOST_COPIES = 1000
WITH = {  # keys that are about what another key gives
    "min_score": "filter",
    "min_bits_per_byte": "perplexity_model",
    "max_bits_per_byte": "perplexity_model",
    "most_documents": "decontaminate",
}
WORLD = (  # file, kind, licence
    ("pages.warc.gz", "html", "CC0-1.0"),
    ("text.jsonl", "text", "CC0-1.0"),
    ("instructions.jsonl", "instruction", "CC0-1.0"),
    ("stdlib.jsonl", "code", "PSF-2.0"),
)


class Config(StageConfig):
    """Where the text comes from and what is kept. Thresholds of the report's steps are ours: it gives none."""

    world: str | None = edge(None, doc="a world: its pages, text, instructions and real code", accepts="world")
    extra: list[str] = edge(
        [], doc="your own text: folders, JSONL, Parquet, CSV, WARC, pages, code", accepts="text", many=True
    )
    decontaminate: str | None = edge(None, doc="test sets whose 13-grams no document may hold", accepts="tests")
    filter: list[str] = edge([], doc="learned filters, from `qwenkit train-filter`", accepts="filter", many=True)
    offensive_words: str | None = edge(
        None,
        doc="words no page should hold, one a line: a file, or a folder of files named en, zh, ...",
        accepts="words",
    )
    perplexity_model: str | None = edge(
        None, doc="a model that scores text from the web in bits per byte", accepts="model", hub="model"
    )
    kinds: dict[str, str] = content(
        {}, doc='html, web, text, code or instruction, by source: {extra = "web"}; none: what each file of it holds'
    )
    text_keys: dict[str, list[str]] = content(
        {}, doc='columns that make the text of a source, if not `text`: {extra = ["question", "answer"]}'
    )
    licences: dict[str, str] = content({}, doc='licence of a source whose rows name none: {extra = "CC-BY-4.0"}')
    allow_licences: list[str] = content([], doc="licences to keep; none: all")
    near_threshold: float = content(0.8, doc="Jaccard similarity of 5-shingles that makes a near duplicate", gt=0, le=1)
    languages: list[str] = content([], doc="languages to keep; none: all")
    rules: list[str] = content(["own"], doc="sets of rules for text from the web: own, gopher, c4, fineweb")
    thresholds: dict[str, list[float]] = content(
        {}, doc="another range of a rule's measure: {length = [50, 100000]}; nothing is measured again"
    )
    min_score: float = content(0.1, doc="of the learned filters: what scores less is dropped", ge=0, le=1)
    min_scores: dict[str, float] = content({}, doc="another least score of one filter: {filter1 = 0.5}")
    min_bits_per_byte: float = content(0.0, doc="of the model: text that it finds likelier is dropped", ge=0)
    max_bits_per_byte: float = content(0.0, doc="text that it finds less likely is dropped; 0: none", ge=0)
    max_line_repeats: int = content(0, doc="cut lines of pages that stand in more documents than this; 0: none", ge=0)
    most_documents: int = content(0, doc="a 13-gram in more documents than this is not an overlap; 0: all are", ge=0)
    scrub_pii: bool = content(False, doc="mask mail addresses, numbers of phones, cards and identity, and keys")
    steps: list[str] = content(
        [], doc="your own steps for every document, `module:function` or `file.py:function`", resolved=True
    )
    upsample: dict[str, float] = content({}, doc="copies of each document of a source: {code = 2}")
    runner: Literal["local", "ray"] = runtime("local", doc=RUNNER)
    chunks: str = runtime("", doc="a folder where chunks stay: other thresholds or tests begin there; empty: they go")

    @model_validator(mode="after")
    def _known(self) -> Config:
        """Sources and languages that do not exist are refused with the recipe."""
        names = self.sources()
        if not names:
            raise ValueError("no sources: neither `world` nor `extra`")
        for key in ("upsample", "kinds", "text_keys", "licences"):
            for name in getattr(self, key):
                if name not in names:
                    raise ValueError(f"`{key}` names no source: {name}; there are {', '.join(names)}")
        for name, copies in self.upsample.items():
            if not 0 < copies <= MOST_COPIES:
                raise ValueError(f"`upsample` wants {copies:g} copies of {name}; from above 0 to {MOST_COPIES} can be")
        for key, needs in WITH.items():
            if getattr(self, key) != type(self).model_fields[key].get_default() and not getattr(self, needs):
                raise ValueError(f"`{key}` does nothing without `{needs}`")
        try:
            self._known_words()
        except UserError as error:
            raise ValueError(error.text()) from None
        return self

    def _known_words(self) -> None:
        """Filters, languages, kinds of sources, sets of rules; what knows them is loaded only where some are given."""
        refuse_unnamed("filter", self.min_scores, _numbered("filter", self.filter))
        if self.steps:
            from qwenkit.data.pipeline.custom_steps import find_steps

            find_steps(self.steps)
        if self.languages:
            from qwenkit.data.language import refuse_unknown

            refuse_unknown(self.languages)
        for name, limits in self.thresholds.items():
            if len(limits) != 2 or not limits[0] <= limits[1]:
                raise UserError(f"thresholds.{name} = {limits}", expected="the lowest and the highest value to keep")
        if self.kinds or self.thresholds or self.rules != ["own"]:
            from qwenkit.data.filters.rule_sets import RULE_SETS, rule_names
            from qwenkit.data.readers.documents import KINDS

            refuse_unnamed("kind of source", self.kinds.values(), KINDS)
            refuse_unnamed("set of rules", self.rules, list(RULE_SETS))
            refuse_unnamed("quality rule", self.thresholds, rule_names(self.rules))

    def identity(self) -> dict[str, Any]:
        """The content keys; your own steps count by the SHA-256 of their files, and only where there are some."""
        if not self.steps:
            return super().identity()
        from qwenkit.data.pipeline.custom_steps import find_steps

        return {**super().identity(), "steps": [[step.name, step.digest] for step in find_steps(self.steps)]}

    def sources(self) -> list[str]:
        """The names of all sources: a world's files, and what `extra` names."""
        return [*(name.split(".")[0] for name, _, _ in WORLD if self.world), *_numbered("extra", self.extra)]

    def least_scores(self) -> list[float]:
        """What each filter must give a text at least."""
        return [self.min_scores.get(name, self.min_score) for name in _numbered("filter", self.filter)]


def _numbered(name: str, values: list[str]) -> list[str]:
    """What the values of a list are called: `extra`, `extra1`, ..."""
    return [f"{name}{number or ''}" for number, _ in enumerate(values)]


def run(config: Config, inputs: dict[str, Input], context: StageContext) -> Result:
    """Build the corpus and write it with its accounting."""
    from qwenkit.data import CorpusConfig, Source, build_corpus
    from qwenkit.data.filters.word_list import read_lists
    from qwenkit.data.pipeline.corpus import NothingRead
    from qwenkit.data.pipeline.corpus_artifact import corpus_metrics, nothing_kept, save_corpus

    sources = _sources(config, inputs, Source)
    named = named_texts(inputs["decontaminate"].path) if "decontaminate" in inputs else []
    tests = [text for _, text in named]
    settings = CorpusConfig(
        seed=context.seed,
        languages=tuple(config.languages) or None,
        allow_licences=tuple(config.allow_licences) or None,
        near_threshold=config.near_threshold,
        rules=tuple(config.rules),
        thresholds={name: (low, high) for name, (low, high) in config.thresholds.items()},
        offensive_words=read_lists(inputs["offensive_words"].path) if "offensive_words" in inputs else {},
        classifiers=tuple(zip((str(given.path) for given in many(inputs, "filter")), config.least_scores())),
        perplexity_model=str(inputs["perplexity_model"].path) if "perplexity_model" in inputs else None,
        bits_per_byte=(config.min_bits_per_byte, config.max_bits_per_byte or None),
        max_line_repeats=config.max_line_repeats or None,
        most_documents=config.most_documents or None,
        scrub_pii=config.scrub_pii,
        steps=tuple(config.steps),
    )
    folder = Path(config.chunks) if config.chunks else context.scratch / "chunks"
    try:
        result = build_corpus(
            sources, tests, settings, lambda done, total, **more: context.progress(done, total, **more),
            folder=folder, workers=context.threads, runner=config.runner, version=VERSION, strict=True,
        )  # fmt: skip
    except NothingRead as error:
        raise nothing_kept(sources, error.lost, error.quarantine.rows, [], context.scratch) from None
    empty = {name: row for name, row in result.sources.items() if name not in result.counts["source"]}
    if empty:
        lost = {name: Counter(row["dropped"] | row["quarantined"]) for name, row in empty.items()}
        raise nothing_kept(sources, lost, result.quarantine.rows, result.samples, context.scratch)
    save_corpus(result, named, context.out)
    return Result(*corpus_metrics(result, tests))


def _sources(config: Config, inputs: dict[str, Input], make: type[Source]) -> list[Source]:
    from qwenkit.data.readers.documents import AUTO

    sources = []
    if "world" in inputs:
        for name, kind, licence in WORLD:
            stem = name.split(".")[0]
            weight = config.upsample.get(stem, 1.0)
            sources.append(make(stem, inputs["world"].file(name), kind, weight, licence))
    for name, source in zip(config.sources()[len(sources) :], many(inputs, "extra")):
        licence, keys = config.licences.get(name, "unknown"), tuple(config.text_keys.get(name, ()))
        weight = config.upsample.get(name, 1.0)
        sources.append(make(name, source.path, config.kinds.get(name, AUTO), weight, licence, keys))
    return sources


def card_number(metrics: Metrics) -> str:
    """Return how many documents there are."""
    return counted(metrics.get("documents"), "documents")


def claims(nodes: Sequence[NodeResults], seeds: Metrics) -> Iterator[Claim]:
    """Yield whether test texts are in a corpus, and whether its counts balance."""
    for node in nodes:
        metrics = node.metrics
        overlap = number(metrics.get("overlap_13gram"))
        if overlap is not None:
            outcome = DID_NOT_WORK if overlap else WORKED
            yield Claim(outcome, f"{node.name} holds no test text", f"13-gram overlap: {overlap:,.0f}")
        counts = [number(metrics.get(name)) for name in ("read", "kept", "quarantined")]
        steps = [mapping(step) for step in sequence(metrics.get("funnel"))]
        dropped = sum(number(step.get("dropped")) or 0 for step in steps if step.get("rule") != "quarantined")
        if None not in counts:
            read, kept, bad = (count or 0 for count in counts)
            balanced = read == kept + dropped + bad
            text = f"Every record of {node.name} is accounted for"
            evidence = f"{read:,.0f} read = {kept:,.0f} kept + {dropped:,.0f} dropped + {bad:,.0f} quarantined"
            yield Claim(WORKED if balanced else DID_NOT_WORK, text, evidence if balanced else f"not true: {evidence}")
