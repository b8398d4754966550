"""The last phase of the data pipeline: documents to token shards, one file split at a time (report §2.1 to §2.3).

    corpus = tokenize(corpus, tokenizer, share, seed, folder, workers=2)
    corpus.dataset      the shards of the training split, in the corpus's order
    corpus.validation   documents that are only measured by

A file split is a file of the corpus artifact, or some megabytes of a plain file. After a kill only the shards that were
being written are repeated; any number of workers gives the same bytes. Whether a document is in the validation split is
a random draw of its own: no shard needs another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qwenkit.artifacts import refuse_changed, signature, stamp, stamps
from qwenkit.data.documents import (
    VALIDATION_FILE,
    corpus_splits,
    no_documents,
    read_corpus_split,
    row_batches,
    train_validation_split,
)
from qwenkit.data.readers.file_splits import FileSplit
from qwenkit.records import Row, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.pipeline.executor import DoneRecord
    from qwenkit.data.tokens.shards import Shards

PHASE = "tokens"
DEFAULT_SOURCE, DEFAULT_LICENCE = "text", "unknown"
MAX_VALIDATION_DOCUMENTS = 200  # of each source: as many as are measured by
Counts = dict[str, dict[str, dict[str, int]]]


class Digested(Protocol):
    """A file or folder with the digest of its content; `node` is the node of a run that made it, or None."""

    @property
    def path(self) -> Path:
        """Return the path of the file or folder."""
        ...

    @property
    def digest(self) -> str:
        """Return the digest of its content."""
        ...

    @property
    def node(self) -> str | None:
        """Return the node of a run that made it, or None."""
        ...


class TokenizedCorpus(NamedTuple):
    """A tokenized corpus.

    `dataset` are the shards of the training split, `validation` the first documents of the validation split of each
    source (200 at most), and `counts` says by `source` and by `licence` how many documents and tokens are trained
    on."""

    dataset: Shards
    validation: list[Row]
    counts: Counts


def tokenize(
    corpus: Digested,
    tokenizer: Digested,
    share: float,
    seed: int,
    folder: Path,
    *,
    workers: int = 1,
    runner: str = "local",
    progress: Callable[..., None] | None = None,
) -> TokenizedCorpus:
    """Tokenize all documents except a validation share; finished shards in the folder are kept.

    Raises a `UserError` for a corpus without documents, and for a file that changes while it is read."""
    from qwenkit.data.pipeline.executor import Executor
    from qwenkit.data.tokens.shards import Shards, join_shards

    file_splits = list(corpus_splits(corpus.path))
    signatures = {each.path: signature(each.path) for each in file_splits}
    times = [] if corpus.node else [stamp(path) for path in signatures]  # of files without a manifest
    key = [corpus.digest, tokenizer.digest, share, seed, [[s.path.name, s.start, s.stop] for s in file_splits], times]
    tasks = [(each, tokenizer.path, share, seed, signatures[each.path]) for each in file_splits]
    with Executor(folder, workers, runner, progress) as work:
        records = work.run_phase(PHASE, key, tasks, encode_documents)
    if not any(record["read"] for record in records):
        raise no_documents(corpus.path)
    join_shards(folder / PHASE, len(file_splits))  # at every start: nothing says of an old index that it is intact
    validation = [row for n in range(len(file_splits)) for row in read_jsonl(work.path(PHASE, n, VALIDATION_FILE))]
    return TokenizedCorpus(Shards(folder / PHASE), _first_of_each_source(validation), _counts(records))


def encode_documents(
    out: Path, file_split: FileSplit, tokenizer: Path, share: float, seed: int, before: list[int] | None = None
) -> DoneRecord:
    """Write the tokens of a file split as a shard, and its validation documents beside it.

    `before` is the file's signature when the work began; raises a `UserError` for a file that has changed since."""
    from qwenkit.data.tokens.shards import ShardWriter

    before = before or signature(file_split.path)
    refuse_changed(file_split.path, before, str(file_split.path))
    tok = _tokenizer(tokenizer, *stamps(tokenizer))
    documents, tokens = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    validation: list[Row] = []
    read = 0
    with ShardWriter(out, tok.eot_id) as shard:
        for batch in row_batches(map(_with_origin, read_corpus_split(file_split))):
            train, drawn = train_validation_split(batch, share, seed)
            read += len(batch)
            validation = _first_of_each_source([*validation, *drawn])
            for row, ids in zip(train, tok.encode_batch([row["text"] for row in train], threads=1)):
                group = row["source"], row["licence"]
                documents[group] += 1
                tokens[group] += shard.add(row, ids)
    refuse_changed(file_split.path, before, str(file_split.path))
    write_jsonl(out / VALIDATION_FILE, validation)
    counts = [[*group, documents[group], tokens[group]] for group in sorted(documents)]
    return {"read": read, "counts": counts}


def _with_origin(row: Row) -> Row:
    """Return what is stored of a document beside its tokens: its id and text, and where it came from."""
    source, licence = str(row.get("source") or DEFAULT_SOURCE), str(row.get("licence") or DEFAULT_LICENCE)
    copy = row.get("copy") if isinstance(row.get("copy"), int) else 0
    return {"id": row["id"], "text": row["text"], "source": source, "licence": licence, "copy": copy,
            "place": str(row["place"])}  # fmt: skip


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, *_: int) -> ChatTokenizer:
    from qwenkit.chat import load_tokenizer

    return load_tokenizer(folder)


def _first_of_each_source(rows: list[Row]) -> list[Row]:
    """Return the first rows of each source, as many as are measured."""
    counts: Counter[str] = Counter()
    first = []
    for row in rows:
        counts[row["source"]] += 1
        if counts[row["source"]] <= MAX_VALIDATION_DOCUMENTS:
            first.append(row)
    return first


def _counts(records: list[DoneRecord]) -> Counts:
    """Return documents and tokens by source and by licence, most tokens first."""
    counts: Counts = {"source": {}, "licence": {}}
    for record in records:
        for source, licence, documents, tokens in record["counts"]:
            for key, name in (("source", source), ("licence", licence)):
                row = counts[key].setdefault(name, {"documents": 0, "tokens": 0})
                row["documents"] += documents
                row["tokens"] += tokens
    return {key: dict(sorted(rows.items(), key=lambda item: -item[1]["tokens"])) for key, rows in counts.items()}
