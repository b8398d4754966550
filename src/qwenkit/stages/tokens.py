"""Phase 5 of the data engine: documents to token shards, in chunks as the phases before it (report §2.1 to §2.3).

    tokens = tokenize(corpus, tokenizer, share, seed, folder, workers=2)
    tokens.store      the shards of what is learnt, in the corpus's order
    tokens.aside      documents that only measure

A chunk is a file of the corpus artifact, or some megabytes of a plain file. A kill redoes the chunks that were being
made; any number of workers makes the same bytes. What is held out is drawn for each document: no chunk needs another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.artifacts import refuse_changed, signature, stamp, stamps
from qwenkit.records import Row, read_jsonl, write_jsonl
from qwenkit.stages.base import Input
from qwenkit.stages.documents import Part, blocks, empty, parts, read_part, split

PHASE, ASIDE = "tokens", "aside.jsonl"
UNNAMED, UNLICENSED, MEASURED = "text", "unknown", 200


class Tokens(NamedTuple):
    """A tokenized corpus. `aside` are the first held-out documents of each source, as many as are measured by;
    `counted` says of what is learnt by `source` and by `licence` how many documents and tokens there are."""

    store: Any
    aside: list[Row]
    counted: dict[str, dict[str, dict[str, int]]]


def tokenize(
    corpus: Input,
    tokenizer: Input,
    share: float,
    seed: int,
    folder: Path,
    *,
    workers: int = 1,
    runner: str = "local",
    progress: Callable[..., None] | None = None,
) -> Tokens:
    """Tokenize all but a held-out share of the documents; what is done already in the folder stays."""
    from qwenkit.data.pipeline.executor import Chunks
    from qwenkit.data.tokens.shards import Shards, join_shards

    chunks = list(parts(corpus.path))
    seen = {part.path: signature(part.path) for part in chunks}
    times = [] if corpus.node else [stamp(path) for path in seen]  # of what nobody vouches for
    key = [corpus.digest, tokenizer.digest, share, seed, [[p.path.name, p.start, p.stop] for p in chunks], times]
    with Chunks(folder, workers, runner, progress) as work:
        marks = work.map(
            PHASE, key, [(part, tokenizer.path, share, seed, seen[part.path]) for part in chunks], encode_part
        )
    if not any(mark["read"] for mark in marks):
        raise empty(corpus.path)
    join_shards(folder / PHASE, len(chunks))  # at every start: nothing says of an old index that it is intact
    aside = [row for n in range(len(chunks)) for row in read_jsonl(work.path(PHASE, n, ASIDE))]
    return Tokens(Shards(folder / PHASE), _first_of_each(aside), _counted(marks))


def encode_part(
    out: Path, part: Part, tokenizer: Path, share: float, seed: int, seen: list[int] | None = None
) -> dict[str, Any]:
    """Tokens of a part of the corpus, and its held-out documents; of a file that is still as it was `seen`."""
    from qwenkit.data.tokens.shards import ShardWriter

    seen = seen or signature(part.path)
    refuse_changed(part.path, seen, str(part.path))
    tok = _tokenizer(tokenizer, *stamps(tokenizer))
    documents, tokens = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    aside: list[Row] = []
    read = 0
    with ShardWriter(out, tok.eot_id) as shard:
        for block in blocks(map(_origin, read_part(part))):
            kept, held = split(block, share, seed)
            read += len(block)
            aside = _first_of_each([*aside, *held])
            for row, ids in zip(kept, tok.encode_batch([row["text"] for row in kept], threads=1)):
                group = row["source"], row["licence"]
                documents[group] += 1
                tokens[group] += shard.add(row, ids)
    refuse_changed(part.path, seen, str(part.path))
    write_jsonl(out / ASIDE, aside)
    counts = [[*group, documents[group], tokens[group]] for group in sorted(documents)]
    return {"read": read, "counts": counts}


def _origin(row: Row) -> Row:
    """What is kept of a document beside its tokens: its id and text, and where it came from."""
    source, licence = str(row.get("source") or UNNAMED), str(row.get("licence") or UNLICENSED)
    copy = row.get("copy") if isinstance(row.get("copy"), int) else 0
    return {"id": row["id"], "text": row["text"], "source": source, "licence": licence, "copy": copy,
            "place": str(row["place"])}  # fmt: skip


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, *_: int) -> Any:
    from qwenkit.chat import load_tokenizer

    return load_tokenizer(folder)


def _first_of_each(rows: list[Row]) -> list[Row]:
    """The first rows of each source, as many as are measured by."""
    found: Counter[str] = Counter()
    kept = []
    for row in rows:
        found[row["source"]] += 1
        if found[row["source"]] <= MEASURED:
            kept.append(row)
    return kept


def _counted(marks: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Documents and tokens by source and by licence, most tokens first."""
    found: dict[str, dict[str, dict[str, int]]] = {"source": {}, "licence": {}}
    for mark in marks:
        for source, licence, documents, tokens in mark["counts"]:
            for key, name in (("source", source), ("licence", licence)):
                row = found[key].setdefault(name, {"documents": 0, "tokens": 0})
                row["documents"] += documents
                row["tokens"] += tokens
    return {key: dict(sorted(rows.items(), key=lambda item: -item[1]["tokens"])) for key, rows in found.items()}
