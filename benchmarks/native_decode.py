"""Decode by native code beside the eager model, as tokens a second and as share of what memory gives.

    python benchmarks/native_decode.py [--model FOLDER] [--kinds bfloat16 int4] [--threads 2] [--busy] [--prefill]

Shapes: a model folder (or the shape of a small model of 135M), and Qwen2-0.5B with random weights. A row is one token
of its own sequence behind 128 others; medians of warm steps, head included (`--best`: the best step, for a machine that
others use). The share is that of the bandwidth of a plain read by the same threads just before. The eager model has no
context here, so its figures are a little too high. `--busy` measures batch 1 again while another program keeps as many
threads busy; `--prefill` reads a prompt of 512 tokens.
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


def seconds_of(job: Callable[[], Any], best: bool, seconds: float = SECONDS) -> float:
    """The median of warm runs, or the best of them."""
    job()
    runs, end = [], time.perf_counter() + seconds
    while len(runs) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        job()
        runs.append(time.perf_counter() - start)
    return min(runs) if best else statistics.median(runs)


def bandwidth(threads: int, data: torch.Tensor) -> float:
    """Bytes a second of a plain read: the best of many."""
    read = partial(library().qk_read, data.data_ptr(), data.nbytes, threads)
    return data.nbytes / seconds_of(read, best=True, seconds=0.5)


def make(config: ModelConfig, folder: Path | None, kind: str) -> Transformer:
    model = init_weights(Transformer(config), seed=0) if folder is None else load_model(folder, dtype="float32")
    if kind in SCHEMES:
        model = quantize(model, SCHEMES[kind], None)
    return (model if kind == "float32" else model.bfloat16()).eval()


def matrices_of(model: Transformer) -> list[nn.Module]:
    """The layers whose weights every step reads."""
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, nn.Linear | QuantizedLinear)]
    return [getattr(model, "lm_head", model.model.embed_tokens), *layers]


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


def decode(name: str, model: Transformer, kind: str, given: argparse.Namespace, data: torch.Tensor) -> None:
    """Print a line of the table for each number of rows."""
    total = sum(map(stored_bytes, matrices_of(model)))
    for rows in given.rows:
        read = bandwidth(given.threads, data)
        seconds = seconds_of(Rows(model, rows, CONTEXT, given.threads).step, given.best)
        eager = "-" if given.no_eager else f"{rows / seconds_of(partial(eager_step, model, rows), given.best):.1f}"
        line = f"{name} | {kind} | {rows} | {rows / seconds:.1f} | {eager} | {read / 1e9:.1f}"
        print(f"| {line} | {total / read / seconds:.2f} |", flush=True)


def beside_a_busy_program(model: Transformer, threads: int) -> float:
    """Return the share of the idle speed; means, since medians hide the waits."""
    step = Rows(model, 1, CONTEXT, threads).step
    idle = mean_seconds(step)
    with busy_program(threads):
        return idle / mean_seconds(step)


def mean_seconds(job: Callable[[], Any], seconds: float = 4.0) -> float:
    job()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        job()
        count += 1
    return (time.perf_counter() - start) / count


def prompts_read(model: Transformer, given: argparse.Namespace) -> tuple[float, float]:
    """Return the tokens a second of a prompt, by native code and by the eager model."""
    table, positions = torch.arange(PROMPT // 16)[None], torch.arange(PROMPT)
    ids, first, last = torch.ones(PROMPT).long(), torch.zeros(PROMPT), torch.tensor([PROMPT - 1])
    decoder = Rows(model, 1, PROMPT, given.threads).decoder
    native = seconds_of(lambda: decoder.step(ids, positions, table, sequences_N=first, wanted_W=last), given.best)
    eager = float("inf") if given.no_eager else seconds_of(lambda: model.hidden(ids[None]), given.best)
    return PROMPT / native, PROMPT / eager


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder in place of the small shape")
    parser.add_argument("--shapes", nargs="+", default=["small", "0.5B"])
    parser.add_argument("--kinds", nargs="+", default=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag in ("--busy", "--prefill", "--no-eager", "--best"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = torch.ones(2**26, dtype=torch.int64)
    print("| shape | weights | rows | tokens/s | eager | read GB/s | share |\n|---|---|---|---|---|---|---|")
    for name in given.shapes:
        for kind in given.kinds:
            folder = given.model if name == "small" else None
            model = make(SMALL if name == "small" else HALF, folder, kind)
            decode(name, model, kind, given, data)
            if given.busy:
                print(f"beside a busy program: {beside_a_busy_program(model, given.threads):.2f} of the idle speed")
            if given.prefill:
                print("prompt of {}: native {:.0f}, eager {:.0f} tokens/s".format(PROMPT, *prompts_read(model, given)))


if __name__ == "__main__":
    main()
