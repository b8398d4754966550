"""The settings of a corpus: the numbers that the report leaves open, and the steps that each kind of source takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwenkit.data.decontamination import GRAM, SHORTEST
from qwenkit.data.filters.rule_sets import RULE_SETS, rule_names
from qwenkit.data.filters.word_list import Lists
from qwenkit.data.pipeline.custom_steps import find_steps
from qwenkit.data.readers.sources import Source
from qwenkit.errors import UserError, nearest, refuse_unnamed
from qwenkit.settings import setting

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
Classifiers = tuple[tuple[str, float], ...]
"""Learned filters, each a file with the score that a text must have at least."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What learned filters and a model must give a text. Each is a key of `corpus` in recipes."""

    min_score: float = setting(
        0.1, doc="score below which the learned filters drop a text", ge=0, le=1, before="max_line_repeats"
    )
    min_scores: dict[str, float] = setting(
        {}, doc="another least score of one filter: {filter1 = 0.5}", before="max_line_repeats"
    )
    min_bits_per_byte: float = setting(
        0.0, doc="bits per byte of the model below which a text is dropped", ge=0, before="max_line_repeats"
    )
    max_bits_per_byte: float | None = setting(
        None, doc="text that it finds less likely is dropped; 0: none", empty=0.0, ge=0, before="max_line_repeats"
    )


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The settings that the report leaves open. Every default is ours; a rule's `source` names the published
    threshold. Each `setting` is a key of `corpus` in recipes."""

    seed: int = 0
    allow_licences: tuple[str, ...] | None = setting(None, doc="licences to keep; none: all", empty=[])
    near_threshold: float = setting(0.8, doc="Jaccard similarity of 5-shingles that makes a near duplicate", gt=0, le=1)
    languages: tuple[str, ...] | None = setting(None, doc="languages to keep; none: all", empty=[])
    rules: tuple[str, ...] = setting(("own",), doc="sets of rules for text from the web: own, gopher, c4, fineweb")
    thresholds: dict[str, tuple[float, float]] = setting(
        {}, doc="another range of a rule's measure: {length = [50, 100000]}; nothing is measured again"
    )
    max_line_repeats: int | None = setting(
        None, doc="cut lines of pages that stand in more documents than this; 0: none", empty=0, ge=0
    )
    most_documents: int | None = setting(
        None, doc="a 13-gram in more documents than this is not an overlap; 0: all are", empty=0, ge=0
    )
    scrub_pii: bool = setting(False, doc="mask mail addresses, numbers of phones, cards and identity, and keys")
    steps: tuple[str, ...] = setting(
        (), doc="your own steps for every document, `module:function` or `file.py:function`", resolved=True
    )
    min_confidence: float = 0.0  # of language identification
    offensive_words: Lists = field(default_factory=dict)  # by language; "" replaces the package's list
    classifiers: Classifiers = ()
    perplexity_model: str | None = None  # a model's folder, by which texts are scored
    bits_per_byte: tuple[float, float | None] = (0.0, None)  # what it may give a text; None: no limit
    decontaminate_all: bool = True  # False: instruction sources only, as the report words it
    gram: int = GRAM
    shortest: int = SHORTEST
    samples_per_rule: int = 5  # kept for people to read: the report's manual review
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


def check_settings(config: CorpusConfig) -> None:
    """Refuse custom steps, languages, sets of rules and quality rules that do not exist, and ranges that are none.

    Raises a `UserError`. A threshold must be of a rule that one of the chosen sets has.
    """
    find_steps(config.steps)
    if config.languages:
        from qwenkit.data.language import refuse_unknown

        refuse_unknown(config.languages)
    for name, limits in config.thresholds.items():
        if len(limits) != 2 or not limits[0] <= limits[1]:
            expected = "the lowest and the highest value to keep"
            raise UserError(f"thresholds.{name} = {list(limits)}", expected=expected)
    refuse_unnamed("set of rules", config.rules, list(RULE_SETS))
    refuse_unnamed(f"quality rule of {', '.join(config.rules)}", config.thresholds, rule_names(config.rules))


def least_scores(filters: Sequence[str], names: Sequence[str], settings: ScoreSettings) -> Classifiers:
    """Return each learned filter with the score that a text must have at least: its own, or the one of all."""
    pairs = zip(filters, names, strict=True)
    return tuple((path, settings.min_scores.get(name, settings.min_score)) for path, name in pairs)


def check(sources: Sequence[Source], config: CorpusConfig, runner: str) -> None:
    """Raise a `UserError` for unknown names and impossible numbers, before anything is read."""
    steps = sorted({step for kind in STEPS.values() for step in kind})
    if not sources:
        raise UserError("no sources", expected="at least one")
    if not 0 < config.near_threshold <= 1:
        raise UserError(f"near_threshold {config.near_threshold}", expected="a number above 0, 1 at most")
    if config.chunk_bytes < 1:
        raise UserError(f"chunk_bytes {config.chunk_bytes}", expected="a number above 0")
    check_settings(config)
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise UserError(f"{count} sources are called {name!r}", expected="a name for each source")
    for what, given, known in (
        ("step to skip", [step for source in sources for step in source.skip], steps),
        ("runner", [runner], list(RUNNERS)),
    ):
        for name in given:
            if name not in known:
                raise UserError(f"unknown {what} {name!r}", expected=", ".join(known), nearest=nearest(name, known))
