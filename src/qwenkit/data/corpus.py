"""The corpus (section 2.1): the report's nine steps in its order, every loss of a document counted under its rule.

    result = build_corpus(sources, test_texts, CorpusConfig(seed=1), progress, folder=Path("work"), workers=4)
    result.documents     rows {"id", "text", "source", "kind", "licence", "language", ...}, in reading order
    result.funnel        rows {"step", "rule", "dropped", "left"}: read = kept + dropped by each rule + quarantined

Steps apply by kind of source (`settings.STEPS`): prose rules of quality judge what comes from the web, code has its own
rules, text chosen by hand is only checked for broken characters and abuse, instruction data is only deduplicated and
decontaminated. `Source.skip` leaves out more. Near duplicates are sought over all sources together, as the report's
memo has it; of a cluster the copy from the source of the largest weight stays, then the longest, then the first.

The work is done in phases (`phases`, `copies`, `gauge`), each in chunks of the input with an output of its own: a kill
loses the chunk that was being made; any number of workers makes the same bytes; memory holds a chunk for each worker,
and some numbers for each document. Called again with the same `folder`, only what has changed is made anew: other
thresholds are asked of what was measured.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from qwenkit.data import copies, phases, tables
from qwenkit.data.chunks import Chunks, Mark
from qwenkit.data.gauge import ATTRIBUTES, measure_part, stamps
from qwenkit.data.readers import Source, Split, splits
from qwenkit.data.settings import ORDER, CorpusConfig, applies, check
from qwenkit.errors import Stopped, UserError
from qwenkit.records import Quarantine

Row = dict[str, Any]
Progress = Callable[..., None]
FORM = 4  # of what lies between the phases: another form is read by nobody, so all is made anew


@dataclass
class CorpusResult:
    """The corpus and how it came about. Documents, ledger and attributes lie in files, in reading order."""

    document_files: list[Path]
    ledger_files: list[Path]
    attribute_files: list[Path]
    funnel: list[Row]
    samples: list[Row]
    counts: dict[str, dict[str, dict[str, int]]]
    sources: dict[str, Row]  # by source: read = kept + dropped (by rule) + quarantined (by reason)
    quarantine: Quarantine
    contaminated: list[Row]
    pii: Counter[str]
    _held: Any = field(default=None, repr=False)  # the folder of a build that was given none

    @property
    def documents(self) -> list[Row]:
        """All documents in memory."""
        return list(self)

    def batches(self) -> Iterator[list[str]]:
        """The texts, some thousand at a time."""
        for path in self.document_files:
            yield from ([row["text"] for row in rows] for rows in tables.read(path, ["text"]))

    def __iter__(self) -> Iterator[Row]:
        for path in self.document_files:
            yield from tables.read_documents(path)


def build_corpus(
    sources: Sequence[Source],
    test_texts: Iterable[str] = (),
    config: CorpusConfig | None = None,
    progress: Progress | None = None,
    *,
    folder: Path | None = None,
    workers: int = 1,
    runner: str = "local",
    version: int = 0,
    strict: bool = False,
) -> CorpusResult:
    """Raw sources in, clean documents out, each missing one accounted for. `progress(done, total, step=...)`. In a
    `folder` that is there already, what another `version` of the steps has made is made anew. `strict`: a source of
    which no record can be read ends the build when all are read (`NothingRead`)."""
    config = config or CorpusConfig()
    check(sources, config, runner)
    _refuse_within(sources, folder)
    held = None if folder is not None else tempfile.TemporaryDirectory(prefix="qwenkit-corpus-")
    base = folder if folder is not None else Path(str(held and held.name))
    with Chunks(base, workers, runner, progress) as work:
        build = _Build(work, list(sources), config, list(test_texts), version, strict)
        build.run()
        return build.result(held)


class NothingRead(UserError):
    """Of some sources no record can be read: `lost` says why, the quarantine where."""

    def __init__(self, lost: dict[str, Counter[str]], quarantine: Quarantine) -> None:
        super().__init__("nothing can be read of the source " + ", nor of ".join(lost))
        self.lost, self.quarantine = lost, quarantine


class _Build:
    """One build: what its phases are given, and the books that are closed at its end."""

    def __init__(
        self,
        work: Chunks,
        sources: list[Source],
        config: CorpusConfig,
        tests: list[str],
        version: int,
        strict: bool,
    ) -> None:
        self.work, self.sources, self.config, self.tests = work, sources, config, tests
        self.version, self.strict = version, strict
        self.parts: list[tuple[Split, Source]] = [
            (split, source) for source in sources for split in splits(source, config.chunk_bytes)
        ]
        self.read: list[Mark] = []
        self.clean: list[Mark] = []

    def run(self) -> None:
        """The five phases. The key of each is what its bytes depend on."""
        read = [self._reading_key(split, source) for split, source in self.parts]
        tasks = [(*part, self.config) for part in self.parts]
        self.read = self.work.map("1-read", FORM, tasks, phases.read_part, own=read)
        self._refuse_silent_sources()
        sign = [FORM, read, self.config.near_threshold, self.config.max_line_repeats]
        signing = [(n, self._rows(n), source, self.config) for n, (_, source) in enumerate(self.parts)]
        self.work.map("2-sign", sign, signing, phases.sign_part)
        joined = [sign, [source.weight for source in self.sources]]
        self._join(joined)
        self._clean(joined, self._measure(joined))

    def _reading_key(self, split: Split, source: Source) -> list[Any]:
        """What the rows of a part depend on: other parts, and other sources, play no part."""
        config, times = self.config, [stamps(Path(name)) for name in split.paths]
        return [
            self.version, asdict(split), times, {**asdict(source), "path": str(source.path)}, config.seed,
            config.languages, config.min_confidence, config.allow_licences, config.samples_per_rule,
        ]  # fmt: skip

    def _rows(self, number: int) -> Path:
        return self.work.path("1-read", number, phases.ROWS)

    def _refuse_silent_sources(self) -> None:
        """Sources without any record; if `strict`, also those of which none can be read: before the long work."""
        read, bad = Counter[str](), {source.name: Counter[str]() for source in self.sources}
        for mark in self.read:
            read[mark["source"]] += mark["read"]
            bad[mark["source"]].update(mark["bad"])
        unread = {name: found for name, found in bad.items() if not read[name]}
        for source in self.sources:
            if source.name in unread and not unread[source.name]:
                raise UserError("no document in this source", where=f"source {source.name}: {source.path}")
        if unread and self.strict:
            raise NothingRead(unread, self._quarantine())

    def _join(self, key: list[Any]) -> None:
        """Copies over all chunks: candidates, their shingles, clusters."""
        work, numbers = self.work, range(len(self.parts))
        signatures = [work.path("2-sign", n, phases.SIGNATURES) for n in numbers]
        weights = [source.weight for _, source in self.parts]
        work.map("3-pairs", key, [(signatures, weights, self.config, work.runner)], copies.find_candidates)
        pairs = work.folder / "3-pairs" / "00000"
        shingling = [(n, self._rows(n), pairs / copies.NEEDED) for n in numbers]
        work.map("3-shingles", key, shingling, copies.shingle_part)
        shingles = [work.folder / "3-shingles" / f"{n:05d}" for n in numbers]
        rows = [self._rows(n) for n in numbers]
        names = [(source.name, source.weight) for _, source in self.parts]
        joining = [(pairs, shingles, rows, signatures, names, self.config, work.runner)]
        work.map("3-join", key, joining, copies.join_copies)

    def _measure(self, joined: list[Any]) -> list[Any]:
        """What rules, filters and a model see. The key, which is returned, has no thresholds."""
        config, folder = self.config, self.work.folder / "3-join" / "00000"
        files = [path for path, _ in config.classifiers] + [config.perplexity_model] * bool(config.perplexity_model)
        seen_by = [list(config.rules), config.offensive_words, [[path, *stamps(Path(str(path)))] for path in files]]
        key = [joined, config.max_line_repeats, *seen_by]
        tasks = [(n, self._rows(n), source, config, folder) for n, (_, source) in enumerate(self.parts)]
        self.work.map("4-measure", key, tasks, measure_part)
        return key

    def _clean(self, joined: list[Any], measured: list[Any]) -> None:
        """What is left, by thresholds and tests."""
        folder = self.work.folder / "3-join" / "00000"
        tests = self._written(json.dumps(self.tests).encode(), "json")
        common = self._common(joined, tests)
        tasks = [
            (n, self._rows(n), source, self.config, folder, self._attributes(n), tests, common)
            for n, (_, source) in enumerate(self.parts)
        ]
        key = [measured, asdict(self.config), tests.name, common and common.name]
        self.clean = self.work.map("4-clean", key, tasks, phases.clean_part)

    def _attributes(self, number: int) -> Path:
        return self.work.path("4-measure", number, ATTRIBUTES)

    def _written(self, data: bytes, suffix: str) -> Path:
        """A file for the workers, named after what is in it."""
        path = self.work.folder / "tests" / f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
        return path

    def _common(self, joined: list[Any], tests: Path) -> Path | None:
        """The grams of the tests that stand in more than `most_documents` documents, in a file."""
        config, most = self.config, self.config.most_documents
        if most is None:
            return None
        folder = self.work.folder / "3-join" / "00000"
        apply = [(n, source) for n, (_, source) in enumerate(self.parts) if applies("decontaminate", source, config)]
        key = [joined, tests.name, config.gram, config.shortest, [n for n, _ in apply]]
        self.work.map(
            "4-spread", key, [(n, self._rows(n), config, folder, tests) for n, _ in apply], phases.spread_part
        )
        spread: Counter[int] = Counter()
        for place in range(len(apply)):
            with np.load(self.work.path("4-spread", place, phases.SPREAD)) as found:
                spread.update(dict(zip(found["grams"].tolist(), found["counts"].tolist())))
        data = io.BytesIO()
        np.save(data, np.array(sorted(gram for gram, count in spread.items() if count > most), dtype=np.uint64))
        return self._written(data.getvalue(), "npy")

    # -- the books ---------------------------------------------------------------------------------------------------

    def result(self, held: Any) -> CorpusResult:
        """Every chunk's books as one, closed: a document that nobody accounts for is an error."""
        numbers = range(len(self.parts))
        sources = self._sources()
        _refuse_open_books(sources)
        return CorpusResult(
            [self.work.path("4-clean", n, phases.DOCUMENTS) for n in numbers],
            [self.work.path(phase, n, phases.LEDGER) for n in numbers for phase in ("1-read", "4-clean")],
            [self._attributes(n) for n in numbers],
            self._funnel(),
            self._samples(),
            self._sizes(),
            sources,
            self._quarantine(),
            [row for mark in self.clean for row in mark["contaminated"]],
            sum((Counter(mark["pii"]) for mark in self.clean), Counter()),
            held,
        )

    def _sources(self) -> dict[str, Row]:
        """What became of each source. Kept is what the ledger says, not what is left."""
        found: dict[str, Row] = {
            s.name: {"file": Path(s.path).name, "read": 0, "kept": 0, "dropped": Counter(), "quarantined": Counter()}
            for s in self.sources
        }
        for number, mark in enumerate(self.read):
            row, bad = found[mark["source"]], Counter(mark["bad"])
            row["quarantined"] += bad
            row["read"] += mark["read"] + bad.total()
            steps = pq.read_table(str(self.work.path("4-clean", number, phases.LEDGER)), columns=["step"])["step"]
            row["kept"] += steps.to_pylist().count(phases.KEPT)
        for mark in [*self.read, *self.clean]:
            for _, rule, source, count in mark["counts"]:
                found[source]["dropped"][rule] += count
        for row in found.values():  # plain tables, which can be written as JSON
            row["dropped"], row["quarantined"] = dict(row["dropped"]), dict(row["quarantined"])
        return found

    def _steps(self) -> Counter[tuple[str, str]]:
        """How many documents each rule of each step dropped."""
        found: Counter[tuple[str, str]] = Counter()
        for mark in [*self.read, *self.clean]:
            for step, rule, _, count in mark["counts"]:
                found[step, rule] += count
        return found

    def _funnel(self) -> list[Row]:
        """One line for every rule that dropped something, or one for a step that dropped nothing."""
        dropped, left = self._steps(), sum(mark["read"] for mark in self.read)
        put_aside = sum(sum(mark["bad"].values()) for mark in self.read)
        funnel: list[Row] = [{"step": "read", "rule": "quarantined", "dropped": put_aside, "left": left}]
        for step in ("extract", *ORDER, "mixture"):
            if step in ("licence", "lines", "classifier", "perplexity") and not any(
                applies(step, s, self.config) for s in self.sources
            ):
                continue
            for rule, count in sorted((r, c) for (s, r), c in dropped.items() if s == step) or [("", 0)]:
                left -= count
                funnel.append({"step": step, "rule": rule, "dropped": count, "left": left})
        return funnel

    def _samples(self) -> list[Row]:
        """The luckiest few of every rule and source over all chunks."""
        found: dict[tuple[str, str, str], list[Any]] = {}
        for mark in [*self.read, *self.clean]:
            for luck, place, row in mark["samples"]:
                found.setdefault((row["step"], row["rule"], row["source"]), []).append((-luck, place, row))
        most = self.config.samples_per_rule
        return [entry[2] for key in sorted(found) for entry in sorted(found[key], key=lambda e: e[:2])[:most]]

    def _sizes(self) -> dict[str, dict[str, dict[str, int]]]:
        """Documents and characters by source, language and licence, largest first."""
        found: dict[str, dict[str, list[int]]] = {key: {} for key in ("source", "language", "licence")}
        for mark in self.clean:
            for key, value, documents, characters in mark["sizes"]:
                sums = found[key].setdefault(value, [0, 0])
                sums[0], sums[1] = sums[0] + documents, sums[1] + characters
        return {
            key: {v: {"documents": d, "characters": c} for v, (d, c) in sorted(sums.items(), key=lambda i: -i[1][1])}
            for key, sums in found.items()
        }

    def _quarantine(self) -> Quarantine:
        quarantine = Quarantine()
        for mark in self.read:
            quarantine.counts.update(mark["bad"])
            quarantine.rows += mark["quarantine"][: max(0, quarantine.keep - len(quarantine.rows))]
        return quarantine


