"""Speculation: guess the next tokens of an answer, and let the model check all of them in one step.

    engine = Engine(model, tok, invariant=False, speculation=PromptLookup())          # or DraftModel(small_model)

A guess is read like tokens of the answer, each in a row of its own, and each row's next token is drawn as ever: from
the model's distribution, with the number that belongs to its position. As long as what was drawn is what had been
guessed, the row behind it stands, and its token is an answer's token too. So the ids are those that the engine gives
without speculation, at any temperature, with every penalty, grammar and stop rule: only the number of steps is smaller.
(Published schemes accept and reject instead: Leviathan et al., 2023. With draws that are functions of the position,
nothing has to be rejected.)

`PromptLookup` guesses that what followed the last few tokens before will follow them again (Saxena, 2023): answers that
quote. `DraftModel` asks a small model of the family. `Gain` switches guessing off where it loses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference.argument_checks import integer
from qwenkit.inference.block_pool import BLOCK, BlockPool, BlockTable
from qwenkit.inference.detokenizer import TextTokenizer
from qwenkit.inference.kv_memory import default_kv_tokens
from qwenkit.inference.paged_cache import PagedCache, Segment
from qwenkit.inference.sequence import Sequence
from qwenkit.model import Transformer
from qwenkit.model.batching import PAD_ID

Drafts = Mapping[Sequence, Seq[int]]
"""What is guessed to follow the newest token of some answers."""

_FEW = integer(1, 64)


class Speculation(Protocol):
    """Something that guesses."""

    tokens: int
    """How many at most."""

    def propose(self, sequences: Seq[Sequence], room: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Return the guessed next tokens of answers, at most `room` of each; none where it has no guess."""
        ...

    def check(self, model: Transformer, tok: TextTokenizer | None) -> None:
        """Raise a `UserError` where it does not fit a model and its tokenizer. Called once, before any guess."""
        ...


