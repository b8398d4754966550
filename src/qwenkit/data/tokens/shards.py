"""Token stores: documents as uint32 ids, on disk (`Shards`) or in memory with loss weights (`Examples`).

    with ShardWriter(folder / "00000", eot_id) as shard:      # a chunk of documents; any process may write any chunk
        shard.add({"id": "doc-1", "source": "web"}, [5, 6, 7])
    join_shards(folder, 1)                                    # when all are written -> documents, tokens, digest
    store = Shards(folder)
    store.lengths, store.ids, store.tokens(0, 0, 4), store.digest, store.find("doc-1"), store.origins([0])

Each shard is a folder with `tokens.bin` (little-endian uint32, nothing else) and its `index.parquet`; the index of all
lies beside them, with the shard's number and, in its metadata, the digest of tokens and lengths, which knows nothing of
where the shards are cut. A row of the index is a document: which it is, where it came from and under which licence, and
which tokens are its own. Every document ends with `eot_id`. Tokens are read through memory maps: opening costs the
index, not the tokens.

Weights follow the renderer: `weights[i]` is the loss weight of predicting `ids[i]`, and `content[i]` says whether
`ids[i]` is content of an assistant's turn, which the sentinel counts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qwenkit.data import parquet_io
from qwenkit.errors import UserError
from qwenkit.records import TEMPORARY

SCHEMA = 2
TOKENS, INDEX = "tokens.bin", "index.parquet"
_MAPS, _BLOCK = 1024, 1 << 20  # shards that are mapped at once; bytes that are hashed at once
_ORIGIN = [("id", pa.string()), ("copy", pa.int32()), *((key, pa.string()) for key in ("source", "licence", "place"))]
_SHARD = pa.schema([*_ORIGIN, ("start", pa.int64()), ("length", pa.int64())])
_NUMBER = pa.field("shard", pa.int32())


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


class ShardWriter:
    """Writes one shard, document by document; without an `eot_id` documents end as they are given."""

    schema = _SHARD

    def __init__(self, out: Path, eot_id: int | None) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._eot_id, self._written = eot_id, 0
        self._tokens, self._index = (out / TOKENS).open("wb"), parquet_io.Writer(out / INDEX, self.schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.__exit__()
        self._tokens.close()

    def add(self, row: dict[str, Any], ids: Sequence[int]) -> int:
        """Write a document, closed by `eot_id`; `row` has its `id`, and `copy`, `source`, `licence`, `place` if known.
        Returns its length."""
        data = _closed(ids, self._eot_id, row["id"])
        self._tokens.write(data.tobytes())
        self._index.add({"copy": 0, **row, "start": self._written, "length": len(data)})
        self._written += len(data)
        return len(data)


def _closed(ids: Sequence[int], eot_id: int | None, name: str) -> npt.NDArray[np.uint32]:
    data = np.asarray(ids, dtype=np.int64)
    if len(data) and not 0 <= data.min() <= data.max() < 2**32:
        raise UserError("a token id does not fit into 32 bits", where=f"document {name}", expected="0 to 4294967295")
    if eot_id is not None and (not len(data) or data[-1] != eot_id):
        data = np.append(data, eot_id)
    return data.astype("<u4")


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"{shard:05d}"


def join_shards(folder: Path, shards: int) -> dict[str, int | str]:
    """Index the finished shards of a folder as one, in their order; tokens stay where they are. Returns documents,
    tokens and digest."""

    def digest_of(lengths: npt.NDArray[np.int64]) -> str:
        digest = hashlib.sha256()
        for shard in range(shards):
            hash_file(digest, shard_folder(folder, shard) / TOKENS)
        digest.update(lengths.tobytes())
        return digest.hexdigest()

    return join_indexes(folder, shards, _SHARD, digest_of)


def join_indexes(
    folder: Path, shards: int, schema: pa.Schema, digest_of: Callable[[npt.NDArray[np.int64]], str]
) -> dict[str, int | str]:
    """One index of all shards of this schema, each row with its shard's number, and the `digest_of` all lengths."""
    beside = folder / (INDEX + TEMPORARY)
    lengths = [np.empty(0, np.int64)]
    whole = schema.insert(len(_ORIGIN), _NUMBER)
    with pq.ParquetWriter(str(beside), whole, compression="zstd") as writer:
        for shard in range(shards):
            table = pq.read_table(str(shard_folder(folder, shard) / INDEX))
            lengths.append(table["length"].to_numpy())
            number = pa.array(np.full(len(table), shard, np.int32))
            writer.write_table(table.add_column(len(_ORIGIN), "shard", number).cast(whole))
        together = np.concatenate(lengths)
        digest = digest_of(together)
        writer.add_key_value_metadata({"qwenkit.schema": str(SCHEMA), "qwenkit.digest": digest})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(folder / INDEX)
    return {"documents": len(together), "tokens": int(together.sum()), "digest": digest}


