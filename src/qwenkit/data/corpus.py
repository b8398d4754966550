"""The corpus (section 2.1): the report's nine steps in its order, every loss of a document counted under its rule.

    result = build_corpus(sources, test_texts, CorpusConfig(seed=1), progress)
    result.documents     rows {"id", "text", "source", "kind", "licence", "language", ...}, in reading order
    result.funnel        rows {"step", "rule", "dropped", "left"}: read = kept + dropped by each rule + quarantined

Steps apply by kind of source (`STEPS`): prose rules of quality judge what comes from the web, code has its own rules,
text chosen by hand is only checked for broken characters and abuse, instruction data is only deduplicated and
decontaminated. `Source.skip` leaves out more. Near duplicates are sought over all sources together, as the report's
memo has it; of a cluster the copy from the source of the largest weight stays, then the longest, then the first.

One process and memory for all texts: right up to some 10^5 documents.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any

from qwenkit import draws
from qwenkit.data import dedup, mixture, quality
from qwenkit.data.decontaminate import GRAM, SHORTEST, Match, TestIndex
from qwenkit.data.extract import extract_text, tidy
from qwenkit.data.language import detect_language
from qwenkit.data.pii import scrub
from qwenkit.data.readers import Document, Source, read_documents
from qwenkit.errors import UserError, nearest
from qwenkit.records import Quarantine

Row = dict[str, Any]
Drops = dict[int, tuple[str, str]]  # index of a row -> (rule that drops it, what it saw)
Progress = Callable[..., None]

STEPS: dict[str, tuple[str, ...]] = {
    "html": ("language", "exact_duplicates", "near_duplicates", "quality", "classifier", "decontaminate"),
    "web": ("language", "exact_duplicates", "near_duplicates", "quality", "classifier", "decontaminate"),
    "text": ("language", "exact_duplicates", "near_duplicates", "quality", "decontaminate"),
    "code": ("exact_duplicates", "near_duplicates", "quality", "decontaminate"),
    "instruction": ("exact_duplicates", "decontaminate"),
}
_NO_LANGUAGE = "code"
NAMED = ("licence", "language")  # columns of the user's that are taken over where they hold a text


@dataclass(frozen=True)
class CorpusConfig:
    """What the report leaves open. Every default is ours; `quality.RULES` gives the published thresholds."""

    seed: int = 0
    languages: tuple[str, ...] | None = None  # None: every language is kept, and labelled
    min_confidence: float = 0.0  # of language identification
    near_threshold: float = 0.8  # Jaccard similarity of 5-shingles
    max_line_repeats: int | None = None  # drop lines that stand in more documents than this (html only)
    thresholds: dict[str, tuple[float, float]] = field(default_factory=dict)  # rule name -> (low, high)
    offensive_words: tuple[str, ...] | None = None  # None: the package's list
    quality_reference: tuple[str, ...] = ()  # sources that teach the learned scorer what is good; (): no scorer
    min_score: float = 0.1  # of the learned scorer
    scrub_pii: bool = False
    decontaminate_all: bool = True  # False: instruction sources only, as the report words it
    gram: int = GRAM
    shortest: int = SHORTEST
    samples_per_rule: int = 5  # kept for people to read: the report's manual review


@dataclass
class CorpusResult:
    """The corpus and how it came about."""

    documents: list[Row]
    funnel: list[Row]
    samples: list[Row]
    counts: dict[str, dict[str, dict[str, int]]]
    lost: dict[str, Counter[str]]  # by source: how many records each rule dropped, or each reason put aside
    quarantine: Quarantine
    contaminated: list[Row]
    pii: Counter[str]


def build_corpus(
    sources: Sequence[Source],
    test_texts: Iterable[str] = (),
    config: CorpusConfig | None = None,
    progress: Progress | None = None,
) -> CorpusResult:
    """Raw sources in, clean documents out, each missing one accounted for. `progress(done, total, step=...)`."""
    config = config or CorpusConfig()
    _check(sources, config)
    build = _Build(sources, config, progress or (lambda done, total, **_: None))
    build.read()
    build.step("language", build.wrong_language)
    build.step("exact_duplicates", build.exact_copies)
    build.step("near_duplicates", build.near_copies)
    if config.max_line_repeats is not None:
        build.step("lines", build.emptied_by_lines)
    build.step("quality", build.poor)
    if config.quality_reference:
        build.step("classifier", build.unlike_reference)
    build.step("decontaminate", partial(build.contaminated_by, list(test_texts)))
    return build.result()


def _check(sources: Sequence[Source], config: CorpusConfig) -> None:
    """Names that mean nothing are the user's mistake, found before any reading."""
    steps = sorted({step for kind in STEPS.values() for step in kind})
    rules = [rule.name for rule in (*quality.RULES, *quality.CODE_RULES)]
    names = [source.name for source in sources]
    if not sources:
        raise UserError("no sources", expected="at least one")
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{count} sources are called {name!r}", expected="a name for each source")
    for what, given, known in (
        ("step to skip", [step for source in sources for step in source.skip], steps),
        ("quality rule", list(config.thresholds), rules),
        ("reference source", list(config.quality_reference), names),
    ):
        for name in given:
            if name not in known:
                raise UserError(f"unknown {what} {name!r}", expected=", ".join(known), nearest=nearest(name, known))


