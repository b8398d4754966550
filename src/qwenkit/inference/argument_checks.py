"""Arguments of callers as plain values, or an error that names them.

    integer(1, 65536).parse(value, "n", where="sampling parameters")
    as_list(prompts, "prompts", "a list of strings");  token_ids(prompt, vocab_size, where="prompt 0")

Numbers of numpy and torch are accepted like Python's. True and False are not numbers, and a string is not a list: it
would be split into its characters.
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
"""The largest integer that a random draw can be made from."""

MOST_LOGPROBS = 20
"""The largest number of most likely tokens that may be asked for at a position."""

_BOOLS = (bool, np.bool_)


@dataclass(frozen=True)
class Validator:
    """What is expected of an argument, in words, and `convert`, which returns the plain value.

    `convert` raises `TypeError`, `ValueError` or `OverflowError` for a value that does not fit."""

    expected: str
    convert: Callable[[Any], Any]

    def parse(self, value: object, name: str, where: str | None = None) -> Any:
        """Return the plain value; raises a `UserError` that names the argument."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{name} = {shown(value)}", where=where, expected=self.expected) from None


def integer(low: int, high: int = LARGEST) -> Validator:
    """Return a validator of integers in a range."""

    def convert(value: Any) -> int:
        return _fitting(_index(value), lambda x: low <= x <= high)

    return Validator(f"an integer, {f'{low} or more' if high == LARGEST else f'{low} to {high}'}", convert)


def number(expected: str, fits: Callable[[float], bool]) -> Validator:
    """Return a validator of numbers that fit; `fits` must be false for NaN."""

    def convert(value: Any) -> float:
        if isinstance(value, (*_BOOLS, str, bytes)):
            raise TypeError
        return _fitting(float(value), fits)

    return Validator(expected, convert)


def optional(validator: Validator) -> Validator:
    """Return the same validator that also takes None."""
    return Validator(
        f"{validator.expected}; or None", lambda value: None if value is None else validator.convert(value)
    )


def default_if_none(validator: Validator, neutral: object) -> Validator:
    """Return the same validator that takes None as the neutral value."""
    return Validator(
        f"{validator.expected}; or None", lambda value: neutral if value is None else validator.convert(value)
    )


def _bool(value: Any) -> bool:
    return bool(_fitting(value, lambda x: isinstance(x, _BOOLS)))


def _strings(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else _list(value)
    return tuple(_fitting(text, lambda text: isinstance(text, str) and text != "") for text in texts)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_fitting(_index(id), lambda x: x >= 0) for id in _list(value))


def _logprobs(value: Any) -> bool | int:
    if isinstance(value, _BOOLS):
        return bool(value)
    count = _fitting(_index(value), lambda x: 0 <= x <= MOST_LOGPROBS)
    return count if count > 1 else True


def _words(value: Any) -> tuple[str, ...]:
    return tuple(_fitting(word, lambda word: bool(word.strip())) for word in _strings(value))


def _some_ids(value: Any) -> tuple[int, ...]:
    return _fitting(_ids(value), lambda ids: len(ids) > 0)


def _last_tokens(value: Any) -> int:
    return _fitting(_index(value), lambda x: x == -1 or 1 <= x <= LARGEST)


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else _list(value)
    return tuple((_ids([id])[0], _BIAS.convert(bias)) for id, bias in pairs)


def _sequences(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(_fitting(_ids(ids), lambda x: len(x) > 0) for ids in _list(value))


_BIAS = number("", lambda value: -100 <= value <= 100)

BOOL = Validator("True or False", _bool)
SALT = Validator(
    "a string of at most 1000 characters",
    lambda value: _fitting(value, lambda x: isinstance(x, str) and len(x) <= 1000),
)
LOGPROBS = Validator("True or False, or a number from 0 to 20 (0 and 1 are True)", _logprobs)
BIASES = Validator("a dict of token ids and numbers from -100 to 100", _biases)
STRINGS = Validator("a string or a list of strings, none of them empty", _strings)
IDS = Validator("a list of token ids", _ids)
WORDS = Validator("a word or a list of words, none of them blank", _words)
SOME_IDS = Validator("a list of token ids, at least one", _some_ids)
LAST_TOKENS = Validator("-1, or an integer, 1 or more", _last_tokens)
SEQUENCES = Validator("a list of lists of token ids, none of them empty", _sequences)


def _list(value: Any) -> list[Any]:
    """Return the items of a list, a tuple, an array or a tensor; raises `TypeError` for a string and all else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        raise TypeError
    return list(value)


def as_list(value: object, name: str, expected: str, hint: str | None = None) -> list[Any]:
    """Return the items of a list, one for each request; raises a `UserError` for anything else."""
    try:
        return _list(value)
    except TypeError:
        raise UserError(f"{name} = {shown(value)}", expected=expected, hint=hint) from None


def token_ids(value: object, vocab_size: int, where: str) -> list[int]:
    """Return ids as a list; raises a `UserError` where one has no row in the embedding."""
    expected = f"token ids from 0 to {vocab_size - 1}"
    try:
        ids = [_index(id) for id in _list(value)]
    except TypeError:
        raise UserError(f"{shown(value)} is not a list of token ids", where=where, expected=expected) from None
    if bad := [id for id in ids if not 0 <= id < vocab_size]:
        raise UserError(f"token id {bad[0]} is not in the model", where=where, expected=expected)
    return ids


def same_length(values: Sequence[object], name: str, count: int) -> None:
    """Raise a `UserError` for lists of different lengths."""
    if len(values) != count:
        raise UserError(f"{len(values)} {name} for {count} prompts", expected="one for each prompt")


def shown(value: object) -> str:
    """Return a value as messages show it: short, and on one line."""
    return " ".join(reprlib.repr(value).split())


def _index(value: Any) -> int:
    """Return an integer of Python, numpy or torch; raises `TypeError` for bools and all else."""
    if isinstance(value, _BOOLS):
        raise TypeError
    return operator.index(value)


def _fitting(value: T, fits: Callable[[T], bool]) -> T:
    """Return the value; raises `ValueError` where it does not fit."""
    if not fits(value):
        raise ValueError
    return value
