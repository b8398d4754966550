"""Comparisons as token ids, in memory or in shards. No torch here: workers that only encode start without it.

    pairs, counts = encode_pairs(rows, tok, max_tokens=2048)
    pairs = StoredPairs(shards)                # the same sequence of pairs, each read when it is asked for

A text is the whole chat in ChatML and ends with `<|im_end|>`, **without** the newline that the template puts after it:
the reward is read at that last token (the report: "a pooling layer that extracts the reward at a specific end token").

A pair of which one side is longer than `max_tokens` is dropped and counted (`drop`), or loses the oldest turns of its
prompt, which are the same for both sides (`truncate`); it is dropped all the same where even the last question and an
answer do not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, overload

from qwenkit.chat import Rendered, cut
from qwenkit.chat.messages import Message, Tool
from qwenkit.records import Row

if TYPE_CHECKING:
    from qwenkit.data.tokens.shards import Shards

SIDES = ("chosen", "rejected")
PairTooLong = Literal["drop", "truncate"]


class ChatRenderer(Protocol):
    """What is needed of a chat tokenizer; `qwenkit.chat.ChatTokenizer` is one."""

    @property
    def im_end_id(self) -> int:
        """Return the id of `<|im_end|>`."""
        ...

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> Rendered:
        """Return the chat as `ids` (and more)."""
        ...


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt as token ids, each ending with `<|im_end|>`."""

    chosen: list[int]
    rejected: list[int]
    id: str = ""

    @property
    def tokens(self) -> int:
        """Return the length of the longer side, in tokens."""
        return max(len(self.chosen), len(self.rejected))


def answer_ids(tok: ChatRenderer, row: Row, answer: str | Message) -> list[int]:
    """Return the ids of a row's chat (`messages`, `tools`) with `answer` as its last turn, up to `<|im_end|>`."""
    last = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    ids = list(tok.render([*row["messages"], last], tools=row.get("tools")).ids)
    return ids[: len(ids) - ids[::-1].index(tok.im_end_id)]


def encode_pair(
    row: Row, tok: ChatRenderer, max_tokens: int, too_long: PairTooLong = "drop"
) -> tuple[Pair | None, str, bool]:
    """Return the pair of a row (or None), its outcome (kept, too_long, same_text), and whether its prompt was cut."""

    def encoded(messages: Sequence[Message]) -> Pair:
        prompt = {**row, "messages": messages}
        return Pair(*(answer_ids(tok, prompt, row[side]) for side in SIDES), id=row["id"])

    pair = encoded(row["messages"])
    if pair.chosen == pair.rejected:
        return None, "same_text", False
    if pair.tokens <= max_tokens:
        return pair, "kept", False
    if too_long == "drop":
        return None, "too_long", False
    parts, _ = cut(row["messages"], max_tokens, too_long, lambda messages: encoded(messages).tokens)
    return (encoded(parts[0]), "kept", True) if parts else (None, "too_long", False)


def encode_pairs(
    rows: Iterable[Row], tok: ChatRenderer, max_tokens: int, too_long: PairTooLong = "drop"
) -> tuple[list[Pair], dict[str, int]]:
    """Return the pairs of rows (`messages`, `chosen`, `rejected`), and counts: kept, too_long, same_text, and cut (kept
    without some turns) where there are any."""
    pairs: list[Pair] = []
    counts = Counter(kept=0, too_long=0, same_text=0)
    for row in rows:
        pair, outcome, was_cut = encode_pair(row, tok, max_tokens, too_long)
        counts[outcome] += 1
        if was_cut:
            counts["cut"] += 1
        if pair is not None:
            pairs.append(pair)
    return pairs, dict(counts)


class StoredPairs(Sequence[Pair]):
    """Pairs in token shards, where each pair is two documents: the chosen text and the rejected one after it."""

    def __init__(self, shards: Shards) -> None:
        """Read pairs from these shards."""
        self.shards = shards

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.shards.lengths) // 2

    @overload
    def __getitem__(self, number: int) -> Pair: ...
    @overload
    def __getitem__(self, number: slice) -> list[Pair]: ...
    def __getitem__(self, number: int | slice) -> Pair | list[Pair]:
        """Return a pair, or a list of pairs for a slice; raises `IndexError` beyond the last."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        first = 2 * (number % len(self))
        chosen, rejected = (self.shards.tokens(n, 0, int(self.shards.lengths[n])).tolist() for n in (first, first + 1))
        return Pair(chosen, rejected, self.shards.ids[first])

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs in order."""
        return (self[number] for number in range(len(self)))
