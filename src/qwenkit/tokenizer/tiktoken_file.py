"""Qwen's own vocabulary file: one line for each token, with its bytes in base64 and its rank.

    ranks = read_ranks(path)                  # LF or CRLF
    tok = load_tiktoken(path, extra_vocab=other)    # the authors' way to add words of one's own
    save_tiktoken(tok, "my.tiktoken")         # refused where the file would not read back as the same tokenizer

The file knows nothing of special tokens and pattern. They follow from the family, which the name tells: `cl100k_base`
is OpenAI's, everything else Qwen's. Qwen's special tokens follow the last rank; in an *extended* vocabulary they lie in
the gap between the old ranks and the new, and as many as fit there are meant.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit.errors import UserError
from qwenkit.files import read_bytes
from qwenkit.tokenizer.core import Tokenizer
from qwenkit.tokenizer.patterns import special_names

QWEN_MULTIPLE = 128
"""The released models round 151,851 tokens up to 151,936 rows."""
CHATML_TOKENS = 3
_MOST_EXTRAS = 2**16
"""More `<|extra_N|>` than that no gap between ranks can mean."""


class Family(NamedTuple):
    """The settings of a family that its vocabulary file does not contain."""

    pattern: str
    special: Mapping[str, int] | None
    nfc: bool


FAMILIES = {
    "cl100k_base": Family(
        "cl100k",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        False,
    )
}
QWEN = Family("qwen", None, True)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Return the tokens of a file and their ranks; raises a `UserError` that names a line of another form."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                "not a line of a tiktoken vocabulary", where=f"{path}:{number}", expected="base64, a space, a rank"
            ) from None
    if not ranks:
        raise UserError("the vocabulary is empty", where=str(path))
    return ranks


def load_tiktoken(path: Path, extra_vocab: Path | None = None, **known: Any) -> Tokenizer:
    """Return a tokenizer from a vocabulary file; `known` are settings of the folder beside it (arguments of
    `Tokenizer`)."""
    family = FAMILIES.get(path.stem, QWEN)
    ranks = read_ranks(path)
    known = {"pattern": family.pattern, "nfc": family.nfc, "multiple": QWEN_MULTIPLE, **known}
    special = known.pop("special", None) or family.special or _qwen_special(ranks)
    if extra_vocab is not None:
        ranks |= _additions(read_ranks(extra_vocab), ranks, special)
        if (known.get("vocab_size") or 0) <= max(ranks.values()):
            known["vocab_size"] = None  # the rows that were enough without it
    return Tokenizer(ranks, special, **known)


def _qwen_special(ranks: Mapping[bytes, int]) -> dict[str, int]:
    """Return Qwen's special tokens from the first id without a rank: all of them, or as many as the gap holds."""
    taken = set(ranks.values())
    first = next(i for i in range(len(taken) + 1) if i not in taken)
    above = min((i for i in taken if i > first), default=None)
    if above is None:
        return {name: first + i for i, name in enumerate(special_names())}
    names = special_names(min(max(0, above - first - CHATML_TOKENS), _MOST_EXTRAS))[: above - first]
    return {name: first + i for i, name in enumerate(names)}


def _additions(extra: Mapping[bytes, int], ranks: Mapping[bytes, int], special: Mapping[str, int]) -> dict[bytes, int]:
    """Return the new tokens of an extra vocabulary, as the official code adds them: a known token or id is skipped."""
    used = {*ranks.values(), *special.values()}
    return {token: i for token, i in extra.items() if token not in ranks and i not in used}


def ranks_text(ranks: Mapping[bytes, int]) -> bytes:
    """Return the content of a vocabulary file."""
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in in_order)


def save_tiktoken(tok: Tokenizer, path: str | Path, ranks_only: bool = False) -> None:
    """Write a vocabulary file. It must read back as the same tokenizer, unless only the ranks are wanted; else it is a
    `UserError`."""
    path = Path(path)
    if not ranks_only:
        _refuse_loss(tok, path)
    path.write_bytes(ranks_text(tok.ranks))


def _refuse_loss(tok: Tokenizer, path: Path) -> None:
    """Name what the file cannot say and its reader would guess wrongly."""
    family = FAMILIES.get(path.stem, QWEN)
    differs = {
        "its special tokens": (family.special or _qwen_special(tok.ranks)) != tok.special,
        "its pattern": family.pattern != tok.pattern,
        "its normal form": family.nfc != tok.nfc,
        "how its special tokens are treated": bool(tok.first or tok.visible or tok.edges),
    }
    if lost := [name for name, is_lost in differs.items() if is_lost]:
        raise UserError(
            f"a vocabulary file would lose {' and '.join(lost)}",
            where=str(path),
            hint='save_tokenizer(tok, folder, form="tiktoken") keeps all; ranks_only=True writes the file all the same',
        )
