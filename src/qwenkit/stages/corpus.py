"""`corpus`: raw pages and text to clean, deduplicated, decontaminated documents (report §2.1).

Files: `documents.jsonl.gz` (id, text, source, kind, licence, language), `samples.jsonl` (kept beside dropped, for
people to review), `quarantine.jsonl`, `contaminated.jsonl` with the matched spans.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import model_validator

from qwenkit.artifacts import stamp
from qwenkit.config import StageConfig, content, edge
from qwenkit.errors import UserError
from qwenkit.records import Row, read_jsonl, write_jsonl
from qwenkit.stages.base import Input, Result, Work, many
from qwenkit.stages.checks import identity
from qwenkit.stages.testsets import texts

VERSION = 2  # 2: answers, choices and comparisons of the tests count as test texts too
GIVES = ("documents",)
DOCUMENTS = "documents.jsonl.gz"
MOST_COPIES = 1000
WORLD = (  # file, kind, licence
    ("pages.warc.gz", "html", "CC0-1.0"),
    ("text.jsonl", "text", "CC0-1.0"),
    ("instructions.jsonl", "instruction", "CC0-1.0"),
    ("stdlib.jsonl", "code", "PSF-2.0"),
)


class Config(StageConfig):
    """Where the text comes from and what is kept. Thresholds of the report's steps are ours: it gives none."""

    world: str | None = edge(None, doc="a world: its pages, text, instructions and real code", wants="world")
    extra: list[str] = edge(
        [], doc="your own text: folders of .txt/.md/.py, JSONL, Parquet, WARC", wants="text", many=True
    )
    decontaminate: str | None = edge(None, doc="test sets whose 13-grams no document may hold", wants="tests")
    near_threshold: float = content(0.8, doc="Jaccard similarity of 5-shingles that makes a near duplicate", gt=0, le=1)
    languages: list[str] = content([], doc="languages to keep; none: all")
    scrub_pii: bool = content(False, doc="replace mail addresses, phone and card numbers")
    upsample: dict[str, float] = content({}, doc="copies of each document of a source: {code = 2}")

    @model_validator(mode="after")
    def _known(self) -> Config:
        """Sources and languages that do not exist are refused with the recipe."""
        names = self.sources()
        if not names:
            raise ValueError("no sources: neither `world` nor `extra`")
        for name, copies in self.upsample.items():
            if name not in names:
                raise ValueError(f"`upsample` names no source: {name}; there are {', '.join(names)}")
            if not 0 < copies <= MOST_COPIES:
                raise ValueError(f"`upsample` wants {copies:g} copies of {name}; from above 0 to {MOST_COPIES} can be")
        if self.languages:
            from qwenkit.data.language import refuse_unknown

            try:
                refuse_unknown(self.languages)
            except UserError as error:
                raise ValueError(error.text()) from None
        return self

    def sources(self) -> list[str]:
        """The names of all sources: a world's files, and what `extra` names."""
        own = ["extra" if index == 0 else f"extra{index}" for index in range(len(self.extra))]
        return [*(name.split(".")[0] for name, _, _ in WORLD if self.world), *own]


def run(config: Config, inputs: dict[str, Input], work: Work) -> Result:
    """Build the corpus and write it with its books."""
    from qwenkit.data import CorpusConfig, Source, build_corpus

    sources = _sources(config, inputs, Source)
    tests = texts(inputs["decontaminate"].path) if "decontaminate" in inputs else []
    settings = CorpusConfig(
        seed=work.seed,
        languages=tuple(config.languages) or None,
        near_threshold=config.near_threshold,
        scrub_pii=config.scrub_pii,
    )
    result = build_corpus(sources, tests, settings, lambda done, total, **more: work.progress(done, total, **more))
    _refuse_empty(sources, result, work.scratch)
    write_jsonl(work.out / DOCUMENTS, result.documents)
    write_jsonl(work.out / "samples.jsonl", result.samples)
    write_jsonl(work.out / "quarantine.jsonl", result.quarantine.rows)
    write_jsonl(work.out / "contaminated.jsonl", result.contaminated)
    return _result(result, tests)


