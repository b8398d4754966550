"""Two spellings of one vocabulary: bytes with ranks (tiktoken) and printable strings with merges (`tokenizers`).

`tokenizers` writes each byte as one printable character (GPT-2's table) and stores a list of merges; tiktoken stores
only the rank of each token and merges whatever adjacent pair makes the token of lowest rank. `merges` recovers from
the ranks a list that gives the same ids: for each token *every* way to split it into two known tokens, in the order
of the token's rank. One split per token (what the published Qwen2 file holds) is enough for vocabularies that BPE
learned, but not in general: inside a longer word the two halves may form elsewhere than in the token alone. The
price is a longer list: 294,166 merges for Qwen's vocabulary where 151,387 are published.

The way back needs a proof that merging by rank gives the ids of the list, and `strays` is that proof: two tokens are
neighbours in some text only if the two alone are encoded as these two. So where every token, alone, comes out as
itself, a pair that spells a token and is not in the list is never met, and that a word which is a token is taken whole
(tiktoken, `ignore_merges`) changes nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def _printable_bytes() -> dict[int, str]:
    """Return GPT-2's table: a printable byte is itself, the others are moved above U+0100, in order."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(keep)]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(moved)}


_TO_CHAR = _printable_bytes()
_TO_BYTE = {c: b for b, c in _TO_CHAR.items()}

BYTES = {bytes([b]): i for i, b in enumerate(sorted(range(256), key=_TO_CHAR.__getitem__))}
"""Ids of the single bytes in a vocabulary that is trained: in the order of their printable characters, as in Qwen's."""


def to_printable(token: bytes) -> str:
    """Return the printable spelling of a token's bytes (GPT-2's byte table; Radford et al., 2019): b" a" -> "Ġa"."""
    return "".join(map(_TO_CHAR.__getitem__, token))


def from_printable(token: str) -> bytes:
    """Return the bytes of a printable spelling; raises `KeyError` for a character outside the table."""
    return bytes(map(_TO_BYTE.__getitem__, token))


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return merges in the order in which they apply, so that merge-list BPE gives the ids that rank BPE gives."""
    out: list[tuple[bytes, bytes]] = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        out += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return out


def strays(merges: Iterable[tuple[str, str]], vocab: Mapping[str, int]) -> list[str]:
    """Return the tokens that the list of merges does not build out of their own bytes. Merges are in the order of their
    ids."""
    made: dict[tuple[int, int], int] = {}
    ways: dict[int, list[tuple[int, int]]] = {}
    for left, right in merges:
        pair, token = (vocab[left], vocab[right]), vocab[left + right]
        made[pair] = token
        if max(pair) < token:
            ways.setdefault(token, []).append(pair)
    halves: dict[int, tuple[int, int]] = {}
    unreachable: list[str] = []
    for text, token in sorted(vocab.items(), key=lambda item: item[1]):
        way = next((pair for pair in ways.get(token, ()) if _meet(*pair, token, made, halves)), None)
        if way is not None:
            halves[token] = way
        elif len(text) > 1:
            unreachable.append(text)
    return unreachable


def _meet(
    left: int, right: int, limit: int, made: Mapping[tuple[int, int], int], halves: Mapping[int, tuple[int, int]]
) -> bool:
    """Return whether two tokens alone stay apart up to the merge `limit`: with their merges undone, last first, no
    other merge across the border would have come before. Of two merges of one rank the left is made first."""
    while True:
        if made.get((left, right), limit) < limit:
            return False
        parts, other = halves.get(left), halves.get(right)
        if parts is not None and (other is None or left > right):
            limit, left = left, parts[1]
        elif other is not None:
            limit, right = right + 1, other[0]
        else:
            return True


def is_complete(merges: Iterable[tuple[str, str]], vocab: Mapping[str, int]) -> bool:
    """Return whether a list of merges holds every way to split a token into two known ones, as `merges` writes it."""
    listed = set(merges)
    return all(
        (token[:i], token[i:]) in listed
        for token in vocab
        for i in range(1, len(token))
        if token[:i] in vocab and token[i:] in vocab
    )
