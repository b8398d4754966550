"""Token shards: documents as uint32 ids on disk, a `TokenDataset` of any size.

    with ShardWriter(folder / "00000", eot_id) as shard:      # any process may write any shard
        shard.add({"id": "doc-1", "source": "web"}, [5, 6, 7])
    join_shards(folder, 1)                                    # when all are written -> documents, tokens, digest
    dataset = Shards(folder)
    dataset.lengths, dataset.ids, dataset.tokens(0, 0, 4), dataset.digest
    dataset.find("doc-1"), dataset.origins([0])               # which documents have this id; where they came from

Each shard is a folder with `tokens.bin` (little-endian uint32, nothing else) and its `index.parquet`; the index of all
lies beside them, with the shard's number and, in its metadata, the digest of tokens and lengths, which does not depend
on how the shards are cut. A row of the index is a document: its id, where it came from and under which licence, and
which tokens are its own. Every document ends with `eot_id`. Tokens are read through memory maps: opening costs the
index, not the tokens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qwenkit.data import parquet_io
from qwenkit.errors import UserError
from qwenkit.records import TEMPORARY, Row

SCHEMA = 2
TOKENS, INDEX = "tokens.bin", "index.parquet"
_MAPS, _BLOCK = 1024, 1 << 20  # shards that are mapped at once; bytes that are hashed at once
_ORIGIN = [("id", pa.string()), ("copy", pa.int32()), *((key, pa.string()) for key in ("source", "licence", "place"))]
_SHARD = pa.schema([*_ORIGIN, ("start", pa.int64()), ("length", pa.int64())])
_NUMBER = pa.field("shard", pa.int32())


class Digest(Protocol):
    """A running hash, such as those of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add bytes to the digest."""
        ...


class ShardWriter:
    """Writes one shard, document by document; without an `eot_id` nothing is added to a document."""

    schema = _SHARD

    def __init__(self, out: Path, eot_id: int | None) -> None:
        """Create the files of a shard in this folder."""
        out.mkdir(parents=True, exist_ok=True)
        self._eot_id, self._written = eot_id, 0
        self._tokens, self._index = (out / TOKENS).open("wb"), parquet_io.Writer(out / INDEX, self.schema)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._index.__exit__()
        self._tokens.close()

    def add(self, row: Row, ids: Sequence[int] | npt.NDArray[np.uint32]) -> int:
        """Write a document, closed by `eot_id`, and return its length in tokens.

        `row` has its `id`, and `copy`, `source`, `licence` and `place` if they are known. Raises a `UserError` for an
        id that does not fit into 32 bits.
        """
        data = _closed(ids, self._eot_id, row["id"])
        self._tokens.write(data.tobytes())
        self._index.add({"copy": 0, **row, "start": self._written, "length": len(data)})
        self._written += len(data)
        return len(data)


def _closed(ids: Sequence[int] | npt.NDArray[np.uint32], eot_id: int | None, name: str) -> npt.NDArray[np.uint32]:
    data = np.asarray(ids, dtype=np.int64)
    if len(data) and not 0 <= data.min() <= data.max() < 2**32:
        raise UserError("a token id does not fit into 32 bits", where=f"document {name}", expected="0 to 4294967295")
    if eot_id is not None and (not len(data) or data[-1] != eot_id):
        data = np.append(data, eot_id)
    return data.astype("<u4")


def shard_folder(folder: Path, shard: int) -> Path:
    """Return the folder of a shard."""
    return folder / f"{shard:05d}"


def join_shards(folder: Path, shards: int) -> dict[str, int | str]:
    """Index the finished shards of a folder as one dataset, in order; the tokens stay where they are.

    Returns the counts `documents` and `tokens`, and the `digest` (SHA-256 of all tokens, then all lengths as int64)."""

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
    """Write one index of all shards of this schema, each row with its shard's number; `digest_of` computes the digest
    from all lengths.

    Returns documents, tokens and digest."""
    beside = folder / (INDEX + TEMPORARY)
    lengths = [np.empty(0, np.int64)]
    with_shard = schema.insert(len(_ORIGIN), _NUMBER)
    with pq.ParquetWriter(str(beside), with_shard, compression="zstd") as writer:
        for shard in range(shards):
            table = pq.read_table(str(shard_folder(folder, shard) / INDEX))
            lengths.append(table["length"].to_numpy())
            number = pa.array(np.full(len(table), shard, np.int32))
            writer.write_table(table.add_column(len(_ORIGIN), "shard", number).cast(with_shard))
        together = np.concatenate(lengths)
        digest = digest_of(together)
        writer.add_key_value_metadata({"qwenkit.schema": str(SCHEMA), "qwenkit.digest": digest})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(folder / INDEX)
    return {"documents": len(together), "tokens": int(together.sum()), "digest": digest}


def hash_file(digest: Digest, path: Path) -> None:
    """Add a file's bytes to a digest, in blocks."""
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)