def _refuse_empty(sources: list[Any], result: Any, scratch: Path) -> None:
    """A source that gives nothing was named for nothing: say why, and leave what it lost for reading."""
    empty = [source for source in sources if source.name not in result.counts["source"]]
    if not empty:
        return
    write_jsonl(scratch / "quarantine.jsonl", result.quarantine.rows)
    write_jsonl(scratch / "samples.jsonl", result.samples)
    reasons = {source.name: result.lost[source.name].most_common(3) for source in empty}
    words = [f"{name} ({', '.join(f'{count} {why}' for why, count in found)})" for name, found in reasons.items()]
    raise UserError(
        "nothing is kept of the source " + ", nor of ".join(words),
        where=", ".join(str(source.path) for source in empty),
        expected="text that can be read and passes the rules",
        mend=f"read {scratch / 'quarantine.jsonl'} and samples.jsonl beside it, or take the source out",
    )


def _sources(config: Config, inputs: dict[str, Input], make: Any) -> list[Any]:
    found = []
    if "world" in inputs:
        for name, kind, licence in WORLD:
            stem = name.split(".")[0]
            weight = config.upsample.get(stem, 1.0)
            found.append(make(stem, inputs["world"].file(name), kind, weight, licence))
    for name, source in zip(config.sources()[len(found) :], many(inputs, "extra")):
        file = source.path.name.lower()
        kind = "code" if file.endswith(".py") else "html" if ".warc" in file else "text"
        found.append(make(name, source.path, kind, config.upsample.get(name, 1.0), "unknown"))
    return found


def _result(result: Any, tests: list[str]) -> Result:
    from qwenkit.data.decontaminate import TestIndex

    rows, funnel = result.documents, result.funnel
    index = TestIndex(tests)
    overlap = sum(1 for row in rows if index.matches(row["text"]))
    dropped = sum(step["dropped"] for step in funnel if step["rule"] != "quarantined")
    metrics = {
        "kept": funnel[-1]["left"],
        "documents": len(rows),
        "dropped": dropped,
        "quarantined": len(result.quarantine),
        "funnel": funnel,
        "overlap_13gram": overlap,
        **{f"by_{key}": found for key, found in result.counts.items()},
    }
    metrics["read"] = funnel[0]["left"] + funnel[0]["dropped"]
    size = sum(len(row["text"].encode()) for row in rows) / 1e6
    aside = f", {len(result.quarantine)} quarantined" if len(result.quarantine) else ""
    contaminated = sum(step["dropped"] for step in funnel if step["step"] == "decontaminate")
    return Result(
        metrics,
        f"{len(rows)} documents, {size:.1f} MB; {dropped} dropped, {contaminated} of them for tests{aside}; "
        f"13-gram overlap with tests {overlap}",
    )


@functools.lru_cache(maxsize=2)
def _cached(path: Path, *stamp: int) -> tuple[Row, ...]:
    """The rows of a file as it is now: another size or time is another file."""
    return tuple(read_jsonl(path))


def documents(corpus: Path) -> list[Row]:
    """The documents of a corpus artifact, or of a plain JSONL file with `text`."""
    path = corpus / DOCUMENTS if corpus.is_dir() else corpus
    if not path.exists():
        raise UserError("no corpus here", where=str(corpus), expected=f"a folder with {DOCUMENTS}, or a JSONL file")
    rows = [{"id": f"{path.stem}-{n}", **row} for n, row in enumerate(_cached(path.resolve(), *stamp(path)))]
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            raise UserError("missing key `text`", where=f"{path}, row {number}", expected="a text")
        row["id"] = identity(row["id"], f"{path}, row {number}")
    if not rows:
        raise UserError("no documents in this file", where=str(path), expected="one JSON object a line, with `text`")
    return rows
