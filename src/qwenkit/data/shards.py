"""Token stores: documents as uint32 ids, on disk (`Shards`) or in memory with loss weights (`Examples`).

    write_shards([("doc-1", [5, 6, 7]), ...], out, eot_id)    # -> metrics
    store = Shards(out)
    store.lengths, store.ids, store.tokens(0, 0, 4), store.digest

A folder holds `tokens-00000.bin`, ... (little-endian uint32, nothing else) and `index.parquet` (columns id, shard,
start, length; the digest of the token bytes in its metadata). Every document ends with `eot_id`. Shards are read
through memory maps: opening costs the index, not the tokens.

Weights follow the renderer: `weights[i]` is the loss weight of predicting `ids[i]`, and `content[i]` says whether
`ids[i]` is content of an assistant's turn, which the sentinel counts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError

SCHEMA = 1
SHARD_TOKENS = 1 << 28


class Store(Protocol):
    """What batches read from; `ids` are the documents' names."""

    lengths: npt.NDArray[np.int64]
    ids: Sequence[str]
    digest: str

    def tokens(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Ids [start, stop) of a document."""
        ...

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Loss weight of predicting each of these ids."""
        ...

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Which of these ids are content of an assistant's turn, None in a document without turns: the sentinel stops
        where a step has turns and none of their content is supervised."""
        ...


def write_shards(
    documents: Iterable[tuple[str, Sequence[int]]], out: Path, eot_id: int, shard_tokens: int = SHARD_TOKENS
) -> dict[str, int | str]:
    """Write documents in their order, each closed by `eot_id`; returns documents, tokens, longest, shards, digest."""
    out.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    digest = hashlib.sha256()
    with _ShardWriter(out, shard_tokens) as writer:
        for name, ids in documents:
            data = _closed(ids, eot_id, name)
            digest.update(data.tobytes())
            names.append(name)
            places.append((*writer.append(data), len(data)))
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    digest.update(columns[:, 2].tobytes())
    _write_index(out / "index.parquet", names, columns, digest.hexdigest())
    lengths = columns[:, 2]
    return {
        "documents": len(names),
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max(initial=0)),
        "shards": writer.shard + 1,
        "digest": digest.hexdigest(),
    }


def _closed(ids: Sequence[int], eot_id: int, name: str) -> npt.NDArray[np.uint32]:
    data = np.asarray(ids, dtype=np.int64)
    if len(data) and not 0 <= data.min() <= data.max() < 2**32:
        raise UserError("a token id does not fit into 32 bits", where=f"document {name}", expected="0 to 4294967295")
    if not len(data) or data[-1] != eot_id:
        data = np.append(data, eot_id)
    return data.astype("<u4")


class _ShardWriter:
    """Appends documents to the open shard, and opens the next when it is full. A document is never cut."""

    def __init__(self, out: Path, shard_tokens: int) -> None:
        self.out, self.limit, self.shard, self.written = out, shard_tokens, 0, 0
        self._file = self._open()

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def append(self, data: npt.NDArray[np.uint32]) -> tuple[int, int]:
        """Write one document; returns its shard and its start there."""
        if self.written and self.written + len(data) > self.limit:
            self._close()
            self.shard, self.written = self.shard + 1, 0
            self._file = self._open()
        start, self.written = self.written, self.written + len(data)
        self._file.write(data.tobytes())
        return self.shard, start

    def _open(self) -> BinaryIO:
        return _shard_path(self.out, self.shard).open("wb")

    def _close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"tokens-{shard:05d}.bin"


def _write_index(path: Path, names: list[str], columns: npt.NDArray[np.int64], digest: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": pa.array(names, pa.string()),
            "shard": pa.array(columns[:, 0].astype(np.int32)),
            "start": pa.array(columns[:, 1]),
            "length": pa.array(columns[:, 2]),
        }
    )
    metadata = {"qwenkit.schema": str(SCHEMA), "qwenkit.digest": digest}
    pq.write_table(table.replace_schema_metadata(metadata), path)


class Shards:
    """A folder of shards, memory-mapped. Every token but a document's first is learnt, so weights are all one."""

    def __init__(self, path: Path | str) -> None:
        import pyarrow.parquet as pq

        self.path = Path(path)
        index = self.path / "index.parquet"
        if not index.exists():
            raise UserError("this is no folder of token shards", where=str(path), expected="a file index.parquet in it")
        table = pq.read_table(index)
        metadata = table.schema.metadata or {}
        self.ids: list[str] = table["id"].to_pylist()
        self.lengths = table["length"].to_numpy().astype(np.int64)
        self._shard = table["shard"].to_numpy()
        self._start = table["start"].to_numpy()
        self.digest = metadata.get(b"qwenkit.digest", b"").decode()
        self._maps = [self._map(shard) for shard in range(int(self._shard.max(initial=-1)) + 1)]

    def _map(self, shard: int) -> npt.NDArray[np.uint32]:
        path = _shard_path(self.path, shard)
        expected = 4 * int(self.lengths[self._shard == shard].sum())
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise UserError(
                f"the shard holds {found} bytes, its index says {expected}",
                where=str(path),
                mend="the file is cut or foreign: write the shards again",
            )
        return np.memmap(path, dtype="<u4", mode="r")

    def tokens(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Ids [start, stop) of a document."""
        offset, stop = int(self._start[document]), min(stop, int(self.lengths[document]))
        return self._maps[self._shard[document]][offset + start : offset + stop]

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """All one."""
        return np.ones(min(stop, int(self.lengths[document])) - start, np.float32)

    def content(self, document: int, start: int, stop: int) -> None:
        """Plain text has no turns."""

    def documents(self) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
        """Every document with its name, in the order written."""
        for number, name in enumerate(self.ids):
            yield name, self.tokens(number, 0, int(self.lengths[number]))

    def verify(self) -> bool:
        """Whether the token bytes are those of the digest; reads everything."""
        digest = hashlib.sha256()
        for _, data in self.documents():
            digest.update(data.tobytes())
        digest.update(self.lengths.tobytes())
        return digest.hexdigest() == self.digest


class Example(NamedTuple):
    """A document for `Examples`. `content=None`: plain text, without turns."""

    id: str
    ids: Sequence[int]
    weights: Sequence[float]
    content: Sequence[bool] | None = None


class Examples:
    """The same interface in memory, with a weight for every id: what SFT trains on."""

    def __init__(self, examples: Iterable[Example]) -> None:
        rows = [_checked(example) for example in examples]
        self.ids = [row.id for row in rows]
        self.lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        self._start = np.cumsum(self.lengths) - self.lengths
        self._tokens = _flat([np.asarray(row.ids) for row in rows], "<u4")
        self._weights = _flat([np.asarray(row.weights) for row in rows], "<f4")
        self._content = _flat([_content(row) for row in rows], "?")
        self._plain = np.array([row.content is None for row in rows], dtype=np.bool_)
        digest = hashlib.sha256()
        for array in (self.lengths, self._tokens, self._weights):
            digest.update(array.tobytes())
        self.digest = digest.hexdigest()

    def tokens(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Ids [start, stop) of a document."""
        return self._tokens[self._slice(document, start, stop)]

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Loss weight of predicting each of these ids."""
        return self._weights[self._slice(document, start, stop)]

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Which of these ids are content of an assistant's turn; None of a plain text."""
        return None if self._plain[document] else self._content[self._slice(document, start, stop)]

    def without_content(self) -> list[str]:
        """Chats in which no content is supervised: a lost mask, a template that changed."""
        supervised = self._content & (self._weights > 0)
        counts = np.concatenate([[0], np.cumsum(supervised)])
        empty = counts[self._start + self.lengths] == counts[self._start]
        return [self.ids[i] for i in np.flatnonzero(empty & ~self._plain)]

    def _slice(self, document: int, start: int, stop: int) -> slice:
        offset = int(self._start[document])
        return slice(offset + start, offset + min(stop, int(self.lengths[document])))


def _checked(example: Example) -> Example:
    content = example.weights if example.content is None else example.content
    if not len(example.ids) == len(example.weights) == len(content):
        raise UserError("ids and weights differ in length", where=f"example {example.id}", expected="one weight an id")
    return example


def _content(row: Example) -> npt.NDArray[np.bool_]:
    return np.zeros(len(row.ids), np.bool_) if row.content is None else np.asarray(row.content, dtype=np.bool_)


def _flat(arrays: list[npt.NDArray], dtype: str) -> npt.NDArray:
    return np.concatenate([*arrays, np.zeros(0)]).astype(dtype)
