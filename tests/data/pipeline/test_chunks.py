"""The corpus in chunks: any number of workers, any kill, any runner: the same bytes; a key redoes what it changes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenkit.data import CorpusConfig, Source, build_corpus
from qwenkit.data.dedup.minhash_dedup import equal_by_daft, equal_rows
from qwenkit.data.parquet_io import read
from qwenkit.data.pipeline.corpus import CorpusResult
from qwenkit.data.pipeline.executor import Executor
from qwenkit.errors import UserError
from tests.kills import kill_often

WORDS = "river town hill market winter sailor baker bridge story garden engine paper candle music letter".split()


def text_of(seed: int, size: int = 120) -> str:
    luck = random.Random(seed)
    return " ".join(f"{luck.choice(WORDS)}{luck.randrange(40)}" for _ in range(size)) + "."


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Three files with copies, near copies, shared ids, a test question and a line that is not JSON."""
    folder = tmp_path_factory.mktemp("raw")
    for name in ("a", "b", "c"):
        rows = [{"id": f"{n}", "text": text_of(n + 1000 * ord(name))} for n in range(80)]
        rows += [{"text": rows[n]["text"]} for n in range(0, 20, 4)]
        rows += [{"text": rows[n]["text"].replace("river", "brook", 1) + " end"} for n in range(20, 40, 4)]
        rows += [{"text": text_of(999)}, {"text": text_of(7) + " " + QUESTION}]
        lines = [json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join([*lines[:50], "{broken", *lines[50:]]) + "\n")
    return [Source(name, folder / f"{name}.jsonl", weight=w) for name, w in (("a", 1.0), ("b", 2.0), ("c", 1.5))]


QUESTION = "how many sailors went with the baker over the long bridge to the market in the winter of that year"
MARKS = "*/*/mark.json"
CONFIG = CorpusConfig(seed=3, chunk_bytes=20_000)


def digest(result: CorpusResult) -> str:
    """Over the bytes of every file and every book."""
    whole = hashlib.sha256()
    for path in (*result.document_files, *result.ledger_files, *result.attribute_files):
        whole.update(path.read_bytes())
    whole.update(json.dumps([result.funnel, result.samples, result.counts, result.contaminated]).encode())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def expected(sources: list[Source]) -> CorpusResult:
    return build_corpus(sources, [QUESTION], CONFIG)


def test_books_of_many_chunks(sources: list[Source], expected: CorpusResult) -> None:
    dropped = {row["rule"]: row["dropped"] for row in expected.funnel}
    assert len(expected.document_files) > 6
    assert dropped["quarantined"] == 3 and dropped["exact_copy"] == 15 + 4 and dropped["near_copy"] == 15
    assert dropped["test_overlap"] == 1  # its three documents are copies of one
    ids = [row["id"] for row in expected]
    assert len({(row["id"], row["copy"]) for row in expected}) == len(ids) and "b/0" in ids
    kept = next(row for row in expected if row["text"] == text_of(999))
    assert kept["source"] == "b"  # of the largest weight
    ledger = [row for path in expected.ledger_files for rows in read(path) for row in rows]
    assert len(ledger) == 3 * 92 and sum(row["copies"] for row in ledger) == len(ids)
    assert all(row["of"] in ids for row in ledger if row["rule"] == "near_copy" and "end" not in row["of"])


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_makes_the_same_bytes(
    sources: list[Source], expected: CorpusResult, tmp_path: Path, workers: int
) -> None:
    assert digest(build_corpus(sources, [QUESTION], CONFIG, folder=tmp_path, workers=workers)) == digest(expected)


def test_chunks_of_another_size_keep_the_same_documents(sources: list[Source], expected: CorpusResult) -> None:
    other = build_corpus(sources, [QUESTION], CorpusConfig(seed=3, chunk_bytes=1 << 20))
    assert other.documents == expected.documents and other.funnel == expected.funnel


def test_other_thresholds_are_asked_of_what_was_measured(sources: list[Source], tmp_path: Path) -> None:
    """No phase but the last is made again, in this process too; and the answer is that of a build from nothing."""
    seen: dict[str, int] = {}
    watch: Callable[..., None] = lambda done, total, step: seen.setdefault(step, done)  # noqa: E731
    sources = [replace(source, kind="web") for source in sources]
    build_corpus(sources, [QUESTION], CONFIG, folder=tmp_path)
    ranges = {"length": (0, 120), "stop_words_en": (0, 100)}
    other = CorpusConfig(seed=3, chunk_bytes=20_000, scrub_pii=True, thresholds=ranges)
    again = build_corpus(sources, [], other, watch, folder=tmp_path)
    assert all(done > 0 for step, done in seen.items() if step != "4-clean") and seen["4-clean"] == 0
    fresh = build_corpus(sources, [], other)
    assert (again.documents, again.funnel) == (fresh.documents, fresh.funnel) and again.documents
    assert next(row["dropped"] for row in again.funnel if row["rule"] == "length") > 0


def test_one_source_more_reads_no_other_again(sources: list[Source], tmp_path: Path) -> None:
    """Chunks of reading are found again wherever they come to be; the answer is that of a build from nothing."""
    build_corpus(sources[1:], config=CONFIG, folder=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("1-read/*/mark.json")}
    again = build_corpus(sources, config=CONFIG, folder=tmp_path)
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert digest(again) == digest(build_corpus(sources, config=CONFIG))


def test_a_folder_of_chunks_is_one_builds_own(sources: list[Source], tmp_path: Path) -> None:
    with Executor(tmp_path), pytest.raises(UserError, match="another process is working in this folder"):
        build_corpus(sources, folder=tmp_path)


