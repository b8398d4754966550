"""Texts to counted pre-tokens, on all cores: training and extending a vocabulary start from them (report §2.2).

    pieces = count_pieces(texts, PATTERNS["qwen"], workers=2, progress=print)
    pieces.texts[0], pieces.counts[0]

No merge crosses the border of a piece, so a text is to BPE nothing but its pieces and how often each occurs. They come
out sorted: neither the order of the texts nor the number of workers can be seen in them.

Caveat: workers are forked, so they start at once and take nothing of the caller's with them; where a system cannot
fork, one process does all.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import regex

from qwenkit.errors import UserError
from qwenkit.tokenizer.core import normalize
from qwenkit.workers import end_with_parent

Progress = Callable[[int, int | None], None]
"""Called with (done, total); the total is None where it is unknown."""

_BATCH = 1 << 20
"""Characters a worker is given at once: enough to be worth sending, few enough that all workers end together."""


class Pieces(NamedTuple):
    """The distinct pre-tokens in the order of their code points, and how often each occurs."""

    texts: list[str]
    counts: npt.NDArray[np.int64]


def count_pieces(
    texts: Iterable[str], pattern: str, nfc: bool = True, workers: int = 1, progress: Progress | None = None
) -> Pieces:
    """Return every pre-token that the pattern (a regular expression) cuts the texts into, counted. Progress is in
    texts."""
    total = len(texts) if isinstance(texts, list | tuple) else None
    counts: Counter[str] = Counter()
    done = 0
    for size, counter in _counted(_batches(texts), pattern, nfc, workers):
        counts.update(counter)
        done += size
        if progress is not None:
            progress(done, total)
    names = sorted(counts)
    return Pieces(names, np.fromiter((counts[name] for name in names), np.int64, len(names)))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _counted(batches: Iterator[list[str]], pattern: str, nfc: bool, workers: int) -> Iterator[tuple[int, Counter[str]]]:
    """Yield (number of texts, their pre-tokens) of each batch, from several processes; at most two batches a worker are
    pending."""
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from ((len(batch), _count(batch, pattern, nfc)) for batch in batches)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, fork, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        waiting = deque(
            (len(batch), pool.submit(_count, batch, pattern, nfc)) for batch in islice(batches, 2 * workers)
        )
        while waiting:
            size, future = waiting.popleft()
            yield size, future.result()
            waiting.extend((len(batch), pool.submit(_count, batch, pattern, nfc)) for batch in islice(batches, 1))


def _count(batch: list[str], pattern: str, nfc: bool) -> Counter[str]:
    """Return the pre-tokens of a batch. A pattern that drops text is refused: dropped text could never be encoded."""
    cut = regex.compile(pattern)
    counts: Counter[str] = Counter()
    for text in batch:
        text = normalize(text, nfc)
        pieces = cut.findall(text)
        if sum(map(len, pieces)) != len(text):
            raise UserError("this pattern leaves out text", where=_dropped(cut, text), expected="a match everywhere")
        counts.update(pieces)
    if "" in counts:
        raise UserError("this pattern matches nothing at all somewhere", expected="at least a character in each match")
    return counts


def _dropped(cut: regex.Pattern[str], text: str) -> str:
    """Return the first stretch that no match covers, in its context."""
    at = 0
    for match in cut.finditer(text):
        if match.start() > at:
            break
        at = match.end()
    return f"{text[max(0, at - 10) : at]!r} followed by {text[at : at + 10]!r}"