def _refuse_within(sources: Sequence[Source], folder: Path | None) -> None:
    """Refuse to write the chunks into a source: the next build would read them as its files."""
    if folder is None:
        return
    for path in (Path(source.path).resolve() for source in sources):
        below = folder.resolve().relative_to(path).parts if folder.resolve().is_relative_to(path) else (".",)
        if path.is_dir() and not any(part.startswith(".") for part in below):  # what is hidden is not read
            raise UserError("the folder of chunks lies in a source", where=str(folder), expected="a folder of its own")


def _refuse_open_books(sources: dict[str, Row]) -> None:
    """Refuse a corpus in which a document was lost, or counted twice: read = kept + dropped + quarantined."""
    told = []
    for name, row in sources.items():
        dropped, aside = sum(row["dropped"].values()), sum(row["quarantined"].values())
        if row["read"] != row["kept"] + dropped + aside:
            told.append(f"{name}: {row['read']} read, {row['kept']} kept, {dropped} dropped, {aside} quarantined")
    if told:
        books = "read = kept + dropped + quarantined"
        raise Stopped("documents were lost or counted twice", where="; ".join(told), expected=books)


def funnel_lines(funnel: Iterable[Row]) -> Iterator[str]:
    """The funnel as aligned lines of text."""
    for row in funnel:
        yield f"{row['step']:<18} {row['rule']:<26} {row['dropped']:>9,} {row['left']:>9,}"
