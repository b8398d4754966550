"""Duplicates over all shards of a corpus: the global part of report §2.1, steps 3 and 4.

    find_candidates   rows with equal exact keys, and rows that agree in a band          (one task)
    shingle_part      shingles of the candidates of a shard                              (a task a shard)
    join_copies       pairs verified by exact Jaccard, clusters, the copy that is kept   (one task)

Signatures are a few numbers for each document, and a join reads one band of them at a time; only the texts of
candidates are read again. On one machine a join is a sort (`equal_rows`; Daft's grouping took six times as long for a
million rows); with `runner="ray"` Daft groups on the cluster. Groups are sorted by their first row, so the answer is
the same everywhere. `row_ids` numbers rows over all shards.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from qwenkit.data.pipeline.executor import DoneRecord
from qwenkit.artifacts import stamp
from qwenkit.data import parquet_io
from qwenkit.data.dedup import minhash
from qwenkit.data.dedup.exact import name_key
from qwenkit.data.dedup.row_ids import row_id, row_of, shard_of
from qwenkit.data.pipeline import executor
from qwenkit.data.pipeline.config import CorpusConfig
from qwenkit.data.text_units import among
from qwenkit.errors import UserError

Docs = npt.NDArray[np.int64]
Outcome = tuple[str, str, str, str]  # step, rule, detail, of which document
EXACT, BUCKETS, NEEDED, LINES = "exact.npz", "buckets.npz", "needed.npy", "lines.npy"
COPY = pa.schema([("row", pa.int64()), *((key, pa.string()) for key in ("step", "rule", "of", "name"))])


def copies_of(joined: Path, number: int) -> Path:
    """Return the file with a shard's duplicates: one row for each document that is a copy, or that gets another id."""
    return joined / f"copies-{number:05d}.parquet"


def outcomes_and_names(joined: Path, number: int) -> tuple[dict[int, Outcome], dict[int, str]]:
    """Return, for a shard, the outcome of each row that is a copy, and the new id of each row that gets one, both by
    row."""
    path = copies_of(joined, number)
    rows = pq.read_table(str(path)).to_pylist() if path.exists() else []
    outcomes = {row["row"]: (row["step"], row["rule"], f"of {row['of']}", row["of"]) for row in rows if row["step"]}
    return outcomes, {row["row"]: row["name"] for row in rows if row["name"]}


def find_candidates(
    out: Path, signatures: Sequence[Path], weights: Sequence[float], config: CorpusConfig, runner: str
) -> DoneRecord:
    """Write the exact copies with the row that stays, and the buckets of rows that may be near copies; return their
    counts."""
    weight = np.array(weights)
    names = [str(path) for path in signatures]
    copies: list[int] = []
    originals: list[int] = []
    for group in equal_rows(names, ["exact", "exact_low"], runner):
        ordered = group[np.lexsort((group, -weight[shard_of(group)]))]
        copies += ordered[1:].tolist()
        originals += [int(ordered[0])] * (len(ordered) - 1)
    copied = np.sort(np.array(copies, dtype=np.int64))
    buckets: list[Docs] = []
    bands, _ = minhash.bands_for(config.near_threshold)
    for band in range(bands):
        for group in equal_rows(names, [f"band_{band}"], runner):
            left = group[~among(group, copied)]
            if len(left) > 1:
                buckets.append(left)
    bounds = np.cumsum([0, *map(len, buckets)])
    flat = np.concatenate([np.empty(0, np.int64), *buckets])
    np.savez(out / EXACT, copies=np.array(copies, np.int64), originals=np.array(originals, np.int64))
    np.savez(out / BUCKETS, docs=flat, bounds=bounds)
    np.save(out / NEEDED, np.unique(flat))
    return {"exact": len(copies), "candidates": len(np.unique(flat))}


def equal_rows(paths: list[str], columns: list[str], runner: str) -> list[Docs]:
    """Return the groups of rows that are equal in some columns, each sorted, ordered by their first row.

    A 0 in the first column equals nothing."""
    groups = equal_by_daft(paths, columns, runner) if runner == "ray" else _equal_by_sorting(paths, columns)
    return sorted(groups, key=lambda group: int(group[0]))


