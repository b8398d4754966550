"""The corpus (section 2.1): the report's nine steps in its order, every loss of a document counted under its rule.

    result = build_corpus(sources, test_texts, CorpusConfig(seed=1), progress, folder=Path("work"), workers=4)
    result.documents     rows {"id", "text", "source", "kind", "licence", "language", ...}, in reading order
    result.funnel        rows {"step", "rule", "dropped", "left"}: read = kept + dropped by each rule + quarantined

Steps apply by kind of source (`config.STEPS`): prose rules of quality judge text from the web, code has its own rules,
text chosen by hand is only checked for broken characters and abuse, instruction data is only deduplicated and
decontaminated. `Source.skip` leaves out more. Near duplicates are searched over all sources together, as in the
report's memo; of a cluster the copy from the source with the largest weight stays, then the longest, then the first.

The work is done in phases (`steps`, `minhash_dedup`, `quality_signals`), each in shards with an output of its own: a
kill loses only the shards that were being written; any number of workers gives the same bytes; memory holds a shard for
each worker, and some numbers for each document. Called again with the same `folder`, only what has changed is repeated:
other thresholds apply to stored measures.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwenkit.artifacts import signature, stamps
from qwenkit.data import parquet_io
from qwenkit.data.dedup import minhash_dedup
from qwenkit.data.filters.quality_signals import ATTRIBUTES, measure_part
from qwenkit.data.pipeline import accounting, steps
from qwenkit.data.pipeline.accounting import Row
from qwenkit.data.pipeline.config import CorpusConfig, applies, check
from qwenkit.data.pipeline.custom_steps import find_steps
from qwenkit.data.pipeline.executor import DoneRecord, Executor
from qwenkit.data.readers.documents import AUTO, Source, SourceSplit, source_splits
from qwenkit.data.readers.sources import suffix_of
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, write_bytes

Progress = Callable[..., None]
FORM = 4  # of the files between the phases: after a change of form everything is made again


@dataclass
class CorpusResult:
    """A corpus and its accounting. Documents, ledger and attributes lie in files, in reading order."""

    document_files: list[Path]
    ledger_files: list[Path]
    attribute_files: list[Path]
    funnel: list[Row]
    samples: list[Row]
    counts: dict[str, dict[str, dict[str, int]]]
    sources: dict[str, Row]  # by source: read = kept + dropped (by rule) + quarantined (by reason)
    taken: dict[str, dict[str, dict[str, int]]]  # of sources of kind `auto`: files by kind and suffix
    quarantine: Quarantine
    contaminated: list[Row]
    pii: Counter[str]
    _held: Any = field(default=None, repr=False)  # the folder of a build that was given none

    @property
    def documents(self) -> list[Row]:
        """Return all documents in memory."""
        return list(self)

    def batches(self) -> Iterator[list[str]]:
        """Yield the texts, some thousands at a time."""
        for path in self.document_files:
            yield from ([row["text"] for row in rows] for rows in parquet_io.read(path, ["text"]))

    def __iter__(self) -> Iterator[Row]:
        """Yield the documents, one after the other."""
        for path in self.document_files:
            yield from parquet_io.read_documents(path)


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
    """Build the clean documents of these sources, and account for every one that is missing.

    `progress(done, total, step=...)` is called after each shard. A `folder` that exists is continued; what another
    `version` of the steps wrote in it is rebuilt. With `strict`, a source without a readable record raises
    `NothingRead` when all are read. Raises a `UserError` for sources and settings that cannot be used."""
    config = config or CorpusConfig()
    check(sources, config, runner)
    _refuse_within(sources, folder)
    temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="qwenkit-corpus-")
    base = folder if folder is not None else Path(str(temporary and temporary.name))
    with Executor(base, workers, runner, progress) as work:
        build = _Build(work, list(sources), config, list(test_texts), version, strict)
        build.run()
        return build.result(temporary)


class NothingRead(UserError):
    """The error of sources without any readable record: `lost` holds the reasons, the quarantine the places."""

    def __init__(self, lost: dict[str, Counter[str]], quarantine: Quarantine) -> None:
        """Name the sources in the message."""
        super().__init__("nothing can be read of the source " + ", nor of ".join(lost))
        self.lost, self.quarantine = lost, quarantine


class _Build:
    """One build: what its phases are given, and the accounting at its end."""

    def __init__(
        self,
        work: Executor,
        sources: list[Source],
        config: CorpusConfig,
        tests: list[str],
        version: int,
        strict: bool,
    ) -> None:
        self.work, self.sources, self.config, self.tests = work, sources, config, tests
        self.version, self.strict = version, strict
        self.steps = find_steps(config.steps)
        self.parts: list[tuple[SourceSplit, Source]] = [
            (split, replace(source, kind=split.kind))
            for source in sources
            for split in source_splits(source, config.chunk_bytes)
        ]
        self.signatures = [[signature(Path(name)) for name in split.paths] for split, _ in self.parts]
        self.read: list[DoneRecord] = []
        self.clean: list[DoneRecord] = []

    def run(self) -> None:
        """The five phases. The key of each is what its bytes depend on."""
        read = [self._reading_key(split, source) for split, source in self.parts]
        tasks = [(*part, self.config, signatures, self.steps) for part, signatures in zip(self.parts, self.signatures)]
        self.read = self.work.run_phase("1-read", FORM, tasks, steps.read_part, own=read)
        self._refuse_silent_sources()
        sign = [FORM, read, self.config.near_threshold, self.config.max_line_repeats]
        signing = [(n, self._rows(n), source, self.config) for n, (_, source) in enumerate(self.parts)]
        self.work.run_phase("2-sign", sign, signing, steps.sign_part)
        joined = [sign, [source.weight for source in self.sources]]
        self._join(joined)
        self._clean(joined, self._measure(joined))

    def _reading_key(self, split: SourceSplit, source: Source) -> list[Any]:
        """Return what the rows of a split depend on; other splits and sources do not matter."""
        config, times = self.config, [stamps(Path(name)) for name in split.paths]
        return [
            self.version, asdict(split), times, {**asdict(source), "path": str(source.path)}, config.seed,
            config.languages, config.min_confidence, config.allow_licences, config.samples_per_rule,
            *([[step.name, step.digest] for step in self.steps]),
        ]  # fmt: skip

    def _rows(self, number: int) -> Path:
        return self.work.path("1-read", number, steps.ROWS)

    def _refuse_silent_sources(self) -> None:
        """Raise an error for sources without any record; if `strict`, also for those of which none can be read: before
        the long work."""
        read, bad = Counter[str](), {source.name: Counter[str]() for source in self.sources}
        for mark in self.read:
            read[mark["source"]] += mark["read"]
            bad[mark["source"]].update(mark["bad"])
        unread = {name: reasons for name, reasons in bad.items() if not read[name]}
        for source in self.sources:
            if source.name in unread and not unread[source.name]:
                raise UserError("no document in this source", where=f"source {source.name}: {source.path}")
        if unread and self.strict:
            raise NothingRead(unread, accounting.quarantine_of(self.read))

    def _join(self, key: list[Any]) -> None:
        """Find the duplicates over all shards: candidates, their shingles, clusters."""
        work, numbers = self.work, range(len(self.parts))
        signatures = [work.path("2-sign", n, steps.SIGNATURES) for n in numbers]
        weights = [source.weight for _, source in self.parts]
        work.run_phase("3-pairs", key, [(signatures, weights, self.config, work.runner)], minhash_dedup.find_candidates)
        pairs = work.folder / "3-pairs" / "00000"
        shingling = [(n, self._rows(n), pairs / minhash_dedup.NEEDED) for n in numbers]
        work.run_phase("3-shingles", key, shingling, minhash_dedup.shingle_part)
        shingles = [work.folder / "3-shingles" / f"{n:05d}" for n in numbers]
        rows = [self._rows(n) for n in numbers]
        names = [(source.name, source.weight) for _, source in self.parts]
        joining = [(pairs, shingles, rows, signatures, names, self.config, work.runner)]
        work.run_phase("3-join", key, joining, minhash_dedup.join_copies)

    def _measure(self, joined: list[Any]) -> list[Any]:
        """Measure what rules, classifiers and a model see; return the key, which has no thresholds."""
        config, folder = self.config, self.work.folder / "3-join" / "00000"
        files = [path for path, _ in config.classifiers] + [config.perplexity_model] * bool(config.perplexity_model)
        seen_by = [list(config.rules), config.offensive_words, [[path, *stamps(Path(str(path)))] for path in files]]
        key = [joined, config.max_line_repeats, *seen_by]
        tasks = [(n, self._rows(n), source, config, folder) for n, (_, source) in enumerate(self.parts)]
        self.work.run_phase("4-measure", key, tasks, measure_part)
        return key

    def _clean(self, joined: list[Any], measured: list[Any]) -> None:
        """Write the documents that thresholds and tests leave."""
        folder = self.work.folder / "3-join" / "00000"
        tests = self._written(json.dumps(self.tests).encode(), "json")
        common = self._common(joined, tests)
        tasks = [
            (n, self._rows(n), source, self.config, folder, self._attributes(n), tests, common)
            for n, (_, source) in enumerate(self.parts)
        ]
        key = [measured, asdict(self.config), tests.name, common and common.name]
        self.clean = self.work.run_phase("4-clean", key, tasks, steps.clean_part)

    def _attributes(self, number: int) -> Path:
        return self.work.path("4-measure", number, ATTRIBUTES)

    def _written(self, data: bytes, suffix: str) -> Path:
        """Return a file for the workers, named by a hash of its content."""
        path = self.work.folder / "tests" / f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            write_bytes(path, data)
        return path

    def _common(self, joined: list[Any], tests: Path) -> Path | None:
        """Return the file of the n-grams of the tests that occur in more than `most_documents` documents, or None."""
        config, most = self.config, self.config.most_documents
        if most is None:
            return None
        folder = self.work.folder / "3-join" / "00000"
        apply = [(n, source) for n, (_, source) in enumerate(self.parts) if applies("decontaminate", source, config)]
        key = [joined, tests.name, config.gram, config.shortest, [n for n, _ in apply]]
        self.work.run_phase(
            "4-spread", key, [(n, self._rows(n), config, folder, tests) for n, _ in apply], steps.spread_part
        )
        spread: Counter[int] = Counter()
        for place in range(len(apply)):
            with np.load(self.work.path("4-spread", place, steps.SPREAD)) as arrays:
                spread.update(dict(zip(arrays["grams"].tolist(), arrays["counts"].tolist())))
        data = io.BytesIO()
        np.save(data, np.array(sorted(gram for gram, count in spread.items() if count > most), dtype=np.uint64))
        return self._written(data.getvalue(), "npy")

    # -- the accounting ----------------------------------------------------------------------------------------------

    def result(self, temporary: Any) -> CorpusResult:
        """Return the accounting of all shards as one: a document that nobody accounts for is an error."""
        numbers = range(len(self.parts))
        read, clean, config = self.read, self.clean, self.config
        ledgers = [self.work.path("4-clean", n, steps.LEDGER) for n in numbers]
        return CorpusResult(
            [self.work.path("4-clean", n, steps.DOCUMENTS) for n in numbers],
            [self.work.path(phase, n, steps.LEDGER) for n in numbers for phase in ("1-read", "4-clean")],
            [self._attributes(n) for n in numbers],
            accounting.funnel_of([source for _, source in self.parts], config, read, clean),
            accounting.samples_of([*read, *clean], config.samples_per_rule),
            accounting.sizes_of(clean),
            accounting.sources_of(self.sources, read, clean, ledgers),
            self._taken(),
            accounting.quarantine_of(read),
            [row for mark in clean for row in mark["contaminated"]],
            sum((Counter(mark["pii"]) for mark in clean), Counter()),
            temporary,
        )

    def _taken(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return how the files of sources of the kind `auto` were read."""
        taken: dict[str, dict[str, dict[str, int]]] = {s.name: {} for s in self.sources if s.kind == AUTO}
        for split, source in self.parts:
            if source.name in taken and split.start == 0:
                counts = taken[source.name].setdefault(split.kind, {})
                for path in map(Path, split.paths):
                    counts[suffix_of(path) or path.name] = counts.get(suffix_of(path) or path.name, 0) + 1
        return {name: {kind: counts for kind, counts in kinds.items() if counts} for name, kinds in taken.items()}


def _refuse_within(sources: Sequence[Source], folder: Path | None) -> None:
    """Raise a `UserError` for a folder of shards inside a source: the next build would read them as its files."""
    if folder is None:
        return
    for path in (Path(source.path).resolve() for source in sources):
        below = folder.resolve().relative_to(path).parts if folder.resolve().is_relative_to(path) else (".",)
        if path.is_dir() and not any(part.startswith(".") for part in below):  # what is hidden is not read
            raise UserError("the folder of chunks lies in a source", where=str(folder), expected="a folder of its own")
