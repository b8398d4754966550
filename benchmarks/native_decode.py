"""Decode by native code beside the eager model, as tokens a second and as share of what memory gives.

    python benchmarks/native_decode.py [--model FOLDER] [--kinds bfloat16 int4] [--threads 2] [--busy] [--prefill]

Shapes: a model folder (or the shape of a small model of 135M), and Qwen2-0.5B with random weights. A row is one token
of its own sequence behind 128 others; medians of warm steps, head included. The bound is the bytes of all weights over
the bandwidth of a plain read by the same threads in the same run. The eager model has no context here, so its figures
are a little too high. `--busy` measures batch 1 again while another program keeps as many threads busy; `--prefill`
reads a prompt of 512 tokens.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qwenkit.inference.native import NativeDecoder
from qwenkit.inference.native.library import library
from qwenkit.inference.native.matrices import stored_bytes
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model
from qwenkit.model.gptq import quantize
from qwenkit.model.quantized_linear import QuantConfig, QuantizedLinear

CONTEXT, PROMPT, SECONDS = 128, 512, 2.0
SMALL = ModelConfig(vocab_size=49216, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)  # fmt: skip
HALF = ModelConfig(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                   num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip
SCHEMES = {"int8": QuantConfig(8, -1), "int4": QuantConfig(4, 64)}


def median_seconds(job: Callable[[], Any], seconds: float = SECONDS) -> float:
    job()
    found, end = [], time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        job()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def bandwidth(threads: int) -> float:
    """Bytes a second of a plain read: the best of eight."""
    data, best = torch.ones(2**26, dtype=torch.int64), float("inf")
    for _ in range(8):
        start = time.perf_counter()
        library().qk_read(data.data_ptr(), data.nbytes, threads)
        best = min(best, time.perf_counter() - start)
    return data.nbytes / best


def make(config: ModelConfig, folder: Path | None, kind: str) -> Transformer:
    model = init_weights(Transformer(config), seed=0) if folder is None else load_model(folder, dtype="float32")
    if kind in SCHEMES:
        model = quantize(model, SCHEMES[kind], None)
    return (model if kind == "float32" else model.bfloat16()).eval()


def weight_bytes(model: Transformer) -> int:
    head = getattr(model, "lm_head", model.model.embed_tokens)
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, nn.Linear | QuantizedLinear)]
    return sum(map(stored_bytes, [head, *layers]))


def eager_step(model: Transformer, rows: int) -> torch.Tensor:
    return model.head(model.hidden(torch.ones(rows, 1, dtype=torch.long))).float()


class Rows:
    """A decoder and a cache for some sequences."""

    def __init__(self, model: Transformer, rows: int, length: int, threads: int) -> None:
        config, dtype = model.config, model.model.embed_tokens.weight.dtype
        blocks = -(-length // 16)
        shape = (config.num_hidden_layers, config.kv_heads, rows * blocks * 16, config.head_size)
        keys, values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.decoder = NativeDecoder(model, list(keys), list(values), threads)
        self.tables = torch.arange(rows * blocks, dtype=torch.int32).view(rows, blocks)
        self.ids, self.positions = torch.ones(rows, dtype=torch.long), torch.full((rows,), length - 1)

    def step(self) -> torch.Tensor:
        return self.decoder.step(self.ids, self.positions, self.tables)


@contextmanager
def busy_program(threads: int) -> Iterator[None]:
    """Another program that keeps so many threads busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(threads)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(name: str, model: Transformer, kind: str, given: argparse.Namespace, read: float) -> None:
    total = weight_bytes(model)
    for rows in given.rows:
        seconds = median_seconds(Rows(model, rows, CONTEXT, given.threads).step)
        eager = "-"
        if not given.no_eager:
            eager = f"{rows / median_seconds(partial(eager_step, model, rows)):.1f}"
        share = total / read / seconds
        print(f"| {name} | {kind} | {rows} | {rows / seconds:.1f} | {eager} | {share:.2f} |", flush=True)
    if given.busy:
        step = Rows(model, 1, CONTEXT, given.threads).step
        idle = median_seconds(step)
        with busy_program(given.threads):
            start, count = time.perf_counter(), 0
            while time.perf_counter() < start + 4:  # a mean: medians hide the waits
                step()
                count += 1
            beside = 4 / count
        print(f"\nbeside a busy program: {idle / beside:.2f} of the idle speed\n", flush=True)
    if given.prefill:
        table, positions = torch.arange(PROMPT // 16)[None], torch.arange(PROMPT)
        ids, first, last = torch.ones(PROMPT).long(), torch.zeros(PROMPT), torch.tensor([PROMPT - 1])
        decoder = Rows(model, 1, PROMPT, given.threads).decoder
        native = median_seconds(lambda: decoder.step(ids, positions, table, sequences_N=first, wanted_W=last))
        eager = float("inf") if given.no_eager else median_seconds(lambda: model.hidden(ids[None]))
        print(f"\nprompt of {PROMPT}: native {PROMPT / native:.0f}, eager {PROMPT / eager:.0f} tokens/s\n", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder in place of the small shape")
    parser.add_argument("--shapes", nargs="+", default=["small", "0.5B"])
    parser.add_argument("--kinds", nargs="+", default=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag in ("--busy", "--prefill", "--no-eager"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    read = bandwidth(given.threads)
    print(f"a plain read with {given.threads} threads: {read / 1e9:.1f} GB/s\n")
    print("| shape | weights | rows | tokens/s | eager | share of the bandwidth |\n|---|---|---|---|---|---|")
    for name in given.shapes:
        for kind in given.kinds:
            folder = given.model if name == "small" else None
            measure(name, make(SMALL if name == "small" else HALF, folder, kind), kind, given, read)


if __name__ == "__main__":
    main()
