"""Added tokens in a text: names that stand for one token each, located as `tokenizers` does.

    stretches([Part("a<col>b", frozenset({"<col>"}))], {"<col>": "<col>"}, {})      # Part a, Token <col>, Part b

A text comes in parts, and each part says which names count in it: what a chat template wrote may hold every mark, what
a user typed only words. A name is found where all parts that it lies in allow it, the longest first, and one found ends
before the next begins. Some added tokens take the white space beside them, or stand only as a word of their own
(`Edges`).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import regex


class Edges(NamedTuple):
    """What an added token requires of the text beside it."""

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Part(NamedTuple):
    """A stretch of text, the names that count in it, and the caller's index of its owner."""

    text: str
    allowed: frozenset[str]
    owner: int = 0


class Token(NamedTuple):
    """An added token in the text, and the owner of the text in which it begins."""

    name: str
    owner: int


@lru_cache(maxsize=64)
def cutter(names: frozenset[str]) -> re.Pattern[str]:
    """Return a regular expression that finds names, the longest where two fit."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def split_special(text: str, names: frozenset[str]) -> list[str]:
    """Return the text cut around names of special tokens (the longest where two fit), without empty parts."""
    parts = cutter(names).split(text) if names else [text]
    return [part for part in parts if part]


def stretches(
    parts: Sequence[Part], spelled: Mapping[str, str], edges: Mapping[str, Edges]
) -> Iterator[Token | list[Part]]:
    """Yield the parts cut around the names that count in them. `spelled` maps spellings of names in this text to
    names."""
    text = "".join(part.text for part in parts)
    starts = [0, *accumulate(len(part.text) for part in parts)]
    done = at = 0
    pattern = cutter(frozenset(spelled)) if spelled else None
    while pattern is not None and (match := pattern.search(text, at)):
        start, stop = match.span()
        name = spelled[match[0]]
        under = _slice(parts, starts, start, stop)
        if not all(name in part.allowed for part in under):
            at = start + 1
            continue
        at = stop
        edge = edges.get(name)
        if edge is not None:
            if edge.single_word and not _stands_alone(text, start, stop):
                continue
            while edge.lstrip and start > done and _SPACE.match(text[start - 1]):
                start -= 1
            stop = _SPACES.match(text, stop).end() if edge.rstrip else stop
            at = stop
        if done < start:
            yield _slice(parts, starts, done, start)
        yield Token(name, under[0].owner)
        done = stop
    if done < len(text):
        yield _slice(parts, starts, done, len(text))


def _slice(parts: Sequence[Part], starts: Sequence[int], start: int, stop: int) -> list[Part]:
    """Return what lies between two positions of the joined text, still by part."""
    first, last = bisect_right(starts, start) - 1, bisect_left(starts, stop)
    cut = (
        part._replace(text=part.text[max(0, start - begin) : stop - begin])
        for part, begin in zip(parts[first:last], starts[first:last])
    )
    return [part for part in cut if part.text]


# As the regular expressions of `tokenizers` mean them; Python's exclude combining marks and include more spaces.
_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")
_SPACE = regex.compile(r"\p{White_Space}")
_SPACES: Any = regex.compile(r"\p{White_Space}*")


def _stands_alone(text: str, start: int, stop: int) -> bool:
    """Return whether no letter, digit or underscore touches a stretch."""
    beside = text[max(0, start - 1) : start], text[stop : stop + 1]
    return not any(_WORD.match(sign) for sign in beside)
