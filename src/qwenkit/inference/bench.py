"""How fast this machine reads and writes with a model, beside what the machine could do at most.

    report = bench(engine, quick=False, progress=print)
    report.rows[0].tokens_per_second, report.rows[0].share
    report.cache.cold_seconds, report.cache.warm_seconds

Reading a prompt (prefill) is bound by arithmetic: the rate of a large matrix product of torch, in float32 or in the
model's dtype, over the operations of a token. Writing (decode) is bound by memory: a step has to read all weights once,
for however many answers, so the bound is the rate of a plain read of memory over their bytes. Both bounds are measured
in the same run, with the same threads, and are the best of several tries; a machine that is busy shows in them too.

What is timed is the engine itself: greedy, without log-probabilities, on random ids, so that no prompt was read before.
A row is the median of its repetitions, one where a prompt takes long.

Caveats: on a CPU only. Attention over the cache and its bytes are not part of the decode bound: they count where
prompts are long. Of a mixture of experts a step reads what its tokens choose, so its decode has no bound here.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from qwenkit.errors import UserError
from qwenkit.inference.engine import Engine
from qwenkit.inference.sampling_params import SamplingParams
from qwenkit.model import ModelConfig, Transformer
from qwenkit.platform import available_memory, cpu_model, has_bf16

PREFILL = (128, 512)
"""Lengths of prompts, in tokens."""
DECODE = (1, 4, 16)
"""Answers that are written together."""
PREFIX = 1000
"""Tokens of the prefix that prompts share, at most."""

_PROMPT, _QUESTION = 16, 16  # tokens of a prompt before the decode steps, and behind a shared prefix
_SIDE = 1024  # rows and columns of the matrices whose product is the bound of arithmetic
_READ_BYTES = 512_000_000  # more than the caches of a processor hold
_SECONDS, _QUICK_SECONDS = 1.5, 0.25  # of each measurement


class Progress(Protocol):
    """What is told how far the work is: steps done, steps in all, and what is measured now."""

    def __call__(self, done: int, total: int, note: str, /) -> None:
        """Show it."""
        ...


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: Literal["prefill", "decode"]
    size: int
    """Tokens of the prompt, or answers that are written together."""
    tokens_per_second: float
    seconds: float
    """Of the whole prompt, or of one step."""
    bound: float | None
    """Tokens a second that the machine could reach at most; None where that is not known."""

    @property
    def share(self) -> float | None:
        """Return which share of the bound is reached."""
        return None if self.bound is None else self.tokens_per_second / self.bound


@dataclass(frozen=True)
class CacheFigures:
    """What the cache of keys and values holds, and what it saves."""

    tokens: int | None
    """How many tokens it holds; None where it grows with what is written."""
    bytes_per_token: int
    prefix: int
    """Tokens of the prefix behind which the time to the first token was taken."""
    cold_seconds: float
    """To the first token where the prefix had not been read before."""
    warm_seconds: float
    """The same where another prompt had begun with it."""


@dataclass(frozen=True)
class BenchReport:
    """All figures of one run."""

    processor: str
    threads: int
    parameters: int
    dtype: str
    weight_bytes: int
    """Bytes of weights that one step reads."""
    flops: float
    """Floating-point operations a second of the best matrix product."""
    bandwidth: float
    """Bytes a second of the best plain read."""
    rows: list[Row]
    cache: CacheFigures


def bench(engine: Engine, *, quick: bool = False, progress: Progress = lambda done, total, note: None) -> BenchReport:
    """Measure an engine that has no pending requests. `quick` repeats less and asks shorter prompts. Raises a
    `UserError` for a model that has too few positions."""
    config, seconds = engine.model.config, _QUICK_SECONDS if quick else _SECONDS
    lengths = _fitting(PREFILL[:1] if quick else PREFILL, config.max_length - 1)
    prefix = min(PREFIX // 4 if quick else PREFIX, config.max_length - _QUESTION - 1)
    if not lengths or prefix < 1 or config.max_length < 2 * _PROMPT:
        raise UserError(f"the model has {config.max_length} positions", expected=f"{2 * _PROMPT} or more")
    steps = itertools.count()
    total = len(lengths) + len(DECODE) + 4

    def say(note: str) -> None:
        progress(next(steps), total, note)

    say("warming up")
    timer = _Timer(engine, seconds)
    timer.prefill(_PROMPT)
    say("bounds of this machine")
    bounds = _bounds(engine.model, seconds)
    timed: dict[tuple[Literal["prefill", "decode"], int], tuple[float, float]] = {}
    for length in lengths:
        say(f"prefill of {length} tokens")
        timed["prefill", length] = timer.prefill(length)
    for batch in DECODE:
        say(f"decode, batch {batch}")
        timed["decode", batch] = timer.decode(batch)
    say(f"a shared prefix of {prefix} tokens")
    cache = timer.cache_figures(prefix)
    say("bounds of this machine, again")
    flops, bandwidth = (max(pair) for pair in zip(bounds, _bounds(engine.model, seconds)))
    progress(total, total, "done")
    rows = [
        Row(what, size, rate, took, _bound(engine.model, what, size, flops, bandwidth))
        for (what, size), (rate, took) in timed.items()
    ]
    dtype = str(_table(engine.model).dtype).removeprefix("torch.")
    return BenchReport(cpu_model(), torch.get_num_threads(), config.parameters, dtype, weight_bytes(engine.model),
                       flops, bandwidth, rows, cache)  # fmt: skip


class _Timer:
    """Measures one engine; no prompt is asked twice."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.engine, self.seconds = engine, seconds
        self._generator = torch.Generator().manual_seed(0)

    def prefill(self, length: int) -> tuple[float, float]:
        """Return the tokens a second and the seconds of reading a prompt."""
        median = statistics.median(_repeated(lambda: self._first_token(self._ids(length)), self.seconds))
        return length / median, median

    def decode(self, batch: int) -> tuple[float, float]:
        """Return the tokens a second, of all answers together, and the seconds of one step."""
        room = self.engine.max_length - _PROMPT
        params = _params(min(256, room))
        handles = {self.engine.submit(self._ids(_PROMPT), params): 0 for _ in range(batch)}
        while not all(handles.values()) and self.engine.has_work:  # until each has its first token
            for delta in self.engine.step():
                handles[delta.handle] += len(delta.ids)
        times, tokens, begun = [], 0, time.perf_counter()
        while self.engine.has_work and (len(times) < 2 or time.perf_counter() - begun < self.seconds):
            start = time.perf_counter()
            deltas = self.engine.step()
            times.append(time.perf_counter() - start)
            tokens += sum(len(delta.ids) for delta in deltas)
            if any(delta.output is not None for delta in deltas):
                break
        for handle in handles:
            self.engine.abort(handle)
        while self.engine.has_work:
            self.engine.step()
        median = statistics.median(times)
        return tokens / len(times) / median, median

    def cache_figures(self, prefix: int) -> CacheFigures:
        """Return what the cache holds, and the time to the first token behind a prefix, new and known."""
        cold = _repeated(lambda: self._first_token(self._ids(prefix + _QUESTION)), self.seconds)
        shared = self._ids(prefix)
        self._first_token(shared + self._ids(_QUESTION))
        warm = _repeated(lambda: self._first_token(shared + self._ids(_QUESTION)), self.seconds)
        config = self.engine.model.config
        itemsize = 1 if self.engine.runner.kv_cache == "int8" else _table(self.engine.model).element_size()
        per_token = 2 * config.num_hidden_layers * config.kv_heads * config.head_size * itemsize
        return CacheFigures(getattr(self.engine, "kv_tokens", None), per_token, prefix,
                            statistics.median(cold), statistics.median(warm))  # fmt: skip

    def _ids(self, count: int) -> list[int]:
        """Return ids that were not asked before."""
        return torch.randint(self.engine.model.config.vocab_size, (count,), generator=self._generator).tolist()

    def _first_token(self, ids: list[int]) -> None:
        self.engine.generate([ids], _params(1))


