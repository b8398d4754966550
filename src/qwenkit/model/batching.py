"""Token lists of different lengths as right-padded tensors, batched by length.

    ids_BT, lengths_B = pad_right([[5, 6, 7], [8]])
    documents_BT = padding_documents(config, lengths_B, ids_BT.shape[1])
    for rows in length_batches(lengths, max_tokens=8192): ...

No attention mask goes with them, and none is needed: the padding stands to the right of every real token, and causal
attention never looks right. What is computed at padding is never used; the caller's mask says which tokens are real.
Only dynamic NTK asks how long a whole text is: for such a model `padding_documents` parts the text from its padding.

Legend: B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from qwenkit.model.config import ModelConfig

PAD_ID = 0
"""Any id of the vocabulary would do: no real token attends to it."""


def pad_right(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the rows as one tensor [B, T] of int64, and their lengths [B]."""
    lengths = [len(row) for row in rows]
    width = max(lengths, default=0)
    ids_BT = torch.tensor([list(row) + [PAD_ID] * (width - len(row)) for row in rows], dtype=torch.long, device=device)
    return ids_BT, torch.tensor(lengths, dtype=torch.long, device=device)


def padding_documents(config: ModelConfig, lengths_B: Tensor, width: int) -> Tensor | None:
    """Return the documents [B, T] of whole texts of these lengths, padded to `width`: 0 for text, 1 for padding.

    None for a model without dynamic NTK, and where nothing is padded: padding that comes last changes nothing there."""
    if config.extension is None or not config.extension.dynamic_ntk or int(lengths_B.min()) == width:
        return None
    return (torch.arange(width, device=lengths_B.device) >= lengths_B[:, None]).long()


def length_batches(lengths: Sequence[int], max_tokens: int, rows: Iterable[int] | None = None) -> list[list[int]]:
    """Return row numbers, longest first, cut so that a padded batch holds at most `max_tokens` (or one row alone).

    Longest first, so that a batch too big for memory fails at once and not in the middle. Equal lengths keep the order
    of their row numbers: the batches are a pure function of the arguments. `rows` restricts them to some rows.
    """
    ordered = sorted(range(len(lengths)) if rows is None else rows, key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in ordered:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def round_up(length: int, multiple: int) -> int:
    """Return the next multiple that is not below `length`."""
    return -(-length // multiple) * multiple