def _equal_by_sorting(paths: list[str], columns: list[str]) -> Iterator[Docs]:
    table = pa.concat_tables(pq.read_table(path, columns=["doc", *columns]) for path in paths)
    docs, *keys = (table[name].to_numpy() for name in ("doc", *columns))
    order = np.lexsort((docs, *reversed(keys)))
    order = order[keys[0][order] != 0]
    equal = np.ones(max(0, len(order) - 1), dtype=np.bool_)
    for key in keys:
        equal &= key[order][1:] == key[order][:-1]
    for start, stop in minhash.runs(equal):
        yield docs[order[start:stop]]


def equal_by_daft(paths: list[str], columns: list[str], runner: str) -> Iterator[Docs]:
    """Yield the same groups by a query of Daft, in no order: in this process, or on the cluster that Ray is connected
    to."""
    daft = _daft(runner)
    frame = daft.read_parquet(paths).select("doc", *columns).where(daft.col(columns[0]) != 0)
    groups = frame.groupby(*columns).agg(daft.col("doc").list_agg().alias("docs"), daft.col("doc").count().alias("n"))
    for docs in groups.where(daft.col("n") > 1).select("docs").to_arrow()["docs"]:
        yield np.sort(np.array(docs.as_py(), dtype=np.int64))


@lru_cache(maxsize=2)
def _daft(runner: str) -> Any:
    """Return Daft, set to run here or on Ray; imported late, and silent."""
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    try:
        import daft  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("this runner needs Daft", hint="pip install 'qwenkit[ray]'") from error
    if runner == "ray":
        executor.import_ray()
        daft.set_runner_ray(noop_if_initialized=True)
    return daft


def shingle_part(out: Path, number: int, rows: Path, needed: Path) -> DoneRecord:
    """Write the shingles of a shard's candidates, one after the other; return how many candidates there are."""
    docs = np.load(needed)
    wanted = set((row_of(docs[shard_of(docs) == number])).tolist())
    shingles: list[minhash.Hashes] = []
    done = 0
    for batch in parquet_io.read(rows, ["text"]) if wanted else ():
        shingles += [minhash.shingle(row["text"]) for at, row in enumerate(batch, done) if at in wanted]
        done += len(batch)
    np.save(out / "shingles.npy", np.concatenate([np.empty(0, np.uint64), *shingles]))
    np.save(out / "bounds.npy", np.cumsum([0, *map(len, shingles)]))
    return {"candidates": len(shingles)}


def join_copies(
    out: Path,
    candidates: Path,
    shingles: Sequence[Path],
    rows: Sequence[Path],
    signatures: Sequence[Path],
    sources: Sequence[tuple[str, float]],
    config: CorpusConfig,
    runner: str,
) -> DoneRecord:
    """Write the outcome of every copy and new ids for rows whose id is taken, one file for each shard that has some,
    and the lines that occur in too many documents. Return their counts.

    `sources` holds the name and weight of each shard's source."""
    exact = np.load(candidates / EXACT)
    pairs = [
        ("exact_duplicates", "exact_copy", *pair) for pair in zip(exact["copies"].tolist(), exact["originals"].tolist())
    ]
    for cluster in _clusters(candidates, shingles, config.near_threshold):
        best = _best(cluster, signatures, [weight for _, weight in sources])
        pairs += [("near_duplicates", "near_copy", int(doc), best) for doc in cluster if doc != best]
    taken = _taken_ids([str(path) for path in signatures], runner)
    ids = _ids(rows, {pair[3] for pair in pairs} | {doc for group in taken for doc in group})
    names = _new_names(taken, ids, [name for name, _ in sources], _hashed_names(signatures))
    ids |= names
    outcomes: dict[int, dict[str, Any]] = {doc: {"name": name} for doc, name in names.items()}
    for step, rule, doc, original in pairs:
        outcomes.setdefault(doc, {}).update(step=step, rule=rule, of=ids[original])
    for number, docs in itertools.groupby(sorted(outcomes), key=shard_of):
        with parquet_io.Writer(copies_of(out, number), COPY) as file:
            for doc in docs:
                file.add({"row": row_of(doc), **outcomes[doc]})
    if config.max_line_repeats is not None:
        np.save(out / LINES, _common_lines(signatures, config.max_line_repeats))
    return {"copies": len(pairs), "renamed": len(names)}


