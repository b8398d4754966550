"""Token shards with loss weights: what `InMemoryTokenDataset` is in memory, on disk and to any size.

    with ExampleWriter(folder / "00000") as shard:            # any process may write any shard
        shard.add_example(Example("chat-1", ids, weights, content))
    join_examples(folder, 1)
    dataset = ExampleShards(folder)                           # the interface and digest of the same examples in memory

A shard is one of `shards` with `weights.bin` beside `tokens.bin`: a byte for each token. Its lowest 7 bits choose
among the few different weights of its document, which stand in the index (`weights`); the highest says that the token
is content of an assistant's turn. `plain` marks documents without turns.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from qwenkit.data.tokens.dataset import Example
from qwenkit.data.tokens.shards import (
    INDEX,
    TOKENS,
    Digest,
    Shards,
    ShardWriter,
    hash_file,
    join_indexes,
    shard_folder,
)
from qwenkit.errors import UserError

WEIGHTS = "weights.bin"
CONTENT, CHOICE = 0x80, 0x7F
_TOKENS = 1 << 20  # of which weights are spread at once


class ExampleWriter(ShardWriter):
    """Write one shard of examples; nothing is put behind their ids."""

    schema = ShardWriter.schema.append(pa.field("weights", pa.list_(pa.float32()))).append(
        pa.field("plain", pa.bool_())
    )

    def __init__(self, out: Path) -> None:
        super().__init__(out, eot_id=None)
        self._weights = (out / WEIGHTS).open("wb")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._weights.close()

    def add_example(self, example: Example, **origin: object) -> int:
        """Write an example and return its length in tokens; `origin` is what the index says beside its id.

        Raises a `UserError` for lists of different lengths, or more than 128 different weights.
        """
        values, codes = _coded(example)
        self._weights.write(codes.tobytes())
        return self.add(
            {"id": example.id, "weights": values.tolist(), "plain": example.content is None, **origin}, example.ids
        )


def _coded(example: Example) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The different weights of an example, and for each id which of them it has and whether it is content."""
    values, chosen = np.unique(np.asarray(example.weights, np.float32), return_inverse=True)
    if len(chosen) != len(example.ids) or (example.content is not None and len(example.content) != len(chosen)):
        raise UserError("ids and weights differ in length", where=f"example {example.id}", expected="one weight an id")
    if len(values) > CHOICE + 1:
        what = f"{len(values)} different loss weights in one example"
        raise UserError(what, where=f"example {example.id}", expected=f"at most {CHOICE + 1}")
    codes = chosen.astype(np.uint8)
    if example.content is not None:
        codes |= np.asarray(example.content, np.bool_).astype(np.uint8) * np.uint8(CONTENT)
    return values, codes


def join_examples(folder: Path, shards: int) -> dict[str, int | str]:
    """Index the finished shards of a folder as one, as `join_shards` does.

    The digest is that of an `InMemoryTokenDataset` of the same examples.
    """

    def digest_of(lengths: npt.NDArray[np.int64]) -> str:
        digest = hashlib.sha256(lengths.tobytes())
        for shard in range(shards):
            hash_file(digest, shard_folder(folder, shard) / TOKENS)
        for shard in range(shards):
            _hash_weights(digest, shard_folder(folder, shard))
        return digest.hexdigest()

    return join_indexes(folder, shards, ExampleWriter.schema, digest_of)


def _hash_weights(digest: Digest, shard: Path) -> None:
    """Add the weights of a shard as float32 to a digest, some documents at a time."""
    table = pq.read_table(str(shard / INDEX), columns=["length", "weights"])
    values, offsets = _choices(table["weights"])
    ends = np.cumsum(table["length"].to_numpy())
    with (shard / WEIGHTS).open("rb") as file:
        document = 0
        while document < len(ends):
            before = ends[document - 1] if document else 0
            stop = max(document + 1, int(np.searchsorted(ends, before + _TOKENS, side="right")))
            lengths = np.diff(ends[document:stop], prepend=before)
            codes = np.frombuffer(file.read(int(lengths.sum())), np.uint8)
            chosen = np.repeat(offsets[document:stop], lengths) + (codes & CHOICE)
            digest.update(values[chosen].astype("<f4").tobytes())
            document = stop


def _choices(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The lists of a column one after the other, and where each begins."""
    together = column.combine_chunks()
    counts = np.asarray(together.value_lengths()).astype(np.int64)
    return np.asarray(together.flatten(), dtype=np.float32), np.cumsum(counts) - counts


class ExampleShards(Shards):
    """A folder of shards of examples, memory-mapped: only their index is in memory."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._check_sizes(WEIGHTS, 1)
        table = pq.read_table(str(self.index), columns=["weights", "plain"])
        self._values, self._offsets = _choices(table["weights"])
        self._plain = table["plain"].to_numpy()

    def _codes(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._read(document, start, stop, WEIGHTS, "u1")

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of predicting each of these ids."""
        return self._values[self._offsets[document] + (self._codes(document, start, stop) & CHOICE)]

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Return which of these ids are content of an assistant's turn; None for a plain text."""
        return None if self._plain[document] else self._codes(document, start, stop) >= CONTENT