def weight_bytes(model: Transformer) -> int:
    """Return the bytes of weights that one step reads: all but the table of the embedding, of which it reads a few rows
    unless the head is the same table."""
    tensors = [*model.parameters(), *model.buffers()]
    unread = 0 if model.config.tie_word_embeddings else _bytes(_table(model))
    return sum(map(_bytes, tensors)) - unread


def prefill_flops(config: ModelConfig, tokens: int) -> float:
    """Return the floating-point operations of reading a prompt and giving its next token: two for each parameter that a
    token meets, attention to all earlier tokens, and the head once."""
    if config.experts is not None:  # a token meets the experts that it chooses
        config = replace(config, experts=replace(config.experts, num_experts=config.experts.num_experts_per_tok))
    table = config.vocab_size * config.hidden_size
    blocks = config.parameters - table * (1 if config.tie_word_embeddings else 2)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_size * tokens * (tokens + 1)
    return 2.0 * blocks * tokens + attention + 2.0 * table


def _bound(model: Transformer, what: str, size: int, flops: float, bandwidth: float) -> float | None:
    """Return the tokens a second that the machine could reach."""
    if what == "prefill":
        return size * flops / prefill_flops(model.config, size)
    return None if model.config.experts is not None else size * bandwidth / weight_bytes(model)


def _bounds(model: Transformer, seconds: float) -> tuple[float, float]:
    """Return the operations a second of a matrix product, in float32 or the model's dtype, whichever is faster, and the
    bytes a second of a read. A CPU that has no products in bf16 emulates them, which bounds nothing."""
    dtypes = {torch.float32, _table(model).dtype} if has_bf16("cpu") else {torch.float32}
    with torch.inference_mode():
        squares = [torch.randn(_SIDE, _SIDE).to(dtype) for dtype in dtypes]
        product = min(min(_repeated(lambda a=a: a @ a, seconds / 2 / len(squares), 3)) for a in squares)
        size = min(_READ_BYTES, (available_memory() or _READ_BYTES * 8) // 8)
        numbers = torch.ones(1024, size // 4096)
        read = min(min(_repeated(lambda read=read: read(numbers), seconds / 4, 3)) for read in _reads())
    return 2 * _SIDE**3 / product, _bytes(numbers) / read


def _reads() -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield ways to read every number of a matrix once; which is the fastest depends on the processor."""
    yield torch.sum
    yield lambda numbers: torch.mv(numbers, numbers[0])


def _repeated(function: Callable[[], object], seconds: float, at_least: int = 1) -> list[float]:
    """Return the seconds that each call took, of calls for at least so many seconds in all."""
    times: list[float] = []
    while len(times) < at_least or sum(times) < seconds:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def _fitting(sizes: tuple[int, ...], most: int) -> list[int]:
    """Return the sizes that a model has positions for; where none fits, the most that it has."""
    return [size for size in sizes if size <= most] or [size for size in (most,) if size > 0]


def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams.plain(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, logprobs=False)


def _table(model: Transformer) -> Tensor:
    return model.model.embed_tokens.weight


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