class PromptLookup:
    """What followed the last tokens where they stood before, in the prompt or in the answer."""

    def __init__(self, tokens: int = 8, longest: int = 4, shortest: int = 2) -> None:
        """Guess at most `tokens`, behind the last `longest` tokens, or fewer, down to `shortest`."""
        self.tokens, self.longest, self.shortest = (
            _FEW.parse(value, name)
            for value, name in ((tokens, "tokens"), (longest, "longest"), (shortest, "shortest"))
        )

        self._ngrams: WeakKeyDictionary[Sequence, Ngrams] = WeakKeyDictionary()

    def propose(self, sequences: Seq[Sequence], room: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Return what followed the last tokens of each answer at their newest place before."""
        guesses = {}
        for sequence in sequences:
            if (count := min(self.tokens, room[sequence])) > 0:
                start = self._followed(sequence)
                guesses[sequence] = list(sequence.tokens(start, start + count))
        return {sequence: guess for sequence, guess in guesses.items() if guess}

    def check(self, model: Transformer, tok: TextTokenizer | None) -> None:
        """Fit every model."""

    def _followed(self, sequence: Sequence) -> int:
        """Return where what followed the last tokens of an answer begins; its end where they were not there before."""
        ngrams = self._ngrams.get(sequence)
        if ngrams is None:
            ngrams = self._ngrams[sequence] = Ngrams(self.shortest, self.longest)
        ngrams.extend(sequence.tokens(ngrams.length, sequence.length))
        return ngrams.followed()


class Ngrams:
    """Where the last tokens of a text stood before, at a constant cost for each new token.

        ngrams = Ngrams(shortest=2, longest=4)
        ngrams.extend([7, 8, 9, 7, 8])
        ngrams.followed()                     # 2: what followed the last two, 7 and 8, begins at place 2

    A text only grows."""

    def __init__(self, shortest: int, longest: int) -> None:
        """Begin with an empty text; look for its last `longest` tokens, or fewer, down to `shortest`."""
        self.length = 0
        self._sizes = range(longest, shortest - 1, -1)
        self._last: tuple[int, ...] = ()
        self._ends: dict[tuple[int, ...], int] = {}
        """The place behind each n-gram of the text at its newest place, but for those that end with the text."""

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens to the end of the text."""
        for id in ids:
            self._ends.update(dict.fromkeys(self._suffixes(), self.length))
            self._last = (*self._last, id)[-self._sizes.start :]
            self.length += 1

    def followed(self) -> int:
        """Return the place behind the newest earlier occurrence of as many of the last tokens as there is one of; the
        length of the text where there is none."""
        return next((self._ends[suffix] for suffix in self._suffixes() if suffix in self._ends), self.length)

    def _suffixes(self) -> list[tuple[int, ...]]:
        """Return the last tokens of the text, the longest n-gram first."""
        return [self._last[-size:] for size in self._sizes if size <= len(self._last)]


@dataclass(eq=False)
class _Read:
    """What a draft model has read of an answer."""

    table: BlockTable = field(default_factory=lambda: BlockTable(None))
    length: int = 0
    """How many tokens of prompt and answer have keys and values in its cache."""
    guesses: list[int] = field(default_factory=list)
    """What was guessed to follow them, and has keys and values too."""

    def settle(self, sequence: Sequence) -> None:
        """Count the guesses that have become tokens of the answer, and forget the others. A text only grows."""
        ids = sequence.tokens(self.length, self.length + len(self.guesses))
        self.length, self.guesses = self.length + _common(self.guesses, ids), []


class DraftModel:
    """A small model of the same vocabulary, which says its likeliest next tokens. What it costs to bring a guess up to
    date depends on what is new of an answer, not on its length.

    Tables of embeddings are filled up to some size, which differs inside a family and between a folder and a GGUF
    file: where both tokenizers are known, those are compared and not the sizes. A token that only the larger model
    knows is never guessed."""

    def __init__(self, model: Transformer, tokens: int = 4, tok: TextTokenizer | None = None) -> None:
        """Guess `tokens` at a time. The model keeps a cache of its own; `tok` is its tokenizer, if that is known."""
        self.model, self.tokens, self.tok = model.eval(), _FEW.parse(tokens, "tokens"), tok
        kv_tokens = default_kv_tokens(model, "auto", max_batch=16)
        weight = model.model.embed_tokens.weight
        self.pool = BlockPool(kv_tokens // BLOCK)
        self.cache = PagedCache(model.config, self.pool.num_blocks, weight.dtype, weight.device)
        self._vocabulary = model.config.vocab_size
        """Ids below it may be guessed."""
        self._read: dict[Sequence, _Read] = {}

    def check(self, model: Transformer, tok: TextTokenizer | None) -> None:
        """Raise a `UserError` for a model of another vocabulary. Without both tokenizers only the sizes of the
        embeddings say whether it is."""
        own, other = self.model.config.vocab_size, model.config.vocab_size
        if self.tok is not None and tok is not None:
            if (difference := _difference(self.tok, tok)) is not None:
                raise UserError(f"the draft model has another vocabulary: {difference}",
                                hint="take a smaller model of the same family")  # fmt: skip
        elif own != other:
            raise UserError(f"the draft model has {own} words", expected=f"{other}, as the model has",
                            hint="take a smaller model of the same family, or name both tokenizers: "
                            "DraftModel(model, tok=...)")  # fmt: skip
        counts = (getattr(one, "n_tokens", own) for one in (self.tok, tok))
        self._vocabulary = min(own, other, *counts)

    @torch.inference_mode()
    def propose(self, sequences: Seq[Sequence], room: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Return the likeliest next tokens of each answer. Answers without a place, or beyond the model's positions,
        get none."""
        self._forget(set(sequences))
        most = min(self.tokens, max(room.values(), default=0))
        chosen = [s for s in sequences if room[s] > 0 and self._reserve(s, s.length + most)]
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in chosen}
        for number in range(most if chosen else 0):
            ids = self._next(chosen, guesses, first=number == 0)
            for sequence, id in zip(chosen, ids):
                guesses[sequence].append(id)
        return {sequence: ids[: room[sequence]] for sequence, ids in guesses.items()}

    def _next(self, chosen: list[Sequence], guesses: dict[Sequence, list[int]], first: bool) -> list[int]:
        """Read what is new of each answer, or its newest guess; return the likeliest id behind it."""
        flat: list[int] = []
        segments: list[Segment] = []
        for sequence in chosen:
            read = self._read[sequence]
            if first:
                read.settle(sequence)
                start, stop = min(read.length, sequence.length - 1), sequence.length
                flat += (id if id < self.model.config.vocab_size else PAD_ID for id in sequence.tokens(start, stop))
            else:
                start = sequence.length + len(read.guesses)
                stop = start + 1
                flat.append(guesses[sequence][-1])
            segments.append(Segment(read.table.blocks, start, stop, len(sequence.prompt.ids)))
        cache = self.cache.forward([], segments) if first else self.cache.forward(segments, [])
        h_ND = self.model.hidden(torch.tensor([flat], device=self.cache.device), cache)[0]
        ends_B = torch.tensor([segment.length for segment in segments]).cumsum(0) - 1
        logits_BV: Tensor = self.model.head(h_ND[ends_B])
        for sequence in chosen:  # read by now, and not before
            read = self._read[sequence]
            read.length, read.guesses = sequence.length, list(guesses[sequence])
        return logits_BV[:, : self._vocabulary].argmax(-1).tolist()

    def _reserve(self, sequence: Sequence, length: int) -> bool:
        table = self._read.setdefault(sequence, _Read()).table
        return length <= self.model.config.max_length and self.pool.reserve(table, length)

    def _forget(self, kept: set[Sequence]) -> None:
        """Give the places of answers back that are not written any more."""
        for sequence in [sequence for sequence in self._read if sequence not in kept]:
            self.pool.release(self._read.pop(sequence).table)


def _difference(one: TextTokenizer, other: TextTokenizer) -> str | None:
    """Return in what two vocabularies contradict each other, or None: one may have more special tokens."""
    if getattr(one, "ranks", None) != getattr(other, "ranks", None):
        return "its tokens are others"
    ours: Mapping[str, int] = getattr(one, "special", {})
    theirs: Mapping[str, int] = getattr(other, "special", {})
    names = {id: name for name, id in theirs.items()}
    for name, id in ours.items():
        if theirs.get(name, id) != id or names.get(id, name) != name:
            return f"{name} is token {id}, and not {theirs.get(name, names.get(id))}"
    return None


def _common(a: Seq[int], b: Seq[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class Gain:
    """Whether guessing pays: seconds for each token, with guesses and without, as moving averages.

    It is tried again now and then, since answers change."""

    def __init__(self, every: int = 64, trial: int = 8) -> None:
        """Of `every` steps, make `trial` with guesses and as many without; the others are of the better kind."""
        self.every, self.trial = every, trial
        self._steps = 0
        self._cost: dict[bool, float] = {}

    def wanted(self) -> bool:
        """Return whether the next step should have guesses."""
        place = self._steps % self.every
        if place < self.trial or (len(self._cost) < 2 and place < 2 * self.trial):
            return place < self.trial
        return place >= 2 * self.trial and self._cost.get(True, 0.0) <= self._cost.get(False, float("inf"))

    def note(self, guessed: bool, seconds: float, tokens: int) -> None:
        """Learn from a step of answers that gave so many tokens."""
        self._steps += 1
        cost, before = seconds / max(1, tokens), self._cost.get(guessed)
        self._cost[guessed] = cost if before is None else before + 0.2 * (cost - before)


def with_room(sequences: Iterable[Sequence], pool: BlockPool, most: int) -> dict[Sequence, int]:
    """Return for how many guesses each answer has room: of its length, and of blocks, which it is given."""
    room = {}
    for sequence in sequences:
        left = min(most, sequence.request.max_new_tokens - len(sequence.ids) - 1)
        fits = sequence.num_computed == sequence.length - 1 and left > 0
        room[sequence] = left if fits and pool.reserve(sequence.table, sequence.length + left) else 0
    return room
