"""The stock training step beside a plain step of `transformers`: tokens a second and peak memory, at two vocabularies.

    python benchmarks/training_step.py [--repeats 5] [--steps 4] [--precision bf16] [--vocab 4096,151936] [--out FILE]

The model is 256 wide with 6 layers; a step has 4 rows of 512 tokens, AdamW and clipped gradients. Both sides keep
float32 weights and compute products in `--precision` under autocast; transformers has its fused attention (`sdpa`) and
the loss of its own head, and torch's fused AdamW. Every measurement is a process of its own, and they alternate, so
that a machine that slows down slows all of them. A variant that does not run is an error. The bound is the time of the
step's matrix products alone, measured in the same run.

The last line is the lowest score: the ratio to transformers over its aim (1.2 in time at both sizes; half of the
memory at the full vocabulary).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from qwenkit import platform

SHAPE: dict[str, Any] = dict(hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4,
                             max_position_embeddings=512)  # fmt: skip
ROWS, LENGTH = 4, 512
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
VARIANTS = ("transformers", "ours", "ours compiled", "ours checkpointed")
AIMS = {"time": 1.2, "memory": 2.0}


def step_of(variant: str, vocab: int, precision: str) -> Callable[[int], float]:
    """Return a function that trains one step and returns its loss."""
    if variant == "transformers":
        return _their_step(vocab, precision)
    return _our_step(vocab, precision, variant.partition(" ")[2])


def _rows(vocab: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(vocab, (ROWS, LENGTH + 1), generator=generator)


def _our_step(vocab: int, precision: str, how: str) -> Callable[[int], float]:
    from qwenkit.model import ModelConfig, Transformer, init_weights
    from qwenkit.training import PackedBatch, RunState, StepBatch, build_optimizer, build_schedule, train_update

    model = init_weights(Transformer(ModelConfig(vocab_size=vocab, **SHAPE)), seed=0)
    if how == "checkpointed":
        model.model.activation_checkpointing = True
    optimizer = build_optimizer(model, "adamw", lr=3e-4)

    def batches(step: int) -> StepBatch[PackedBatch]:
        ids, ones = _rows(vocab, step), torch.ones(ROWS, LENGTH)
        return StepBatch.of(
            [PackedBatch.of(ids[:, :-1], ids[:, 1:], ones, torch.zeros(ROWS, LENGTH, dtype=torch.long))]
        )

    dtype = None if precision == "fp32" else DTYPES[precision]
    update = train_update(model, optimizer, batches, build_schedule("constant", 100, 0, 1.0), dtype=dtype,
                          compile=how == "compiled")  # fmt: skip
    state = RunState({"model": model}, {"optimizer": optimizer})
    return lambda step: update(state, step)["loss"]


def _their_step(vocab: int, precision: str) -> Callable[[int], float]:
    import transformers

    config = transformers.Qwen2Config(vocab_size=vocab, num_key_value_heads=SHAPE["num_attention_heads"],
                                      tie_word_embeddings=False, **SHAPE)  # fmt: skip
    model = transformers.Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def run(step: int) -> float:
        ids = _rows(vocab, step)[:, :-1]
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return run


def products(vocab: int, precision: str) -> Callable[[int], float]:
    """Return the matrix products of a step: of each weight one forward and two backward, and of attention."""
    D, F, L, H, T = (SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"],
                     SHAPE["num_attention_heads"], LENGTH)  # fmt: skip
    N, dtype = ROWS * T, DTYPES[precision]
    weights = [(D, D)] * 4 * L + [(F, D)] * 2 * L + [(D, F)] * L + [(vocab, D)]
    pool = {shape: torch.randn(shape).to(dtype) for shape in {*weights, *((N, side) for w in weights for side in w)}}
    q, s = torch.randn(ROWS, H, T, D // H).to(dtype), torch.randn(ROWS, H, T, T).to(dtype)

    def run(_: int) -> float:
        for out, into in weights:
            pool[N, into] @ pool[out, into].T
            pool[N, out] @ pool[out, into]
            pool[N, out].T @ pool[N, into]
        for _ in range(L):
            for _ in range(3):  # forward one of each, backward two
                q @ q.transpose(-1, -2), s @ q
        return 0.0

    return run


def child(variant: str, vocab: int, precision: str, steps: int) -> None:
    """Measure one variant in this process: seconds of a step after two that warm up, and the peak of memory."""
    run = products(vocab, precision) if variant == "bound" else step_of(variant, vocab, precision)
    for step in range(2):
        run(step)
    platform.reset_peak()
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        loss = run(2 + step)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "peak_mb": platform.peak_mb(), "loss": loss}))


def measure(variant: str, vocab: int, given: argparse.Namespace) -> dict[str, float]:
    """Run one variant in a process of its own."""
    command = [sys.executable, __file__, "--child", variant, "--vocab", str(vocab), "--precision", given.precision,
               "--steps", str(given.steps)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{variant} at {vocab} words did not run:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all variants in turn, print a table, and the lowest score last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", choices=DTYPES, default="bf16" if platform.has_bf16("cpu") else "fp32")
    parser.add_argument("--vocab", default="4096,151936")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(given.child, int(given.vocab), given.precision, given.steps)
        return
    variants = [*given.variants.split(","), "bound"]
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for vocab in map(int, given.vocab.split(",")):
        cells = results.setdefault(str(vocab), {variant: [] for variant in variants})
        for repeat in range(given.repeats):
            for variant in variants:
                cells[variant].append(measure(variant, vocab, given))
            print(f"{vocab} words: {repeat + 1} of {given.repeats} done", file=sys.stderr, flush=True)
    scores = list(report(results, given))
    if given.out:
        kept = {"machine": platform.machine(), "versions": platform.versions(), "precision": given.precision,
                "results": results}  # fmt: skip
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"ratio {min(scores):.2f}")


def report(results: dict[str, dict[str, list[dict[str, float]]]], given: argparse.Namespace) -> Iterator[float]:
    """Print the table; yield the score of each cell with an aim."""
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {given.precision}")
    print("| words | | tokens/s (lowest to highest) | over transformers | of the bound | peak MB | of transformers |")
    print("|---|---|---|---|---|---|---|")
    tokens = ROWS * LENGTH
    for vocab, cells in results.items():
        seconds = {name: [run["seconds"] for run in runs] for name, runs in cells.items()}
        peaks = {name: statistics.median(run["peak_mb"] for run in runs) for name, runs in cells.items()}
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            faster, share = middle["transformers"] / middle[name], peaks[name] / peaks["transformers"]
            spread = f"{tokens / max(values):.0f} to {tokens / min(values):.0f}"
            print(f"| {vocab} | {name} | {tokens / middle[name]:.0f} ({spread}) | {faster:.2f} | "
                  f"{middle['bound'] / middle[name]:.2f} | {peaks[name]:.0f} | {share:.2f} |")  # fmt: skip
            if name == "ours":
                yield faster / AIMS["time"]
                if int(vocab) > 100_000:
                    yield 1 / share / AIMS["memory"]


if __name__ == "__main__":
    main()