class _Build:
    """The rows on their way through the steps, and the books that are kept."""

    def __init__(self, sources: Sequence[Source], config: CorpusConfig, progress: Progress) -> None:
        self.sources = {source.name: source for source in sources}
        self.config, self.progress = config, progress
        self.rows: list[Row] = []
        self.rejected: list[str] = []  # texts that broke a rule of quality: the learned scorer's bad examples
        self.funnel: list[Row] = []
        self.contaminated: list[Row] = []
        self.pii: Counter[str] = Counter()
        self.lost: dict[str, Counter[str]] = {name: Counter() for name in self.sources}
        self.quarantine = Quarantine()
        self._samples: defaultdict[tuple[str, str], list[tuple[int, str, Row]]] = defaultdict(list)
        self._read = self._dropped = 0

    # -- books -------------------------------------------------------------------------------------------------------

    def step(self, name: str, find: Callable[[list[int]], Drops]) -> None:
        """Apply one step to the rows whose kind has it; write down what it drops, rule by rule."""
        affected = [index for index, row in enumerate(self.rows) if self._applies(name, row["source"])]
        self.progress(0, len(affected), step=name)
        drops = find(affected)
        for index, (rule, seen) in sorted(drops.items()):
            self.lost[self.rows[index]["source"]][rule] += 1
            self._sample(name, rule, self.rows[index], seen)
        self._book(name, Counter(rule for rule, _ in drops.values()), len(self.rows))
        self.rows = [row for index, row in enumerate(self.rows) if index not in drops]
        self.progress(len(affected), len(affected), step=name)

    def _applies(self, step: str, source_name: str) -> bool:
        source = self.sources[source_name]
        if step == "lines":
            return source.kind == "html"
        if step == "decontaminate" and source.kind != "instruction" and not self.config.decontaminate_all:
            return False
        return step in STEPS[source.kind] and step not in source.skip

    def _book(self, step: str, dropped: Counter[str], before: int) -> None:
        """One line of the funnel for every rule that dropped something, or one for a step that dropped nothing."""
        left = before
        for rule, count in sorted(dropped.items()) or [("", 0)]:
            left -= count
            self._dropped += count
            self.funnel.append({"step": step, "rule": rule, "dropped": count, "left": left})

    def _sample(self, step: str, rule: str, row: Row, seen: str = "") -> None:
        """Keep a random few documents of every rule for reading."""
        kept = self._samples[step, rule]
        luck = draws.derive(self.config.seed, step, rule, row["id"])
        shown = {"step": step, "rule": rule, "id": row["id"], "source": row["source"], "seen": seen}
        entry = (-luck, row["id"], {**shown, "text": row["text"][:400]})
        if len(kept) < self.config.samples_per_rule:
            heapq.heappush(kept, entry)
        elif kept and entry[:2] > kept[0][:2]:
            heapq.heapreplace(kept, entry)

    # -- step 1: reading and text extraction -------------------------------------------------------------------------

    def read(self) -> None:
        """Read every source; pages become text. Ids are made unique by their source's name where two share one."""
        empty: Counter[str] = Counter()
        seen: set[str] = set()
        for source in self.sources.values():
            bad = self.quarantine.counts.copy()
            for document in read_documents(source, self.quarantine):
                self._read += 1
                row = self._row(source, document)
                row["id"] = _unique(row["id"], source.name, seen)
                if row["text"].strip():
                    self.rows.append(row)
                else:
                    empty["no_text"] += 1
                    self.lost[source.name]["no_text"] += 1
                    self._sample("extract", "no_text", row, document.url or "")
                if self._read % 200 == 0:
                    self.progress(self._read, None, step="read")
            self.lost[source.name] += self.quarantine.counts - bad
        put_aside = len(self.quarantine)
        self.funnel.append({"step": "read", "rule": "quarantined", "dropped": put_aside, "left": self._read})
        self._book("extract", empty, self._read)

    def _row(self, source: Source, document: Document) -> Row:
        """A document's row. A page is decoded and extracted; other text is only tidied, and code left as it is."""
        body = document.body
        if source.kind == "html":
            text = dedup.collapse_repeated_lines(extract_text(body, document.url, document.charset))
        else:
            text = body if isinstance(body, str) else body.decode("utf-8", "replace")
            text = text if source.kind == "code" else tidy(text)
        if self.config.scrub_pii:
            text, counts = scrub(text)
            self.pii.update(counts)
        fields = {key: value for key, value in document.fields.items() if _is_plain(value)}
        licence, language = (found if isinstance(found := fields.pop(key, None), str) else "" for key in NAMED)
        licence = licence or source.licence
        language = language or (_NO_LANGUAGE if source.kind == "code" else "")
        row = {"id": document.id, "text": text, "source": source.name, "kind": source.kind}
        row |= {"licence": licence, "language": language}
        return {**({"url": document.url} if document.url else {}), **fields, **row}

    # -- steps 2 to 5 ------------------------------------------------------------------------------------------------

    def wrong_language(self, affected: list[int]) -> Drops:
        """Step 2. Every row gets its language; rows of an unwanted or doubtful one go."""
        drops: Drops = {}
        must = set(affected)
        for index, row in enumerate(self.rows):
            if row["language"]:
                language, sure = row["language"], 1.0
            else:
                language, sure = detect_language(row["text"])
                row["language"] = language
            if index not in must:
                continue
            if self.config.languages is not None and language not in self.config.languages:
                drops[index] = ("unwanted_language", f"{language} {sure:.2f}")
            elif sure < self.config.min_confidence:
                drops[index] = ("doubtful_language", f"{language} {sure:.2f}")
        return drops

    def exact_copies(self, affected: list[int]) -> Drops:
        """Step 3: equal after normalisation. The copy from the source of the largest weight stays, then the first."""
        order = sorted(affected, key=lambda index: (-self._weight(index), index))
        copies = dedup.exact_duplicates(self.rows[index]["text"] for index in order)
        return {order[i]: ("exact_copy", f"of {self.rows[order[first]]['id']}") for i, first in copies.items()}

    def near_copies(self, affected: list[int]) -> Drops:
        """Step 4: near duplicates over all sources; the best copy of each cluster stays."""
        texts = [self.rows[index]["text"] for index in affected]
        weights = [self._weight(index) for index in affected]
        drops: Drops = {}
        for cluster in dedup.near_duplicates(texts, self.config.near_threshold):
            best = dedup.best_copy(cluster, texts, weights)
            for member in cluster:
                if member != best:
                    drops[affected[member]] = ("near_copy", f"of {self.rows[affected[best]]['id']}")
        return drops

    def emptied_by_lines(self, affected: list[int]) -> Drops:
        """Lines that stand in many documents are cut out; a row with nothing else goes."""
        assert self.config.max_line_repeats is not None
        texts, _ = dedup.remove_repeated_lines(
            [self.rows[index]["text"] for index in affected], self.config.max_line_repeats
        )
        for index, text in zip(affected, texts):
            self.rows[index]["text"] = text
        return {index: ("only_repeated_lines", "") for index in affected if not self.rows[index]["text"].strip()}

    def poor(self, affected: list[int]) -> Drops:
        """Step 5, rules: the first rule a text breaks names the drop."""
        prose = quality.with_thresholds(quality.RULES, self.config.thresholds)
        if self.config.offensive_words is not None:
            measure = partial(quality.offensive, listed=self.config.offensive_words)
            prose = tuple(replace(rule, measure=measure) if rule.name == "offensive" else rule for rule in prose)
        chosen = tuple(rule for rule in prose if rule.name in quality.CHOSEN_TEXT)
        code = quality.with_thresholds(quality.CODE_RULES, self.config.thresholds)
        rules = {"html": prose, "web": prose, "text": chosen, "code": code}
        drops: Drops = {}
        for index in affected:
            row = self.rows[index]
            view = quality.View(row["text"], row["language"])
            rule = quality.first_broken(view, rules[row["kind"]])
            if rule:
                drops[index] = (rule.name, f"{rule.measure(view):.3g} not in [{rule.low:g}, {rule.high:g}]")
                self.rejected.append(row["text"])
        return drops

    def unlike_reference(self, affected: list[int]) -> Drops:
        """Step 5, learned: reference sources are good, what broke a rule is bad; rows scored too low go."""
        from qwenkit.data.classifier import QualityClassifier

        good = [row["text"] for row in self.rows if row["source"] in self.config.quality_reference]
        if len(good) < 20 or len(self.rejected) < 20:
            raise UserError(
                f"{len(good)} good and {len(self.rejected)} rejected documents cannot teach the quality scorer",
                expected="at least 20 of each",
                mend="leave quality_reference empty",
            )
        scorer = QualityClassifier.train(good, self.rejected)
        judged = [index for index in affected if self.rows[index]["source"] not in self.config.quality_reference]
        scores = scorer.scores([self.rows[index]["text"] for index in judged])
        low = self.config.min_score
        return {index: ("low_score", f"{score:.3f}") for index, score in zip(judged, scores) if score < low}

    # -- step 9, and the end -----------------------------------------------------------------------------------------

    def contaminated_by(self, test_texts: list[str], affected: list[int]) -> Drops:
        """Step 9: rows that share a 13-gram with a test text."""
        tests = TestIndex(test_texts, self.config.gram, self.config.shortest)
        drops: Drops = {}
        for index in affected:
            matches = tests.matches(self.rows[index]["text"])
            if matches:
                found = [self._match(self.rows[index], match) for match in matches]
                self.contaminated += found
                drops[index] = ("test_overlap", found[0]["matched"])
        return drops

    def _match(self, row: Row, match: Match) -> Row:
        span = {"start": match.start, "stop": match.stop, "matched": row["text"][match.start : match.stop]}
        return {"id": row["id"], "source": row["source"], "test": match.test, **span}

    def result(self) -> CorpusResult:
        """Steps 6 to 8: samples for reading, up-sampling by weight; and the books closed."""
        weights = {name: source.weight for name, source in self.sources.items()}
        mixed = list(mixture.mix(self.rows, weights, self.config.seed))
        kept = {row["id"] for row in mixed}
        lost: Counter[str] = Counter()
        for row in self.rows:
            if row["id"] in kept:
                self._sample("kept", "", row)
            else:
                lost["sampled_out"] += 1
                self.lost[row["source"]]["sampled_out"] += 1
        unique = len(self.rows)
        self._book("mixture", lost, unique)
        assert self._read == unique - lost.total() + self._dropped, "a document was lost without a rule"
        samples = [entry[2] for key in sorted(self._samples) for entry in sorted(self._samples[key], reverse=True)]
        counts = {key: _count(mixed, key) for key in ("source", "language", "licence")}
        return CorpusResult(
            mixed, self.funnel, samples, counts, self.lost, self.quarantine, self.contaminated, self.pii
        )

    def _weight(self, index: int) -> float:
        return self.sources[self.rows[index]["source"]].weight


def _unique(name: str, source: str, seen: set[str]) -> str:
    """The id itself, or one made of the source's name and a number where it has been given before."""
    unique, number = name, 1
    while unique in seen:
        unique, number = f"{source}/{name}" + (f"#{number}" if number > 1 else ""), number + 1
    seen.add(unique)
    return unique


def _is_plain(value: Any) -> bool:
    """What a column of a document may hold; NaN, which others write where there is nothing, is no value."""
    return isinstance(value, str | int | bool) or (isinstance(value, float) and isfinite(value))


def _count(rows: Iterable[Row], key: str) -> dict[str, dict[str, int]]:
    """Documents and characters by one column, largest first."""
    documents: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for row in rows:
        documents[row[key]] += 1
        characters[row[key]] += len(row["text"])
    return {value: {"documents": documents[value], "characters": size} for value, size in characters.most_common()}


def funnel_lines(funnel: Iterable[Row]) -> Iterator[str]:
    """The funnel as aligned lines of text."""
    for row in funnel:
        yield f"{row['step']:<18} {row['rule']:<26} {row['dropped']:>9,} {row['left']:>9,}"
