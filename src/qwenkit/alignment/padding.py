"""Token lists of different lengths as right-padded tensors, batched by length.

    ids_BT, lengths_B = pad_right([[5, 6, 7], [8]])
    for rows in length_batches(lengths, max_tokens=8192): ...

No attention mask goes with them, and none is needed: the padding stands to the right of every real token, and causal
attention never looks right. What is read at padded places is never used; a caller's mask says which places are real.

Legend: B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PAD_ID = 0
"""Any id of the vocabulary would do: no real token sees it."""


def pad_right(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The rows as one tensor [B, T], and their lengths [B]."""
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    ids_BT = torch.tensor([list(row) + [PAD_ID] * (width - len(row)) for row in rows], dtype=torch.long, device=device)
    return ids_BT, torch.tensor(lengths, dtype=torch.long, device=device)


def length_batches(lengths: Sequence[int], max_tokens: int, rows: Iterable[int] | None = None) -> list[list[int]]:
    """Row numbers, longest first, cut so that a padded batch holds at most `max_tokens` (or one row alone).

    Longest first, so that a batch too big for memory fails at once and not in the middle. Equal lengths keep the order
    of their row numbers: the batches are a pure function of the arguments.
    """
    chosen = sorted(range(len(lengths)) if rows is None else rows, key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in chosen:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