def hash_file(digest: Any, path: Path) -> None:
    """Add a file's bytes to a digest, some at a time."""
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)


class Names(Sequence[str]):
    """Names as Arrow holds them: a few bytes each beside their letters, where Python's texts take sixty."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        return self.column[number].to_pylist() if isinstance(number, slice) else self.column[number].as_py()


class Index:
    """The index of some shards, which is enough to say what is where: the tokens themselves may be gone."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            what, expected = "this is not a folder of token shards", f"a file {path.name} in it"
            raise UserError(what, where=str(path.parent), expected=expected)
        self.index = path
        with parquet_io.sound(path):
            file = pq.ParquetFile(str(path))
            parquet_io.refuse_other_columns(file.schema_arrow, _SHARD.append(_NUMBER))
            table = file.read(columns=["id", "shard", "start", "length"])
            self.ids = Names(table["id"])
            self.lengths = table["length"].to_numpy().astype(np.int64)
            self._shard, self._start = table["shard"].to_numpy(), table["start"].to_numpy()
            self.digest = (file.metadata.metadata or {}).get(b"qwenkit.digest", b"").decode()

    def find(self, name: str) -> list[int]:
        """The numbers of the documents of this name: several where it was up-sampled."""
        compute: Any = pc  # which has no types
        return compute.indices_nonzero(compute.equal(self.ids.column, name)).to_pylist()

    def origins(self, documents: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of the index: which document, where it came from, and where its tokens are."""
        return pq.read_table(str(self.index)).take(pa.array(documents, pa.int64())).to_pylist()


class Shards(Index):
    """A folder of shards, memory-mapped. Every token but a document's first is learnt, so weights are all one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        super().__init__(self.path / INDEX)
        self._check_sizes(TOKENS, 4)
        self._map = lru_cache(maxsize=_MAPS)(self._mapped)

    def _check_sizes(self, name: str, width: int) -> None:
        tokens = np.bincount(self._shard, weights=self.lengths) if len(self._shard) else []
        for shard, expected in enumerate(int(width * count) for count in tokens):
            path = shard_folder(self.path, shard) / name
            found = path.stat().st_size if path.exists() else 0
            if found != expected:
                raise UserError(
                    f"the shard holds {found} bytes, its index says {expected}",
                    where=str(path),
                    hint="the file is cut or foreign: write the shards again",
                )

    def _mapped(self, shard: int, name: str, dtype: str) -> npt.NDArray[Any]:
        path = shard_folder(self.path, shard) / name
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)

    def _read(self, document: int, start: int, stop: int, name: str, dtype: str) -> npt.NDArray[Any]:
        offset, stop = int(self._start[document]), min(stop, int(self.lengths[document]))
        return self._map(int(self._shard[document]), name, dtype)[offset + start : offset + stop]

    def tokens(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Ids [start, stop) of a document."""
        return self._read(document, start, stop, TOKENS, "<u4")

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """All one."""
        return np.ones(min(stop, int(self.lengths[document])) - start, np.float32)

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """None: plain text has no turns."""
        return None

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

    @property
    def learns(self) -> bool:
        """Whether content of an assistant is supervised; a plain text always is. Otherwise a mask was lost."""
        return self.content is None or any(map(all, zip(self.content, self.weights)))


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
