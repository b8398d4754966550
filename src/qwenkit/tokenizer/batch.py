"""Texts as one rectangle of ids, cut and padded as the authors' tokenizer does it.

    batch(tok, ["hi", "你好，世界"], padding=True, pad_token=ENDOFTEXT)
    # {"input_ids": ..., "token_type_ids": ..., "attention_mask": ...}

Qwen has no padding token of its own; the authors' examples take `<|endoftext|>`. Only a special token of the vocabulary
can be one: the vocabulary does not grow on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from ..errors import UserError
from .core import Tokenizer


def batch(
    tok: Tokenizer,
    texts: Sequence[str],
    *,
    padding: bool | Literal["max_length"] = False,
    max_length: int | None = None,
    truncation: bool = False,
    padding_side: Literal["left", "right"] = "right",
    pad_token: str | None = None,
    allowed_special: Collection[str] | str = frozenset(),
) -> dict[str, list[list[int]]]:
    """Ids of every text with the masks beside them: 1 in `attention_mask` is text, 0 padding."""
    if padding not in (True, False, "max_length"):
        raise UserError(f"padding = {padding!r}", expected='True, False or "max_length"')
    if padding_side not in ("left", "right"):
        raise UserError(f"padding_side = {padding_side!r}", expected='"left" or "right"')
    if max_length is not None and (isinstance(max_length, bool) or max_length < 0):
        raise UserError(f"max_length = {max_length!r}", expected="a number of tokens")
    if (truncation and max_length is None) or (padding == "max_length" and max_length is None):
        raise UserError("no max_length to cut or to pad to", expected="max_length=N")
    rows = tok.encode_batch(texts, allowed_special)
    if truncation:
        rows = [ids[:max_length] for ids in rows]
    width = 0
    if padding:
        longest = max(map(len, rows), default=0)
        width = max(longest, max_length or 0) if padding == "max_length" else longest
    pad = _pad_id(tok, pad_token) if any(len(ids) < width for ids in rows) else 0
    missing = [max(0, width - len(ids)) for ids in rows]
    left = padding_side == "left"
    return {
        "input_ids": [[pad] * n + ids if left else ids + [pad] * n for ids, n in zip(rows, missing)],
        "token_type_ids": [[0] * (len(ids) + n) for ids, n in zip(rows, missing)],
        "attention_mask": [
            [0] * n + [1] * len(ids) if left else [1] * len(ids) + [0] * n for ids, n in zip(rows, missing)
        ],
    }


def _pad_id(tok: Tokenizer, name: str | None) -> int:
    if name is None:
        raise UserError("padding needs a token to pad with", hint='pad_token="<|endoftext|>"')
    return tok.special_id(name)
