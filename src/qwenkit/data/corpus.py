"""The corpus (section 2.1): the report's nine steps in its order, every loss of a document counted under its rule.

    result = build_corpus(sources, test_texts, CorpusConfig(seed=1), progress, folder=Path("work"), workers=4)
    result.documents     rows {"id", "text", "source", "kind", "licence", "language", ...}, in reading order
    result.funnel        rows {"step", "rule", "dropped", "left"}: read = kept + dropped by each rule + quarantined

Steps apply by kind of source (`settings.STEPS`): prose rules of quality judge what comes from the web, code has its own
rules, text chosen by hand is only checked for broken characters and abuse, instruction data is only deduplicated and
decontaminated. `Source.skip` leaves out more. Near duplicates are sought over all sources together, as the report's
memo has it; of a cluster the copy from the source of the largest weight stays, then the longest, then the first.

The work is done in phases, each in chunks of the input with an output of its own (`chunks`, `phases`, `copies`): a kill
loses the chunk that was being made; any number of workers makes the same bytes; memory holds a chunk for each worker,
and some numbers for each document. Called again with the same `folder`, only what has changed is made anew: other
thresholds redo the last phase.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwenkit.data import copies, phases, tables
from qwenkit.data.chunks import Chunks, Mark
from qwenkit.data.decontaminate import TestIndex
from qwenkit.data.readers import Source, Split, splits
from qwenkit.data.settings import ORDER, CorpusConfig, applies, check
from qwenkit.errors import UserError
from qwenkit.records import Quarantine, write_json

Row = dict[str, Any]
Progress = Callable[..., None]
_READING = ("extract", "licence", "language")  # steps of the first phase


@dataclass
class CorpusResult:
    """The corpus and how it came about. Documents, ledger and attributes lie in files, in reading order."""

    document_files: list[Path]
    ledger_files: list[Path]
    attribute_files: list[Path]
    funnel: list[Row]
    samples: list[Row]
    counts: dict[str, dict[str, dict[str, int]]]
    lost: dict[str, Counter[str]]  # by source: how many records each rule dropped, or each reason put aside
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
) -> CorpusResult:
    """Raw sources in, clean documents out, each missing one accounted for. `progress(done, total, step=...)`."""
    config = config or CorpusConfig()
    check(sources, config, runner)
    held = None if folder is not None else tempfile.TemporaryDirectory(prefix="qwenkit-corpus-")
    base = folder if folder is not None else Path(str(held and held.name))
    with Chunks(base, workers, runner, progress) as work:
        build = _Build(work, list(sources), config, list(test_texts))
        build.run()
        return build.result(held)


class _Build:
    """One build: what its phases are given, and the books that are closed at its end."""

    def __init__(self, work: Chunks, sources: list[Source], config: CorpusConfig, tests: list[str]) -> None:
        self.work, self.sources, self.config, self.tests = work, sources, config, tests
        self.parts: list[tuple[Split, Source]] = [
            (split, source) for source in sources for split in splits(source, config.chunk_bytes)
        ]
        self.read: list[Mark] = []
        self.clean: list[Mark] = []

    def run(self) -> None:
        """The five phases. The key of each is what its bytes depend on."""
        read = self._reading_key()
        self.read = self.work.map("1-read", read, [(*part, self.config) for part in self.parts], phases.read_part)
        self._refuse_silent_sources()
        sign = [read, self.config.near_threshold, self.config.max_line_repeats, [list(s.skip) for s in self.sources]]
        signing = [(n, self._rows(n), source, self.config) for n, (_, source) in enumerate(self.parts)]
        self.work.map("2-sign", sign, signing, phases.sign_part)
        joined = [sign, [source.weight for source in self.sources]]
        self._join(joined)
        tests = self._write_tests()
        clean = [joined, asdict(self.config), tests, _stamp(self.config.classifier)]
        folder = self.work.folder / "3-join" / "00000"
        cleaning = [
            (n, self._rows(n), source, self.config, folder, self.work.folder / "tests")
            for n, (_, source) in enumerate(self.parts)
        ]
        self.clean = self.work.map("4-clean", clean, cleaning, phases.clean_part)

    def _reading_key(self) -> list[Any]:
        files = [
            [list(split.paths), split.start, split.stop, split.unread, source.name] for split, source in self.parts
        ]
        stamps = [_stamp(name) for split, _ in self.parts for name in split.paths]
        kinds = [[s.name, s.kind, s.licence, s.text_key, list(s.skip)] for s in self.sources]
        config = self.config
        return [
            files, stamps, kinds, config.seed, config.languages, config.min_confidence, config.allow_licences,
            config.samples_per_rule,
        ]  # fmt: skip

    def _rows(self, number: int) -> Path:
        return self.work.path("1-read", number, phases.ROWS)

    def _refuse_silent_sources(self) -> None:
        found: Counter[str] = Counter()
        for mark in self.read:
            found[mark["source"]] += mark["read"] + sum(mark["bad"].values())
        for source in self.sources:
            if not found[source.name]:
                raise UserError("no document in this source", where=f"source {source.name}: {source.path}")

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

    def _write_tests(self) -> str:
        """The test texts and the grams that are boilerplate, where the workers find them."""
        folder = self.work.folder / "tests"
        folder.mkdir(exist_ok=True)
        write_json(folder / "tests.json", self.tests)
        (folder / "common.npy").unlink(missing_ok=True)
        digest = hashlib.sha256((folder / "tests.json").read_bytes()).hexdigest()
        if self.config.most_documents is not None:
            np.save(folder / "common.npy", self._boilerplate(self.config.most_documents))
        return digest

    def _boilerplate(self, most: int) -> np.ndarray:
        """Grams of the tests that stand in more than `most` documents."""
        index, spread = TestIndex(self.tests, self.config.gram, self.config.shortest), Counter[int]()
        for number, (_, source) in enumerate(self.parts):
            if applies("decontaminate", source, self.config):
                for batch in tables.read(self._rows(number), ["text"]):
                    for row in batch:
                        spread.update(index.grams_in(row["text"]).tolist())
        return np.array(sorted(gram for gram, count in spread.items() if count > most), dtype=np.uint64)

    # -- the books ---------------------------------------------------------------------------------------------------

    def result(self, held: Any) -> CorpusResult:
        """Every chunk's books as one, closed: a document that nobody accounts for is an error."""
        numbers = range(len(self.parts))
        steps = self._steps()
        read = sum(mark["read"] for mark in self.read)
        dropped = sum(steps.values())
        kept = sum(1 for n in numbers for rows in self._ledger(n) for row in rows if row["step"] == phases.KEPT)
        assert read == kept + dropped, "a document was lost without a rule"
        return CorpusResult(
            [self.work.path("4-clean", n, phases.DOCUMENTS) for n in numbers],
            [self.work.path(phase, n, phases.LEDGER) for n in numbers for phase in ("1-read", "4-clean")],
            [self.work.path("4-clean", n, phases.ATTRIBUTES) for n in numbers],
            self._funnel(read, steps),
            self._samples(),
            self._sizes(),
            self._lost(),
            self._quarantine(),
            [row for mark in self.clean for row in mark["contaminated"]],
            sum((Counter(mark["pii"]) for mark in self.clean), Counter()),
            held,
        )

    def _ledger(self, number: int) -> Iterator[list[Row]]:
        return tables.read(self.work.path("4-clean", number, phases.LEDGER), ["step"])

    def _steps(self) -> Counter[tuple[str, str]]:
        """How many documents each rule of each step dropped."""
        found: Counter[tuple[str, str]] = Counter()
        for mark in [*self.read, *self.clean]:
            for step, rule, _, count in mark["counts"]:
                found[step, rule] += count
        return found

    def _funnel(self, read: int, dropped: Counter[tuple[str, str]]) -> list[Row]:
        """One line for every rule that dropped something, or one for a step that dropped nothing."""
        put_aside = sum(sum(mark["bad"].values()) for mark in self.read)
        funnel: list[Row] = [{"step": "read", "rule": "quarantined", "dropped": put_aside, "left": read}]
        left = read
        for step in ("extract", *ORDER, "mixture"):
            if step in ("licence", "lines", "classifier") and not any(
                applies(step, s, self.config) for s in self.sources
            ):
                continue
            for rule, count in sorted((r, c) for (s, r), c in dropped.items() if s == step) or [("", 0)]:
                left -= count
                funnel.append({"step": step, "rule": rule, "dropped": count, "left": left})
        return funnel

    def _samples(self) -> list[Row]:
        """The luckiest few of every rule over all chunks."""
        found: dict[tuple[str, str], list[Any]] = {}
        for mark in [*self.read, *self.clean]:
            for luck, place, row in mark["samples"]:
                found.setdefault((row["step"], row["rule"]), []).append((-luck, place, row))
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

    def _lost(self) -> dict[str, Counter[str]]:
        lost: dict[str, Counter[str]] = {source.name: Counter() for source in self.sources}
        for mark in self.read:
            lost[mark["source"]].update(mark["bad"])
        for mark in [*self.read, *self.clean]:
            for _, rule, source, count in mark["counts"]:
                lost[source][rule] += count
        return lost

    def _quarantine(self) -> Quarantine:
        quarantine = Quarantine()
        for mark in self.read:
            quarantine.counts.update(mark["bad"])
            quarantine.rows += mark["quarantine"][: max(0, quarantine.keep - len(quarantine.rows))]
        return quarantine


def _stamp(path: str | None) -> list[Any]:
    """A file's name, size and time: while they stand, its bytes are taken to stand too."""
    if path is None:
        return []
    stat = Path(path).stat()
    return [path, stat.st_size, stat.st_mtime_ns]


def funnel_lines(funnel: Iterable[Row]) -> Iterator[str]:
    """The funnel as aligned lines of text."""
    for row in funnel:
        yield f"{row['step']:<18} {row['rule']:<26} {row['dropped']:>9,} {row['left']:>9,}"
