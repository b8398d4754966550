"""Numbers from the host to a device: those of a step in one copy, for which the host does not wait.

    positions_N, slots_N = to_device([positions, slots], device)
    h_WD = rows_of(h_ND, wanted)

A copy to a GPU out of ordinary memory stops the host until it is done, so numbers are written into memory that the GPU
reads by itself (pinned); torch gives a piece of that out again only when its copy has ended.

Legend: N tokens, W wanted rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor


def pinned(values: Sequence[int] | Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor on the host, from where `device` can fetch them while the host goes on."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")


def to_device(columns: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """Return each column of integers as a tensor [N] of int64 on the device; they go there together."""
    flat = pinned(list(chain.from_iterable(columns)), device, torch.long).to(device, non_blocking=True)
    return flat.split([len(column) for column in columns])


def rows_of(x_ND: Tensor, rows: Sequence[int]) -> Tensor:
    """Return some rows [W, D], in this order; where they are the first ones, in their order, without a copy."""
    if list(rows) == list(range(len(rows))):
        return x_ND[: len(rows)]
    return x_ND[to_device([rows], x_ND.device)[0]]
