"""Score texts by a language model of your own (report §2.1, step 5), in bits per byte, through `Engine.score`.

    scorer = Perplexity("runs/nano/base")
    scorer.bits_per_byte(["A text.", ""])     -> [2.31, None]

Bits per byte, and not loss per token, so that models with other vocabularies can be compared and a limit stays what it
was. It is still a measure of one language at a time: a Han character has three bytes, so Chinese needs fewer bits for
each. A text is judged by its first 1024 tokens (fewer where the model's context is shorter), all but the first one. One
thread computes, whatever the process has: several may add numbers in another order, and the corpus of one worker would
not be that of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path

from qwenkit.platform import torch_threads

TOKENS = 1024
_PER_TOKEN = 16  # characters of a text that are read per token; natural text has fewer


class Perplexity:
    """Scores texts by the model in a folder. Torch is loaded with the object, not with this module."""

    def __init__(self, folder: Path | str) -> None:
        """Load the model and its tokenizer from a folder."""
        from qwenkit.chat import load_tokenizer
        from qwenkit.inference import Engine

        self._tok = load_tokenizer(folder)
        self._engine = Engine(folder, self._tok)
        self._tokens = min(TOKENS, self._engine.max_length)

    def bits_per_byte(self, texts: Sequence[str]) -> list[float | None]:
        """Return the bits per UTF-8 byte of each text under the model; None for a text of fewer than two tokens.

        They are the tokens' negative log-likelihood in nats, divided by ln 2 and by the number of their bytes."""
        heads = (text[: self._tokens * _PER_TOKEN] for text in texts)
        rows = [ids[: self._tokens] for ids in self._tok.encode_batch(heads, threads=1)]
        wanted = [row for row in rows if len(row) > 1]
        with torch_threads(1):
            scores = iter(self._engine.score(wanted))
        return [self._bits(row, next(scores)) if len(row) > 1 else None for row in rows]

    def _bits(self, row: list[int], logprobs: list[float]) -> float:
        return -sum(logprobs) / log(2) / max(1, len(self._tok.decode_bytes(row[1:])))
