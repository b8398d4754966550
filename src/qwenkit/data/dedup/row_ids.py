"""Numbers of rows over all shards of a phase: the shard in the upper 32 bits, the row within it in the lower."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ids = TypeVar("Ids", int, npt.NDArray[np.int64])
_BITS, _ROW = 32, 0xFFFFFFFF


def row_id(shard: int, row: Ids) -> Ids:
    """Return the number of a row, or of some rows, of a shard."""
    return (shard << _BITS) + row


def shard_of(ids: Ids) -> Ids:
    """Return the shard of a row number, or of each of some row numbers."""
    return ids >> _BITS


def row_of(ids: Ids) -> Ids:
    """Return the row within its shard of a row number, or of each of some."""
    return ids & _ROW