def _clusters(candidates: Path, shingles: Sequence[Path], threshold: float) -> list[Docs]:
    """Return the connected components of verified pairs."""
    docs = np.load(candidates / NEEDED)
    numbers, starts = np.unique(shard_of(docs), return_index=True)
    first = dict(zip(numbers.tolist(), starts.tolist()))
    stored = {
        n: (np.load(shingles[n] / "shingles.npy", mmap_mode="r"), np.load(shingles[n] / "bounds.npy")) for n in first
    }

    @lru_cache(maxsize=20_000)
    def shingles_of(index: int) -> minhash.Hashes:
        number = int(shard_of(docs[index]))
        values, bounds = stored[number]
        at = index - first[number]
        return np.asarray(values[bounds[at] : bounds[at + 1]])

    with np.load(candidates / BUCKETS) as saved:
        flat, bounds = np.searchsorted(docs, saved["docs"]).tolist(), saved["bounds"].tolist()
    parent = list(range(len(docs)))
    buckets = (flat[start:stop] for start, stop in itertools.pairwise(bounds))
    minhash.join(buckets, shingles_of, threshold, parent)
    return [docs[np.array(cluster)] for cluster in minhash.clusters_of(parent)]


def _best(cluster: Docs, signatures: Sequence[Path], weights: Sequence[float]) -> int:
    """Return the copy to keep: that of the source with the largest weight, then the longest, then the first."""
    paths = [signatures[shard_of(doc)] for doc in cluster.tolist()]
    sizes = [int(_sizes(str(path), *stamp(path))[row_of(doc)]) for path, doc in zip(paths, cluster.tolist())]
    order = np.lexsort((cluster, -np.array(sizes), -np.array(weights)[shard_of(cluster)]))
    return int(cluster[order[0]])


@lru_cache(maxsize=256)
def _sizes(path: str, *_: int) -> npt.NDArray[np.int32]:
    return pq.read_table(path, columns=["size"])["size"].to_numpy()


def _taken_ids(paths: list[str], runner: str) -> list[list[int]]:
    return [group.tolist() for group in equal_rows(paths, ["name"], runner)]


def _ids(rows: Sequence[Path], docs: set[int]) -> dict[int, str]:
    """Return the ids of some rows; each shard is opened once."""
    by_chunk: dict[int, list[int]] = {}
    for doc in sorted(docs):
        by_chunk.setdefault(shard_of(doc), []).append(row_of(doc))
    names: dict[int, str] = {}
    for number, wanted in by_chunk.items():
        column = pq.read_table(str(rows[number]), columns=["id"])["id"].take(pa.array(wanted)).to_pylist()
        names |= {row_id(number, row): name for row, name in zip(wanted, column)}
    return names


def _hashed_names(signatures: Sequence[Path]) -> Docs:
    """Return the hashes of all ids, sorted."""
    return np.sort(
        np.concatenate([pq.read_table(str(path), columns=["name"])["name"].to_numpy() for path in signatures])
    )


def _new_names(taken: list[list[int]], ids: dict[int, str], sources: Sequence[str], known: Docs) -> dict[int, str]:
    """Return ids made of the source's name and a number, for rows whose id an earlier row has; all are unused."""
    names: dict[int, str] = {}
    given: Counter[str] = Counter()
    used: set[str] = set()
    for group in taken:
        for doc in group[1:]:
            if ids[doc] == ids[group[0]]:
                name = f"{sources[shard_of(doc)]}/{ids[doc]}"
                new = ""
                while not new or among(np.array([name_key(new)]), known)[0] or new in used:
                    given[name] += 1
                    new = name if given[name] == 1 else f"{name}#{given[name]}"
                names[doc] = new
                used.add(new)
    return names


def _common_lines(signatures: Sequence[Path], most: int) -> npt.NDArray[np.uint64]:
    """Return the keys of lines that more than `most` documents contain, counted one shard at a time."""
    tables = [pq.read_table(str(path)) for p in signatures if (path := p.with_name("lines.parquet")).exists()]
    if not tables:
        return np.empty(0, dtype=np.uint64)
    table = pa.concat_tables(tables).group_by("line").aggregate([("count", "sum")])
    keys, counts = table["line"].to_numpy(), table["count_sum"].to_numpy()
    return np.sort(keys[counts > most]).view(np.uint64)
