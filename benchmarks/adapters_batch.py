"""What adapters of their own cost the requests of one batch: 16 answers with 8 adapters beside 16 of the bare model.

    python -m benchmarks.adapters_batch MODEL [--adapters 8] [--rank 16] [--batch 16] [--tokens 64]

Two engines of one folder take turns, step by step, at the same prompts, so what else the machine does meets both alike.
Every projection of every layer has an adapter, with random A and B. A step computes one token of each answer. Printed
are the median and the shortest step of each, and the ratio: the median over pairs of steps that follow each other.
Caveat: A and B of all adapters are read in each step, so the ratio depends on the machine's memory as much as on its
arithmetic.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from qwenkit import load_model
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model.adapter_folder import save_adapter
from qwenkit.model.lora import add_adapter, shared_copy
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.trainable import trainable_state


def write_adapters(model_path: str, folder: Path, count: int, rank: int) -> None:
    """Write adapters with random A and B, called a0, a1, ..."""
    model = load_model(model_path)
    for number in range(count):
        adapted = add_adapter(shared_copy(model), LoRAConfig(rank=rank), seed=number)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in trainable_state(adapted).values():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        save_adapter(adapted, folder / f"a{number}", model_path)


def begin(engine: Engine, adapters: list[str | None], tokens: int) -> None:
    """Queue an answer of so many tokens for each adapter, and read the prompts."""
    params = SamplingParams.plain(temperature=0, max_tokens=tokens + 1, ignore_eos=True, logprobs=False)
    for number, adapter in enumerate(adapters):
        ids = [(7919 * (number + 1) * (place + 1)) % engine.model.config.vocab_size for place in range(16)]
        engine.submit(ids, params, adapter=adapter)
    engine.step()


def seconds_of_a_step(engine: Engine) -> float:
    """Return how long one step takes."""
    start = time.perf_counter()
    engine.step()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, default in (("adapters", 8), ("rank", 16), ("batch", 16), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    kv_tokens = asked.batch * (asked.tokens + 64)
    bare = Engine(asked.model, kv_tokens=kv_tokens)
    adapted = Engine(asked.model, kv_tokens=kv_tokens, max_adapters=asked.adapters, max_adapter_rank=asked.rank)
    with tempfile.TemporaryDirectory() as folder:
        write_adapters(asked.model, Path(folder), asked.adapters, asked.rank)
        for number in range(asked.adapters):
            adapted.load_adapter(f"a{number}", Path(folder, f"a{number}"))
    begin(bare, [None] * asked.batch, asked.tokens)
    begin(adapted, [f"a{i % asked.adapters}" for i in range(asked.batch)], asked.tokens)
    pairs = [(seconds_of_a_step(bare), seconds_of_a_step(adapted)) for _ in range(asked.tokens)][2:]  # warm by then
    print(f"{asked.model}: {asked.batch} answers, {asked.adapters} adapters of rank {asked.rank}, by "
          f"{type(bare.runner.forward).__name__}, {torch.get_num_threads()} threads, {len(pairs)} pairs")  # fmt: skip
    for name, times in (("bare model", [a for a, _ in pairs]), ("adapters", [b for _, b in pairs])):
        middle, least = statistics.median(times), min(times)
        print(f"{name:>12}: a step takes {1e3 * middle:6.1f} ms in the median, {1e3 * least:6.1f} at best; "
              f"{asked.batch / middle:.0f} tokens/s")  # fmt: skip
    ratios = sorted(b / a for a, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    shortest = min(b for _, b in pairs) / min(a for a, _ in pairs)
    print(f"ratio: {statistics.median(ratios):.3f} (the middle half from {low:.3f} to {high:.3f}); "
          f"of the shortest steps {shortest:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
