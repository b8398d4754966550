"""Token datasets, which training reads: the protocol, and one in memory with a loss weight for every token.

    dataset = InMemoryTokenDataset([Example("chat-1", ids, weights, content)])
    dataset.lengths                 # [documents], in tokens
    dataset.tokens(0, 0, 4)         # ids [0, 4) of the first document
    dataset.weights(0, 0, 4)        # the loss weights of predicting these ids

Weights follow the renderer: `weights[i]` is the loss weight of predicting `ids[i]`, and `content[i]` says whether
`ids[i]` is content of an assistant's turn, which the sentinel counts. On disk: `shards` and `example_shards`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from qwenkit.errors import UserError


class TokenDataset(Protocol):
    """What batches read from."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of tokens of each document [documents]."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Return the name of each document."""
        ...

    @property
    def digest(self) -> str:
        """Return the digest of tokens, lengths and weights: an order is drawn for these bytes and no others."""
        ...

    def tokens(self, document: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """Return the ids [start, stop) of a document, fewer where it ends before `stop`."""
        ...

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of predicting each of these ids."""
        ...

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Return which of these ids are content of an assistant's turn; None for a document without turns.

        The sentinel stops where a step has turns and none of their content is supervised.
        """
        ...


class Example(NamedTuple):
    """A document as token ids with their loss weights; all three lists are of one length.

    `content` says which ids are content of an assistant's turn; None: plain text, without turns.
    """

    id: str
    ids: Sequence[int] | npt.NDArray[np.uint32]
    weights: Sequence[float]
    content: Sequence[bool] | None = None

    @property
    def learns(self) -> bool:
        """Return whether content of an assistant's turn is supervised (plain text always is); where it is not, a mask
        was lost."""
        return self.content is None or any(map(all, zip(self.content, self.weights)))


class InMemoryTokenDataset:
    """A `TokenDataset` in memory, with a weight for every id: what SFT trains on.

    Raises a `UserError` for an example whose ids and weights differ in length.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        """Copy the examples into flat arrays."""
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
        """Return the ids [start, stop) of a document, fewer where it ends before `stop`."""
        return self._tokens[self._slice(document, start, stop)]

    def weights(self, document: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return the loss weight of predicting each of these ids."""
        return self._weights[self._slice(document, start, stop)]

    def content(self, document: int, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Return which of these ids are content of an assistant's turn; None for a plain text."""
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


def _flat(arrays: list[npt.NDArray[Any]], dtype: str) -> npt.NDArray[Any]:
    return np.concatenate([*arrays, np.zeros(0)]).astype(dtype)
