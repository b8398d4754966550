"""How likely a model of one's own finds a text (section 2.1, step 5), in bits per byte, through `Engine.score`.

    scorer = Perplexity("runs/nano/base")
    scorer.bits_per_byte(["A text.", ""])     -> [2.31, None]

Bits per byte, and not loss per token, so that models with other vocabularies can be compared and a limit stays what it
was. It is still a measure of one language at a time: a Han character has three bytes, so Chinese needs fewer bits for
each. A text is judged by its first 1024 tokens (fewer where the model's context is shorter), all but the first one. One
thread computes, whatever the process has: several may add numbers in another order, and the corpus of one worker would
not be that of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import log
from pathlib import Path

TOKENS = 1024
_PER_TOKEN = 16  # characters of a text that are looked at for each; more than natural text has


class Perplexity:
    """Scores texts by the model in a folder. Torch is loaded with it, not with this module."""

    def __init__(self, folder: Path | str) -> None:
        from qwenkit.chat import load_tokenizer
        from qwenkit.inference import Engine

        self._tok = load_tokenizer(folder)
        self._engine = Engine(folder, self._tok)
        self._tokens = min(TOKENS, self._engine.max_length)

    def bits_per_byte(self, texts: Sequence[str]) -> list[float | None]:
        """Return each text's bits per byte under the model; None where it has fewer than two tokens."""
        heads = (text[: self._tokens * _PER_TOKEN] for text in texts)
        rows = [ids[: self._tokens] for ids in self._tok.encode_batch(heads, threads=1)]
        wanted = [row for row in rows if len(row) > 1]
        with _one_thread():
            scores = iter(self._engine.score(wanted))
        return [self._bits(row, next(scores)) if len(row) > 1 else None for row in rows]

    def _bits(self, row: list[int], logprobs: list[float]) -> float:
        return -sum(logprobs) / log(2) / max(1, len(self._tok.decode_bytes(row[1:])))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
