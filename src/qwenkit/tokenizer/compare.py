"""Two vocabularies on the same documents: bytes per token by language, and what changes from one to the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from qwenkit.records import Row
from qwenkit.tokenizer.core import Tokenizer

_BATCH = 1000


def group_of(row: Row) -> str:
    """Return `code`, or the document's language."""
    return "code" if row.get("kind") == "code" else row.get("language", "und")


def bytes_per_token(tok: Tokenizer, texts: Sequence[str]) -> float | None:
    """Return UTF-8 bytes per token; None without text."""
    tokens = sum(len(ids) for ids in tok.encode_batch(texts))
    return round(sum(len(text.encode()) for text in texts) / tokens, 4) if tokens else None


def compression_change(old: Tokenizer, new: Tokenizer, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return bytes per token before and after, of all documents and by language."""
    changes: dict[str, dict[str, float]] = {}
    for group in ["all", *sorted({group_of(row) for row in rows})]:
        texts = [row["text"] for row in rows if group in ("all", group_of(row))]
        before, after = bytes_per_token(old, texts), bytes_per_token(new, texts)
        if before is not None and after is not None:
            changes[group] = {"before": before, "after": after}
    return changes


def encoding_change(
    old: Tokenizer, new: Tokenizer, rows: Sequence[Row], progress: Callable[..., None]
) -> dict[str, float]:
    """Return how many documents of known languages are encoded differently, and the tokens before and after.

    `moved` counts those that changed although none of their tokens is new: a new merge inside an old token."""
    count: Counter[str] = Counter()
    for start in range(0, len(rows), _BATCH):
        texts = [row["text"] for row in rows[start : start + _BATCH]]
        for before, after in zip(old.encode_batch(texts), new.encode_batch(texts)):
            count["before"] += len(before)
            count["after"] += len(after)
            count["changed"] += before != after
            count["moved"] += before != after and max(after) < old.n_tokens
        progress(min(start + _BATCH, len(rows)), len(rows))
    return {
        "documents": len(rows),
        "changed": count["changed"],
        "share": round(count["changed"] / max(1, len(rows)), 6),
        "moved": count["moved"],
        "tokens_before": count["before"],
        "tokens_after": count["after"],
    }
