"""Is bf16 faster than float32 on this CPU? A step of `nano`'s base model, both in turn, in one process.

    python benchmarks/precision.py
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python benchmarks/precision.py                    # as without bf16 instructions
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/precision.py  # as without AVX-512

Processor time, so that other programs on the machine disturb little. The last line is float32's over bf16's.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from qwenkit import platform
from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.model import ModelConfig, Transformer, init_weights
from qwenkit.training import Batches, RunState, build_optimizer, build_schedule, train_update

SHAPE = ModelConfig(
    vocab_size=1544, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
    tie_word_embeddings=True,
)  # fmt: skip
REPEATS = 15


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    store = InMemoryTokenDataset(Example(str(n), random.integers(0, 1500, 200), [1.0] * 200) for n in range(400))
    batches = Batches(store, EpochOrder(store.digest, 0, store.lengths, 256, True), 8)
    ways = {}
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        model = init_weights(Transformer(SHAPE), seed=0)
        optimizer = build_optimizer(model, "muon", 0.02, 3e-3)
        update = train_update(model, optimizer, batches, build_schedule("constant", REPEATS), dtype=dtype)
        ways[name] = (update, RunState({"model": model}), list[float]())
    for repeat in range(REPEATS + 3):
        for update, state, seconds in ways.values():
            started = time.process_time()
            update(state, repeat)
            seconds.append(time.process_time() - started)
    print(f"{platform.cpu_model()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread")
    medians = {name: statistics.median(seconds[3:]) for name, (*_, seconds) in ways.items()}
    for name, (*_, seconds) in ways.items():
        print(
            f"{name}: {1000 * medians[name]:.0f} ms a step ({1000 * min(seconds[3:]):.0f} to {1000 * max(seconds):.0f})"
        )
    print(f"ratio {medians['fp32'] / medians['bf16']:.2f}")


if __name__ == "__main__":
    main()
