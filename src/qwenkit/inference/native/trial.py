"""Which way of computing is faster on this machine: a short trial, for engines whose bits may depend on the machine.

    ways = choose_ways(decoder)      # Ways(decode="native", prefill="eager")

A trial takes some steps' time. Its choice depends on a clock, so a run that must give the same bits again does not use
it: the native decoder, where it fits, computes prompts and answers alike. Quantized weights are held in the forms that
the chosen ways read, which are two where the ways differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch

from qwenkit.inference.native.decoder import NativeDecoder
from qwenkit.model.gptq_checkpoint import quantized_layers

Way = Literal["native", "eager"]
_PROMPT = 64  # tokens of the prompt that a trial reads
_RUNS = 3


class Ways(NamedTuple):
    """How tokens are computed: one new token of a sequence, and prompts."""

    decode: Way
    prefill: Way


def fastest(ways: Mapping[Way, Callable[[], object]], runs: int = _RUNS) -> Way:
    """Return the way whose best of some runs, after one that warms up, took the shortest time. Ways take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for run in range(runs + 1):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            if run:
                best[way] = min(best[way], time.perf_counter() - start)
    return min(best, key=best.__getitem__)


@torch.no_grad()
def choose_ways(decoder: NativeDecoder) -> Ways:
    """Return the faster way to decode and to read prompts, on a cache of a few blocks that is thrown away after."""
    model = decoder.model
    config, weight = model.config, model.model.embed_tokens.weight
    slots = _PROMPT
    cache = torch.zeros(2, config.num_hidden_layers, config.kv_heads, slots, config.head_size, dtype=weight.dtype)
    own = decoder.over(list(cache[0]), list(cache[1]))
    table_1n, positions_N = torch.arange(slots // 16)[None], torch.arange(_PROMPT)
    ids_N = torch.zeros(_PROMPT, dtype=torch.long)  # also the number of the sequence of each row

    def native(count: int) -> object:
        rows = slice(_PROMPT - count, None)
        last_1 = torch.tensor([count - 1])
        return own.step(ids_N[rows], positions_N[rows], table_1n, sequences_N=ids_N[rows], wanted_W=last_1)

    def eager(count: int) -> object:
        return model.head(model.hidden(ids_N[None, :count])[:, -1])

    def chosen(count: int) -> Way:
        return fastest({"native": lambda: native(count), "eager": lambda: eager(count)})

    ways = Ways(chosen(1), chosen(_PROMPT))
    if "eager" not in ways:
        for layer in quantized_layers(model).values():
            layer.forget_kernel()
    return ways
