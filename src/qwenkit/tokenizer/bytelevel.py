"""Two spellings of one vocabulary: bytes with ranks (tiktoken) and printable strings with merges (`tokenizers`).

`tokenizers` writes each byte as one printable character (GPT-2's table) and stores a list of merges; tiktoken stores
only the rank of each token and merges whatever adjacent pair makes the token of lowest rank. `merges` recovers from
the ranks a list that gives the same ids: for each token *every* way to split it into two known tokens, in the order
of the token's rank. One split per token (what the published Qwen2 file holds) is enough for vocabularies that BPE
learned, but not in general: inside a longer word the two halves may form elsewhere than in the token alone. The
price is a longer list: 294,166 merges for Qwen's vocabulary where 151,387 are published.
"""

from __future__ import annotations

from collections.abc import Mapping


def _printable_bytes() -> dict[int, str]:
    """GPT-2's table: a printable byte is itself, the others are moved above U+0100, in order."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(keep)]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(moved)}


_TO_CHAR = _printable_bytes()
_TO_BYTE = {c: b for b, c in _TO_CHAR.items()}


def to_printable(token: bytes) -> str:
    """The printable spelling of a token's bytes: b" a" -> "Ġa"."""
    return "".join(map(_TO_CHAR.__getitem__, token))


def from_printable(token: str) -> bytes:
    """The inverse of `to_printable`. Raises KeyError on a character outside the table."""
    return bytes(map(_TO_BYTE.__getitem__, token))


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Merges in the order in which they apply, so that merge-list BPE gives the ids that rank BPE gives."""
    out: list[tuple[bytes, bytes]] = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        out += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return out
