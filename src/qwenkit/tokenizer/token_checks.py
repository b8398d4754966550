"""Arguments and vocabularies as the tokenizer takes them, or an error that names what is wrong.

Numbers of numpy and torch are token ids like Python's; True, a fraction and a string are not, and a string is not a
list: it would be read letter by letter.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from qwenkit.errors import UserError


def shown(value: object) -> str:
    """Return a value as messages show it: short."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def name_set(names: Any) -> frozenset[str]:
    """Return names of special tokens as a set; raises a `UserError` for a string and all else."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise UserError(f"{shown(names)} is not a list of special tokens", expected='names, or "all"')
    return frozenset(names)


def checked_text(text: Any) -> str:
    """Return a text; raises a `UserError` for anything else."""
    if not isinstance(text, str):
        raise UserError(f"{shown(text)} is not a string", expected="a string")
    return text


def checked_list(ids: Any) -> Iterable[Any]:
    """Return token ids as something to iterate over; raises a `UserError` for a string and all else."""
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise UserError(f"{shown(ids)} is not a list of token ids", expected="integers")
    return ids


def checked_id(value: Any) -> int:
    """Return a token id, also of numpy or torch; raises a `UserError` for a fraction, a boolean or a string."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{shown(value)} is not a token id", expected="integers")


def check_vocabulary(ranks: Mapping[bytes, int], special: Mapping[str, int], lacking: frozenset[int]) -> None:
    """Raise a `UserError` where a byte is missing (encoding could fail), and where an id has two meanings, or none."""
    if lacking:
        raise UserError(f"the vocabulary lacks {len(lacking)} single bytes, the first is 0x{min(lacking):02x}")
    ids = [*ranks.values(), *special.values()]
    if odd := [i for i in ids if type(i) is not int or not 0 <= i < 2**31]:
        raise UserError(f"{shown(odd[0])} is not a token id", expected="integers from 0 to 2147483647")
    if "" in special:
        raise UserError("a special token without a name", expected="one character at the least")
    if len(set(ids)) < len(ids):
        twice = next(i for n, i in enumerate(sorted(ids)) if i == sorted(ids)[n - 1])
        raise UserError(f"token id {twice} is used twice", expected="one token for each id")