BUILD = """
import json, sys
from qwenkit.data import build_corpus, CorpusConfig, Source
if __name__ == "__main__":
    rows, question, folder, workers, runner = json.loads(sys.argv[1])
    sources = [Source(name, path, weight=weight) for name, path, weight in rows]
    config = CorpusConfig(seed=3, chunk_bytes=20_000)
    build_corpus(sources, [question], config, folder=__import__("pathlib").Path(folder), workers=workers, runner=runner)
"""


def build(sources: list[Source], folder: Path, workers: int, runner: str = "local") -> subprocess.Popen[bytes]:
    script = folder.parent / "build.py"
    script.write_text(BUILD)
    given = [[[s.name, str(s.path), s.weight] for s in sources], QUESTION, str(folder), workers, runner]
    return subprocess.Popen([sys.executable, str(script), json.dumps(given)], start_new_session=True)


@pytest.mark.parametrize(("kills", "workers"), [(3, 1), pytest.param(20, 2, marks=pytest.mark.soak)])
def test_kills_lose_no_more_than_a_chunk(
    sources: list[Source], expected: CorpusResult, tmp_path: Path, kills: int, workers: int
) -> None:
    """SIGKILL to the whole group whenever some more chunks are done; what was done is not touched again."""
    folder = tmp_path / "work"
    killed = kill_often(folder, MARKS, kills, lambda: build(sources, folder, workers), lambda: 0.0)
    assert killed and digest(build_corpus(sources, [QUESTION], CONFIG, folder=folder)) == digest(expected)


def test_daft_groups_as_sorting_does(sources: list[Source], tmp_path: Path) -> None:
    pytest.importorskip("daft")
    build_corpus(sources, [QUESTION], CONFIG, folder=tmp_path)
    paths = [str(path) for path in sorted(tmp_path.glob("2-sign/*/signatures.parquet"))]
    for columns in (["exact", "exact_low"], ["band_0"], ["band_7"], ["name"]):
        found = sorted(group.tolist() for group in equal_by_daft(paths, columns, "daft"))
        assert found == [group.tolist() for group in equal_rows(paths, columns, "local")] and found


@pytest.mark.soak  # quick: `test_daft_groups_as_sorting_does`, and Ray tasks in tests/stages/test_tokens.py
def test_ray_makes_the_same_bytes(sources: list[Source], expected: CorpusResult, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert build(sources, tmp_path / "work", 2, "ray").wait() == 0
    assert digest(build_corpus(sources, [QUESTION], CONFIG, folder=tmp_path / "work")) == digest(expected)


def _fails(out: Path, error: int) -> dict:
    (out / "half").write_text("x")
    raise OSError(error, os.strerror(error))


def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as error:
        Executor(tmp_path).run_phase("read", 1, [(28,)], _fails)
    assert (error.value.errno, error.value.filename) == (28, str(tmp_path))
    assert not list((tmp_path / "read").glob("*/mark.json"))


def test_a_table_that_does_not_fit_is_a_full_disk(tmp_path: Path) -> None:
    rows = [{"text": random.Random(n).randbytes(3000).hex()} for n in range(999)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            build_corpus([Source("s", tmp_path / "in.jsonl")], folder=tmp_path / "work")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "work") and not list((tmp_path / "work/1-read").glob("*/mark.json"))
    assert build_corpus([Source("s", tmp_path / "in.jsonl")], folder=tmp_path / "work").funnel[-1]["left"] == 999


def _rows(path: Path, texts: dict[str, str]) -> Source:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return Source(path.stem, path)


def test_a_folder_of_chunks_is_asked_again_in_one_process(tmp_path: Path) -> None:
    """The longest copy stays, also where the file of a former build said that another one was the longest."""
    text, work = text_of(1, 200), tmp_path / "work"
    for longest, other in (("b", "a"), ("a", "b")):
        source = _rows(tmp_path / "rows.jsonl", dict(sorted({longest: text + " and more", other: text}.items())))
        assert [row["id"] for row in build_corpus([source], folder=work).documents] == [longest]


def test_another_path_of_a_source_is_another_name_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "root" / "below").mkdir(parents=True)
    (tmp_path / "root" / "below" / "a.txt").write_text(text_of(2))
    for path, name in ((tmp_path / "root", "below/a.txt"), (tmp_path / "root" / "below", "a.txt")):
        assert [row["id"] for row in build_corpus([Source("s", path)], folder=tmp_path / "work").documents] == [name]


def test_a_kill_while_a_former_key_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(out: Path, number: int) -> dict:
        (out / "data").write_text(str(number))
        return {}

    def dies(folder: Path) -> None:
        (folder / "00000" / "data").unlink()
        raise KeyboardInterrupt

    with Executor(tmp_path) as work:
        work.run_phase("phase", "old", [(1,)], write)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("shutil.rmtree", dies)
            work.run_phase("phase", "new", [(1,)], write)
        work.run_phase("phase", "old", [(1,)], write)
        assert work.path("phase", 0, "data").read_text() == "1"


def test_chunks_are_not_written_into_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A note on the weather of the town.")
    for folder in (tmp_path, tmp_path / "chunks"):
        with pytest.raises(UserError, match="lies in a source"):
            build_corpus([Source("notes", tmp_path)], folder=folder)
    assert len(build_corpus([Source("notes", tmp_path)], folder=tmp_path / ".chunks").documents) == 1


@pytest.mark.parametrize(
    "keys",
    [{"near_threshold": 0.0}, {"near_threshold": 1.5}, {"chunk_bytes": 0}, {"thresholds": {"length": (5.0, 1.0)}}],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build_corpus([Source("notes", tmp_path)], config=CorpusConfig(**keys))


def test_no_source_weighs_without_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weight inf"):
        Source("notes", tmp_path, weight=float("inf"))