class ArrowStrings(Sequence[str]):
    """A sequence of strings in Arrow's memory, with a few bytes of overhead each; a Python string has about sixty."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Keep a column of strings."""
        self.column = column

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self.column)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        """Return a string, or a list of strings for a slice."""
        return self.column[number].to_pylist() if isinstance(number, slice) else self.column[number].as_py()


class Index:
    """The index of some shards, which is enough to say where each document is: the tokens themselves may be gone.

    Raises a `UserError` where there is no index, or a corrupted or foreign one."""

    def __init__(self, path: Path) -> None:
        """Read the ids, lengths and places of the documents."""
        if not path.exists():
            what, expected = "this is not a folder of token shards", f"a file {path.name} in it"
            raise UserError(what, where=str(path.parent), expected=expected)
        self.index = path
        with parquet_io.sound(path):
            file = pq.ParquetFile(str(path))
            parquet_io.refuse_other_columns(file.schema_arrow, _SHARD.append(_NUMBER))
            table = file.read(columns=["id", "shard", "start", "length"])
            self.ids = ArrowStrings(table["id"])
            self.lengths = table["length"].to_numpy().astype(np.int64)
            self._shard, self._start = table["shard"].to_numpy(), table["start"].to_numpy()
            self.digest = (file.metadata.metadata or {}).get(b"qwenkit.digest", b"").decode()

    def find(self, name: str) -> list[int]:
        """Return the numbers of the documents with this id; there are several where it was up-sampled."""
        compute: Any = pc  # which has no types
        return compute.indices_nonzero(compute.equal(self.ids.column, name)).to_pylist()

    def origins(self, documents: Sequence[int]) -> list[Row]:
        """Return rows of the index: which document, where it came from, and where its tokens are."""
        return pq.read_table(str(self.index)).take(pa.array(documents, pa.int64())).to_pylist()


class Shards(Index):
    """A folder of shards, memory-mapped. Every token but a document's first is trained on, so all weights are one.

    Raises a `UserError` for a shard whose size is not what the index says."""

    def __init__(self, path: Path | str) -> None:
        """Read the index and check the sizes of the shards."""
        self.path = Path(path)
        super().__init__(self.path / INDEX)
        self._check_sizes(TOKENS, 4)
        self._map = lru_cache(maxsize=_MAPS)(self._mapped)

    def _check_sizes(self, name: str, width: int) -> None:
        tokens = np.bincount(self._shard, weights=self.lengths) if len(self._shard) else []
        for shard, expected in enumerate(int(width * count) for count in tokens):
            path = shard_folder(self.path, shard) / name
            size = path.stat().st_size if path.exists() else 0
            if size != expected:
                raise UserError(
                    f"the shard holds {size} bytes, its index says {expected}",
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
        """Return the ids [start, stop) of a document."""
        return self._read(document, start, stop, TOKENS, "<u4")

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return ones: every token of a plain text is trained on."""
        return np.ones(min(stop, int(self.lengths[document])) - start, np.float32)

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Return None: plain text has no turns."""
        return None
