"""The settings of a corpus: the numbers that the report leaves open, and the steps that each kind of source takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwenkit.data.decontamination import GRAM, SHORTEST
from qwenkit.data.filters.rule_sets import RULE_SETS, rule_names
from qwenkit.data.filters.word_list import Lists
from qwenkit.data.readers.documents import Source
from qwenkit.errors import UserError, nearest

_JUDGED = ("quality", "classifier", "perplexity")
STEPS: dict[str, tuple[str, ...]] = {
    "html": ("language", "exact_duplicates", "near_duplicates", "lines", *_JUDGED, "decontaminate"),
    "web": ("language", "exact_duplicates", "near_duplicates", *_JUDGED, "decontaminate"),
    "text": ("language", "exact_duplicates", "near_duplicates", "quality", "decontaminate"),
    "code": ("exact_duplicates", "near_duplicates", "quality", "decontaminate"),
    "instruction": ("exact_duplicates", "decontaminate"),
}
ORDER = (
    "licence",
    "language",
    "steps",
    "exact_duplicates",
    "near_duplicates",
    "lines",
    *_JUDGED,
    "decontaminate",
)
RUNNERS = ("local", "ray")


@dataclass(frozen=True)
class CorpusConfig:
    """The settings that the report leaves open. Every default is ours; a rule's `source` names the published
    threshold."""

    seed: int = 0
    languages: tuple[str, ...] | None = None  # None: every language is kept, and labelled
    min_confidence: float = 0.0  # of language identification
    allow_licences: tuple[str, ...] | None = None  # None: every licence, and it is written down
    near_threshold: float = 0.8  # Jaccard similarity of 5-shingles
    max_line_repeats: int | None = None  # drop lines that stand in more documents than this (html only)
    rules: tuple[str, ...] = ("own",)  # sets of rules for prose: own, gopher, c4, fineweb
    thresholds: dict[str, tuple[float, float]] = field(default_factory=dict)  # rule name -> (low, high)
    offensive_words: Lists = field(default_factory=dict)  # by language; "" replaces the package's list
    classifiers: tuple[tuple[str, float], ...] = ()  # learned filters, each a file with its least score
    perplexity_model: str | None = None  # a model's folder, by which texts are scored
    bits_per_byte: tuple[float, float | None] = (0.0, None)  # what it may give a text; None: no limit
    scrub_pii: bool = False
    decontaminate_all: bool = True  # False: instruction sources only, as the report words it
    gram: int = GRAM
    shortest: int = SHORTEST
    most_documents: int | None = None  # a gram in more documents than this is boilerplate and no overlap
    samples_per_rule: int = 5  # kept for people to read: the report's manual review
    steps: tuple[str, ...] = ()  # your own steps, `module:function` (see `custom_steps`)
    chunk_bytes: int = 16 << 20  # of raw input; decides where output files end, so part of what is made


def applies(step: str, source: Source, config: CorpusConfig) -> bool:
    """Return whether a step applies to the documents of a source."""
    if step == "licence":
        return config.allow_licences is not None
    if step == "steps":
        return bool(config.steps)
    if step == "decontaminate" and source.kind != "instruction" and not config.decontaminate_all:
        return False
    asked = {"lines": config.max_line_repeats, "classifier": config.classifiers, "perplexity": config.perplexity_model}
    if step in asked and not asked[step]:
        return False
    return step in STEPS[source.kind] and step not in source.skip


def check(sources: Sequence[Source], config: CorpusConfig, runner: str) -> None:
    """Raise a `UserError` for unknown names and impossible numbers, before anything is read."""
    steps = sorted({step for kind in STEPS.values() for step in kind})
    rules = rule_names(list(RULE_SETS))
    if not sources:
        raise UserError("no sources", expected="at least one")
    if not 0 < config.near_threshold <= 1:
        raise UserError(f"near_threshold {config.near_threshold}", expected="a number above 0, 1 at most")
    if config.chunk_bytes < 1:
        raise UserError(f"chunk_bytes {config.chunk_bytes}", expected="a number above 0")
    for name, (low, high) in config.thresholds.items():
        if not low <= high:
            raise UserError(f"thresholds of {name}: {low:g}, {high:g}", expected="the lowest and the highest to keep")
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise UserError(f"{count} sources are called {name!r}", expected="a name for each source")
    for what, given, known in (
        ("step to skip", [step for source in sources for step in source.skip], steps),
        ("quality rule", list(config.thresholds), rules),
        ("set of rules", list(config.rules), list(RULE_SETS)),
        ("runner", [runner], list(RUNNERS)),
    ):
        for name in given:
            if name not in known:
                raise UserError(f"unknown {what} {name!r}", expected=", ".join(known), nearest=nearest(name, known))
