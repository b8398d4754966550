"""What callers hand in: read into plain values, or refused by name.

    integer(1, 65536).read(value, "n", where="sampling parameters")
    items(prompts, "prompts", "a list of texts");  token_ids(prompt, vocab_size, where="prompt 0")

Numbers of numpy and torch are as good as Python's. True and False are no numbers, and a text is no list: it would be
taken apart into its characters.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from qwenkit.errors import UserError

T = TypeVar("T")

LARGEST = 2**63 - 1
"""The largest whole number that a draw can be made from."""

_TRUTHS = (bool, np.bool_)


@dataclass(frozen=True)
class Kind:
    """A kind of value: in words, and `plain`, which gives the plain value or raises where it does not fit."""

    expected: str
    plain: Callable[[Any], Any]

    def read(self, value: Any, name: str, where: str | None = None) -> Any:
        """The plain value, or an error that names it."""
        try:
            return self.plain(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name} = {shown(value)}", where=where, expected=self.expected) from None


def integer(low: int, high: int = LARGEST) -> Kind:
    """A whole number in a range."""

    def plain(value: Any) -> int:
        return _fitting(_index(value), lambda found: low <= found <= high)

    return Kind(f"an integer, {f'{low} or more' if high == LARGEST else f'{low} to {high}'}", plain)


def number(expected: str, fits: Callable[[float], bool]) -> Kind:
    """A number that fits; `fits` must be false for NaN."""

    def plain(value: Any) -> float:
        if isinstance(value, (*_TRUTHS, str, bytes)):
            raise TypeError
        return _fitting(float(value), fits)

    return Kind(expected, plain)


def optional(kind: Kind) -> Kind:
    """That kind, or None."""
    return Kind(f"{kind.expected}; or None", lambda value: None if value is None else kind.plain(value))


def or_else(kind: Kind, neutral: Any) -> Kind:
    """That kind; None stands for the neutral value."""
    return Kind(f"{kind.expected}; or None", lambda value: neutral if value is None else kind.plain(value))


def _truth(value: Any) -> bool:
    return bool(_fitting(value, lambda found: isinstance(found, _TRUTHS)))


def _texts(value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else as_list(value)
    return tuple(_fitting(text, lambda text: isinstance(text, str) and text != "") for text in found)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_fitting(_index(id), lambda found: found >= 0) for id in as_list(value))


def _kept(value: Any) -> bool:
    return bool(value) if isinstance(value, _TRUTHS) else _fitting(_index(value), lambda found: 0 <= found <= 1) >= 0


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else as_list(value)
    return tuple((_ids([id])[0], _BIAS.plain(bias)) for id, bias in pairs)


def _sequences(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(_fitting(_ids(ids), lambda found: len(found) > 0) for ids in as_list(value))


_BIAS = number("", lambda value: -100 <= value <= 100)

TRUTH = Kind("True or False", _truth)
KEPT = Kind("True or False; 0 and 1 are True, as in vLLM", _kept)
BIASES = Kind("a dict of token ids and numbers from -100 to 100", _biases)
TEXTS = Kind("a string or a list of strings, none of them empty", _texts)
IDS = Kind("a list of token ids", _ids)
SEQUENCES = Kind("a list of lists of token ids, none of them empty", _sequences)


def as_list(value: Any) -> list[Any]:
    """The items of a list, a tuple, an array or a tensor; a `TypeError` for a text and all else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        raise TypeError
    return list(value)


def items(value: Any, name: str, expected: str, hint: str | None = None) -> list[Any]:
    """A list, one item for each request. One by itself is refused."""
    try:
        return as_list(value)
    except TypeError:
        raise UserError(f"{name} = {shown(value)}", expected=expected, hint=hint) from None


def token_ids(value: Any, vocab_size: int, where: str) -> list[int]:
    """Ids that have a row in the model."""
    expected = f"token ids from 0 to {vocab_size - 1}"
    try:
        ids = [_index(id) for id in as_list(value)]
    except TypeError:
        raise UserError(f"{shown(value)} is not a list of token ids", where=where, expected=expected) from None
    if bad := [id for id in ids if not 0 <= id < vocab_size]:
        raise UserError(f"token id {bad[0]} is not in the model", where=where, expected=expected)
    return ids


def same_length(values: Sequence[Any], name: str, count: int) -> None:
    """Refuse lists that do not go together."""
    if len(values) != count:
        raise UserError(f"{len(values)} {name} for {count} prompts", expected="one for each prompt")


def shown(value: Any) -> str:
    """A value in a message: short, and on one line."""
    return " ".join(reprlib.repr(value).split())


def _index(value: Any) -> int:
    if isinstance(value, _TRUTHS):
        raise TypeError
    return operator.index(value)


def _fitting(value: T, fits: Callable[[T], bool]) -> T:
    if not fits(value):
        raise ValueError
    return value
