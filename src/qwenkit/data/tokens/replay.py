"""Replay: documents of the pretraining corpus that are mixed into a later training (ours).

    replay = tokenize_replay(corpus, tokenizer, folder, share=0.2, ...)
    dataset = open_chats(rows, replay.documents, replay.numbers)
    replay_overlap(replay, tok, tests)      # how many of them overlap a test

Documents of the validation split are never drawn: the base model is measured on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qwenkit import rng

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qwenkit.chat import ChatTokenizer
    from qwenkit.data.tokens.shards import Shards
    from qwenkit.data.tokens.tokenize import Digested


class Replay(NamedTuple):
    """The training split of a corpus, and the numbers of the documents in it that are replayed, in the order of a draw.

    `too_long` is how many of those drawn are longer than a row and were passed over.
    """

    documents: Shards | None = None
    numbers: Sequence[int] = ()
    too_long: int = 0

    def summary_notes(self) -> list[str]:
        """Return what the summary says besides: one sentence where documents were drawn and none of them fits."""
        if len(self.numbers) or not self.too_long:
            return []
        return [f"nothing replayed: all {self.too_long} documents drawn are longer than a row"]


def tokenize_replay(
    corpus: Digested,
    tokenizer: Digested,
    folder: Path,
    *,
    share: float,
    other_tokens: int,
    seq_length: int,
    seed: int,
    validation_share: float,
    validation_seed: int,
    workers: int = 1,
    progress: Callable[..., None] | None = None,
) -> Replay:
    """Tokenize a corpus as pretraining does, and draw documents until they make up `share` of all tokens.

    `other_tokens` are those of the data that the documents are mixed into. Documents of the validation split, which the
    base model was measured on, are never drawn.
    """
    from qwenkit.data.tokens.tokenize import tokenize

    documents = tokenize(
        corpus, tokenizer, validation_share, validation_seed, folder, workers=workers, progress=progress
    ).dataset
    budget = other_tokens * share / (1 - share)
    return Replay(documents, *draw_documents(documents.lengths, seq_length, budget, seed))


def draw_documents(
    lengths: npt.NDArray[np.int64], seq_length: int, budget: float, seed: int
) -> tuple[Sequence[int], int]:
    """Return the numbers of documents, in the order of a random draw, until those of at most `seq_length` tokens
    reach the budget of tokens; and how many of those drawn are longer.

    `lengths` [documents] are in tokens."""
    import numpy as np

    order = rng.permutation(seed, len(lengths))
    fits = lengths[order] <= seq_length
    stop = int(np.searchsorted(np.cumsum(np.where(fits, lengths[order], 0)), budget)) + 1
    return order[:stop][fits[:stop]].tolist(), int((~fits[:stop]).sum())


def replay_overlap(replay: Replay, tok: ChatTokenizer, tests: Path) -> int:
    """Return how many replayed documents share a 13-gram with a test question."""
    from qwenkit.data.decontamination import overlap_13gram
    from qwenkit.data.test_sets import question_texts

    documents, numbers = replay.documents, replay.numbers
    if documents is None or not len(numbers):
        return 0
    texts = (tok.decode(documents.tokens(number, 0, int(documents.lengths[number])).tolist()) for number in numbers)
    return overlap_13gram(texts, question_texts(tests))
