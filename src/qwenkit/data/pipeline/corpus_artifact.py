"""A corpus as an artifact: built of sources that all keep something, its files, and its metrics.

    result = build_of_all(sources, tests, config, progress, scratch=scratch)
    save_corpus(result, named_tests, out)
    metrics, summary = corpus_metrics(result, [text for _, text in tests])

A source of which no document is kept is a `UserError`, which says what its records were dropped for.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenkit.data.decontamination import overlap_13gram
from qwenkit.data.parquet_io import LEDGER, join
from qwenkit.data.pipeline.config import CorpusConfig
from qwenkit.data.pipeline.corpus import CorpusResult, NothingRead, Progress, build_corpus
from qwenkit.data.readers.documents import Source
from qwenkit.errors import UserError
from qwenkit.records import Row, write_jsonl

MOST_SHOWN = 2000  # characters of a test text that are written beside an overlap


def build_of_all(
    sources: Sequence[Source],
    tests: Sequence[str],
    config: CorpusConfig,
    progress: Progress,
    *,
    scratch: Path,
    folder: Path | None = None,
    **options: Any,
) -> CorpusResult:
    """Build a corpus of sources that each keep at least one document; `options` are those of `build_corpus`.

    Raises the `UserError` of `nothing_kept` for sources that keep none. The chunks go into `folder`, or into `scratch`.
    """
    try:
        result = build_corpus(
            sources, tests, config, progress, folder=folder or scratch / "chunks", strict=True, **options
        )
    except NothingRead as error:
        raise nothing_kept(sources, error.lost, error.quarantine.rows, [], scratch) from None
    empty = {name: row for name, row in result.sources.items() if name not in result.counts["source"]}
    if empty:
        lost = {name: Counter(row["dropped"] | row["quarantined"]) for name, row in empty.items()}
        raise nothing_kept(sources, lost, result.quarantine.rows, result.samples, scratch)
    return result


def save_corpus(result: CorpusResult, tests: Sequence[tuple[str, str]], out: Path) -> None:
    """Write a corpus and its accounting into a folder: documents and attributes in the files that they were made in.

    `tests` are the named test texts that it was decontaminated against; each overlap is written beside its test."""
    for name, files in (("documents", result.document_files), ("attributes", result.attribute_files)):
        for index, path in enumerate(files):
            shutil.copyfile(path, out / f"{name}-{index:05d}.parquet")
    join(result.ledger_files, out / "ledger.parquet", LEDGER)
    write_jsonl(out / "samples.jsonl", result.samples)
    write_jsonl(out / "quarantine.jsonl", result.quarantine.rows)
    asked = ({"test_name": name, "test_text": text[:MOST_SHOWN]} for name, text in tests)
    beside = dict(enumerate(asked))
    write_jsonl(out / "contaminated.jsonl", ({**row, **beside[row["test"]]} for row in result.contaminated))


def nothing_kept(
    sources: Sequence[Source],
    lost: Mapping[str, Counter[str]],
    quarantine: list[Row],
    samples: list[Row],
    scratch: Path,
) -> UserError:
    """Return the error of sources of which no document is kept: why, and what they lost, in files of `scratch`.

    `lost` counts by source the reasons for which its records were dropped or quarantined."""
    write_jsonl(scratch / "quarantine.jsonl", quarantine)
    write_jsonl(scratch / "samples.jsonl", samples)
    reasons = {name: counter.most_common(3) for name, counter in lost.items()}
    keys = {name: re.findall(r", but a text in '([^']+)'", " ".join(counter)) for name, counter in lost.items()}
    named = ", ".join(f"{name} = {json.dumps([columns[0]])}" for name, columns in keys.items() if columns)
    hint = f"text_keys = {{{named}}} takes the text from there; or " if named else ""
    words = [f"{name} ({', '.join(f'{count} {why}' for why, count in counts)})" for name, counts in reasons.items()]
    return UserError(
        "nothing is kept of the source " + ", nor of ".join(words),
        where=", ".join(str(source.path) for source in sources if source.name in lost),
        expected="text that can be read and passes the rules",
        hint=f"{hint}read {scratch / 'quarantine.jsonl'} and samples.jsonl beside it, or take the source out",
    )


def corpus_metrics(result: CorpusResult, tests: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the metrics of a corpus and a line that sums it up; all texts are read once more.

    `overlap_13gram` is the number of documents that still share 13 units with one of the test texts (report §2.1); it
    is 0 where decontamination worked."""
    count = size = 0

    def passing() -> Iterator[str]:
        nonlocal count, size
        for text in (text for batch in result.batches() for text in batch):
            count, size = count + 1, size + len(text.encode("utf-8", "replace"))
            yield text

    overlap, funnel = overlap_13gram(passing(), tests), result.funnel
    dropped = sum(step["dropped"] for step in funnel if step["rule"] != "quarantined")
    metrics = {
        "kept": funnel[-1]["left"],
        "documents": count,
        "dropped": dropped,
        "quarantined": len(result.quarantine),
        "funnel": funnel,
        "sources": result.sources,
        "overlap_13gram": overlap,
        "scrubbed": dict(result.pii),
        **{f"by_{key}": counts for key, counts in result.counts.items()},
        **({"taken": result.taken} if result.taken else {}),
    }
    metrics["read"] = funnel[0]["left"] + funnel[0]["dropped"]
    quarantined = f", {len(result.quarantine)} quarantined" if len(result.quarantine) else ""
    contaminated = sum(step["dropped"] for step in funnel if step["step"] == "decontaminate")
    return metrics, (
        f"{count} documents, {size / 1e6:.1f} MB; {dropped} dropped, {contaminated} of them for tests{quarantined}; "
        f"13-gram overlap with tests {overlap}{_file_kinds(result.taken)}"
    )


def _file_kinds(taken: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return in words how the files of each source without a kind were read."""
    parts = []
    for name, kinds in taken.items():
        files = {kind: ", ".join(f"{n} {suffix}" for suffix, n in suffixes.items()) for kind, suffixes in kinds.items()}
        parts.append(f"; {name}: " + ", ".join(f"{names} as {kind}" for kind, names in files.items()))
    return "".join(parts)
