"""Prefill and decode beside `transformers` on the same bf16 weights (Qwen2-0.5B's shape, random), and int4 beside bf16.

    python benchmarks/model_vs_transformers.py [--repeats 5] [--prompt 512] [--tokens 32] [--out FILE.json]

One process, both models loaded from one folder, alternating repetitions, medians and quartiles. The bounds are measured
in the same run: matrix products of the layers' shapes in bf16 (what prefill could reach), and reading every weight once
(what decoding one token at a time could reach). Peak memory is that of one process for each, loading and one answer.
The last line is the lowest of the ratios that were aimed at.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine_models import SHAPES, random_folder
from qwenkit import platform
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import load_model, save_model
from qwenkit.model.gptq import quantize
from qwenkit.model.quantized_linear import QuantConfig

SHAPE = SHAPES["0.5b"]
Job = Callable[[], float]


def ours(folder: Path, prompt: list[int], tokens: int) -> tuple[Job, Job]:
    """Seconds of a prefill, and of a token of a longer answer."""
    engine = Engine(folder)

    def answer(count: int) -> float:
        params = SamplingParams.plain(temperature=0, max_tokens=count, ignore_eos=True, logprobs=False)
        start = time.perf_counter()
        engine.generate([prompt], params)
        return time.perf_counter() - start

    return (lambda: answer(1)), (lambda: (answer(tokens + 1) - answer(1)) / tokens)


def theirs(model: Any, prompt: list[int], tokens: int) -> tuple[Job, Job]:
    """The same with transformers' generate: greedy, with its cache."""
    ids = torch.tensor([prompt])

    @torch.inference_mode()
    def answer(count: int) -> float:
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                       do_sample=False, pad_token_id=0)  # fmt: skip
        return time.perf_counter() - start

    return (lambda: answer(1)), (lambda: (answer(tokens + 1) - answer(1)) / tokens)


def bounds(prompt: int) -> tuple[float, float]:
    """Seconds of all matrix products of a prefill in bf16, and of reading every weight once."""
    width, wide, layers = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    kv = SHAPE["num_key_value_heads"] * width // SHAPE["num_attention_heads"]
    shapes = [(width, width), (kv, width), (kv, width), (width, width), (wide, width), (wide, width), (width, wide)]
    weights = [torch.randn(shape).bfloat16() for shape in shapes]
    inputs = {k: torch.randn(prompt, k).bfloat16() for k in (width, wide)}

    def products() -> None:
        for _ in range(layers):
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    count = layers * sum(n * k for n, k in shapes) + SHAPE["vocab_size"] * width
    block = torch.ones(count // 2, dtype=torch.float32)  # as many bytes as the weights in bf16
    return timed(products), timed(block.sum)


def timed(job: Callable[[], Any]) -> float:
    job()  # the first one warms up
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def child(kind: str, folder: str, tokens: int) -> None:
    """Peak memory of one process: load, answer once."""
    prompt = list(range(1000, 1064))
    if kind == "transformers":
        import transformers

        theirs(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), prompt, tokens)[1]()
    else:
        ours(Path(folder), prompt, tokens)[1]()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({
        "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        "anonymous_mb": int(status["RssAnon"].split()[0]) / 1024,
    }))  # fmt: skip


def memory(kind: str, folder: Path, tokens: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder), "--tokens", str(tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--folder")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder, given.tokens)
        return
    import transformers

    with tempfile.TemporaryDirectory() as place:
        folder, small = random_folder(SHAPE, Path(place) / "bf16"), Path(place) / "int4"
        save_model(quantize(load_model(folder), QuantConfig(4, 64), None), small)
        prompt = [(7919 * i) % SHAPE["vocab_size"] for i in range(given.prompt)]
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        jobs = {"transformers": theirs(peer, prompt, given.tokens)}
        jobs |= {"ours": ours(folder, prompt, given.tokens)}
        jobs |= {"ours int4": ours(small, prompt, given.tokens)}
        seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in (*jobs, "bound")}
        for repeat in range(given.repeats + 1):
            for name, (prefill, decode) in jobs.items():
                pair = prefill(), decode()
                if repeat:  # the first one warms up
                    for kept, value in zip(seconds[name], pair):
                        kept.append(value)
            for kept, value in zip(seconds["bound"], bounds(given.prompt)):
                kept.append(value)
            print(f"{repeat} of {given.repeats} done", file=sys.stderr, flush=True)
        peaks = {kind: memory(kind, folder, 8) for kind in ("ours", "transformers")}
    report(seconds, peaks, given)


def report(
    seconds: dict[str, tuple[list[float], list[float]]], peaks: dict[str, Any], given: argparse.Namespace
) -> None:
    """A table for people, a file for programs, and the lowest ratio last."""
    middle = {name: tuple(map(statistics.median, both)) for name, both in seconds.items()}
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; prompt {given.prompt}")
    print("| | prefill tokens/s | decode tokens/s |\n|---|---|---|")
    for name, (prefill, decode) in middle.items():
        spread = [f"{1 / max(both):.1f} to {1 / min(both):.1f}" for both in ([s / n for s in v] for v, n in
                  zip(seconds[name], (given.prompt, 1)))]  # fmt: skip
        print(f"| {name} | {given.prompt / prefill:.1f} ({spread[0]}) | {1 / decode:.2f} ({spread[1]}) |")
    for kind, found in peaks.items():
        print(f"{kind}: peak {found['peak_mb']:.0f} MB, of it our own {found['anonymous_mb']:.0f} MB")
    ratios = {
        "prefill over transformers": middle["transformers"][0] / middle["ours"][0],
        "prefill over bound": middle["bound"][0] / middle["ours"][0],
        "decode over transformers": middle["transformers"][1] / middle["ours"][1],
        "decode over bound": middle["bound"][1] / middle["ours"][1],
        "int4 decode over bf16 decode": middle["ours"][1] / middle["ours int4"][1],
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        kept = {"machine": platform.machine(), "versions": platform.versions(), "seconds": seconds, "peaks": peaks,
                "ratios": ratios}  # fmt: skip
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    aimed = ("prefill over transformers", "decode over transformers", "int4 decode over bf16 decode")
    print(f"ratio {min(ratios[name] for name in aimed):.2f}")


if __name__ == "__main__":
    main()
