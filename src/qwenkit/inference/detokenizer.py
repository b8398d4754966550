"""From the ids of an answer to its text, token by token, with stop strings.

    detokenizer = IncrementalDetokenizer(tok, SamplingParams(stop=["\\n\\n"]))
    ended = detokenizer.push(token_id)     # true where a stop string is complete
    detokenizer.text[:detokenizer.settled] # the text, as far as no stop string can take it back

The text is made of complete characters only and is cut at the first stop string.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Protocol

from qwenkit.inference.sampling_params import SamplingParams

Match = tuple[int, int, str]
"""A stop string that was completed: where the text would be cut, its length in characters, the string."""


class TextStream(Protocol):
    """The text of ids that come one by one; it never returns part of a character."""

    def push(self, token_id: int, /) -> str:
        """Return the text that this id completes."""
        ...

    def flush(self) -> str:
        """Return the rest, with U+FFFD for an incomplete character."""
        ...


class TextTokenizer(Protocol):
    """What the engine needs of a tokenizer where strings go in or out; `qwenkit.tokenizer.Tokenizer` is one."""

    def encode(self, text: str, /) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of ids."""
        ...

    def stream(self, skip_special_tokens: bool = False, /) -> TextStream:
        """Return a new stream."""
        ...


class GrowingText:
    """A text that grows at its end, where each piece costs no more than its own length."""

    def __init__(self) -> None:
        """Start empty."""
        self._file, self._length = StringIO(), 0  # which translates no line ends

    def __len__(self) -> int:
        """Return the number of characters."""
        return self._length

    def __str__(self) -> str:
        """Return the whole text."""
        return self._file.getvalue()

    def append(self, text: str) -> None:
        """Add a piece at the end."""
        self._file.seek(self._length)
        self._file.write(text)
        self._length += len(text)

    def cut(self, length: int) -> None:
        """Keep the first `length` characters."""
        self._length = min(self._length, length)
        self._file.truncate(self._length)

    def part(self, start: int, stop: int | None = None) -> str:
        """Return the characters start to stop (half-open; None: to the end)."""
        stop = self._length if stop is None else min(stop, self._length)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


class IncrementalDetokenizer:
    """The text of an answer while it grows: whole characters only, cut at the first stop string. A token costs what its
    own text does, however long the answer is.

    Stop strings are looked for in the text and, where the text leaves special tokens out, also in the raw text that
    has them: so a stop string may be the name of a special token, or lie across one. A name that is left out counts as
    one piece: no stop string begins or ends inside it.
    """

    def __init__(self, tok: TextTokenizer, params: SamplingParams) -> None:
        """Start an empty text under these sampling parameters."""
        self.stream = tok.stream(params.skip_special_tokens)
        self.stop, self.inclusive = tuple(params.stop or ()), params.include_stop_str_in_output
        self._text, self.ended = GrowingText(), False
        self.stop_buffer = max((len(text) for text in self.stop), default=1) - 1
        """The number of characters at the end of the text that are held back, since a stop string may begin in them."""
        self.tok = tok
        self.raw_stream = tok.stream(False) if params.skip_special_tokens and self.stop else None
        self._raw_text = GrowingText()
        self.hidden_spans: list[tuple[int, int]] = []
        """(start, end) in the raw text of the names that the text leaves out."""

    @property
    def text(self) -> str:
        """Return the whole text so far."""
        return str(self._text)

    def part(self, start: int, stop: int) -> str:
        """Return the characters start to stop (half-open) of the text."""
        return self._text.part(start, stop)

    def push(self, id: int, early: bool = False) -> bool:
        """Add a token; return whether it completes a stop string, which no token before `min_tokens` can."""
        old, text = len(self._text), self.stream.push(id)
        self._text.append(text)
        matches = self._matches_in_text(old)
        if self.raw_stream is not None:
            old, raw = len(self._raw_text), self.raw_stream.push(id)
            self._raw_text.append(raw)
            if raw and not text:
                name = self.tok.decode([id])
                self.hidden_spans.append((len(self._raw_text) - len(name), len(self._raw_text)))
            matches += self._matches_in_raw_text(old)
        return not early and self._cut(matches)

    def finish(self) -> str:
        """Return the whole text, with U+FFFD for an incomplete character at its end."""
        if not self.ended:
            old, rest = len(self._text), self.stream.flush()
            self._text.append(rest)
            if not self._cut(self._matches_in_text(old)):
                self.stop_buffer = 0
        return self.text

    @property
    def settled(self) -> int:
        """Return how many characters of the text no stop string can take back."""
        return max(0, len(self._text) - self.stop_buffer)

    def _cut(self, matches: list[Match]) -> bool:
        """End the text before the first match; return whether there is one."""
        if not matches:
            return False
        start, _, stop = min(matches)
        half = self.stream.flush() if start > len(self._text) else ""  # an incomplete character before a name
        self._text.cut(start)
        self._text.append(half + stop * self.inclusive)
        self.stop_buffer, self.ended = 0, True
        return True

    def _matches_in_text(self, old: int) -> list[Match]:
        return [(start, len(stop), stop) for stop in self.stop for start in _starts(self._text, stop, old)]

    def _matches_in_raw_text(self, old: int) -> list[Match]:
        """Return the matches in the raw text, by the positions where the text would be cut."""
        starts = ((start, stop) for stop in self.stop for start in _starts(self._raw_text, stop, old))
        return [(cut, len(stop), stop) for start, stop in starts if (cut := self._text_index(start, stop)) is not None]

    def _text_index(self, start: int, stop: str) -> int | None:
        """Return where in the text a match of the raw text begins; None where it begins or ends inside a hidden
        name."""
        end, hidden = start + len(stop), 0
        for first, after in self.hidden_spans:
            if first < start < after or first < end < after:
                return None
            hidden += (after - first) * (after <= start)
        return start - hidden


def _starts(text: GrowingText, stop: str, old: int) -> Iterator[int]:
    """Yield where a stop string begins in a text, of those that end after its first `old` characters."""
    base = max(0, old - len(stop) + 1)
    tail = text.part(base)
    at = tail.find(stop)
    while at >= 0:
        yield base + at
        at = tail.find(stop, at + 1)
