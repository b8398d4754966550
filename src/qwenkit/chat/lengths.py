"""Conversations that are longer than a training sequence: cut between turns, never inside one.

    parts, left_out = cut(messages, max_tokens=2048, policy="split", size=lambda part: len(tok.render(part, tools).ids))

`drop`: the whole conversation or nothing. `split`: several conversations, each with the system turn before it, so that
every turn is in one of them and each answer is learnt once; they take as many turns as fit, in order. `truncate`:
without the oldest turns; the system turn stays. A turn is a question with all that follows it up to the next: calls of
tools, their results, the answers. A turn that does not fit by itself, beside the system turn, is left out, and no part
spans it. A part is a conversation of its own: a style whose rendering depends on what follows renders it as if it ended
there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

from qwenkit.chat.messages import Message
from qwenkit.chat.truncation import cut_turns, joined
from qwenkit.errors import UserError, nearest

TooLong = Literal["drop", "split", "truncate"]
Size = Callable[[Sequence[Message]], int]


def cut(messages: Sequence[Message], max_tokens: int, policy: TooLong, size: Size) -> tuple[list[list[Message]], int]:
    """Return the parts of a conversation that have at most `max_tokens` tokens by `size`, and how many turns are in
    none of them.

    Raises a `UserError` for an unknown policy."""
    if policy not in get_args(TooLong):
        what, known = f"unknown policy {policy!r} for what is too long", get_args(TooLong)
        raise UserError(what, expected=", ".join(known), nearest=nearest(policy, known))
    if size(messages) <= max_tokens:
        return [list(messages)], 0
    head, turns = cut_turns(messages)

    def fits(start: int, stop: int) -> bool:
        return size(joined(head, turns[start:stop])) <= max_tokens

    if policy == "drop":
        spans = []
    elif policy == "split":
        spans = list(_spans(len(turns), fits))
    else:
        newest = _most(len(turns), lambda count: fits(len(turns) - count, len(turns)))
        spans = [(len(turns) - newest, len(turns))] if newest else []
    parts = [joined(head, turns[start:stop]) for start, stop in spans]
    return parts, len(turns) - sum(stop - start for start, stop in spans)


def _spans(count: int, fits: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """Yield ranges of neighbouring turns, as many as fit, in order."""
    at = 0
    while at < count:
        turns = _most(count - at, lambda some, start=at: fits(start, start + some))
        if turns:
            yield at, at + turns
        at += max(turns, 1)


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `count` that fits; found by doubling, since a test costs as much as its size."""
    low, high = 0, 1
    while high <= count and fits(high):
        low, high = high, 2 * high
    return low + bisect_left(range(low + 1, min(high, count + 1)), True, key=lambda some: not fits(some))
