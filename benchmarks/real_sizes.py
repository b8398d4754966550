"""The released sizes with random weights: how long they take to load, how much memory, and that they write.

    python benchmarks/real_sizes.py --place FOLDER [--sizes 1.8B 7B 7B-int4 14B-int4] [--tokens 8]

Writes sharded safetensors in the first Qwen's own form into FOLDER (up to 16 GB at a time, removed again), loads them
in a fresh process and asks for a few greedy tokens. `anonymous` is memory that is the process's own: weights stay
mapped from their files until a kernel wants another layout. The bound is 1.1 times the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenkit.model.config import ContextExtension, ModelConfig
from qwenkit.model.formats.qwen import QWEN
from qwenkit.model.transformer import Transformer
from qwenkit.model.weights import write_json, write_shards

SIZES = {
    "1.8B": (24, 2048, 5504, 16, 151936),
    "7B": (32, 4096, 11008, 32, 151936),
    "14B": (40, 5120, 13696, 40, 152064),
}
GROUP = 128


def config_of(name: str) -> ModelConfig:
    layers, hidden, width, heads, vocabulary = SIZES[name]
    return ModelConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers,
                       num_attention_heads=heads, max_position_embeddings=8192, model_type="qwen",
                       extension=ContextExtension(seq_length=2048, dynamic_ntk=True, logn=True))  # fmt: skip


def write(name: str, folder: Path) -> int:
    """The folder of a size; returns the bytes of its weights. Noise is drawn once and repeated: nobody reads it."""
    size, _, small = name.partition("-")
    config = config_of(size)
    with torch.device("meta"):
        shapes = {key: parameter.shape for key, parameter in Transformer(config).named_parameters()}
    table = QWEN.map_names(shapes, frozenset())
    noise = (torch.randn(2**22, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    written = 0

    def tensors() -> Iterator[tuple[str, Tensor]]:
        nonlocal written
        for weight in table:
            first = shapes[weight.param_names[0]]
            shape = (sum(shapes[name][0] for name in weight.param_names), *first[1:])
            quantized = small and len(shape) == 2 and ".h." in weight.hf_name
            for key, tensor in quartet(weight.hf_name, shape) if quantized else [(weight.hf_name, plain(shape, noise))]:
                written += tensor.nbytes
                yield key, tensor

    settings: dict[str, Any] = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "torch_dtype": "bfloat16"}
    if small:
        settings["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP}
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {**settings, **QWEN.write_config(config)})
    write_shards(tensors(), folder, 2 * 10**9)
    return written


def plain(shape: tuple[int, ...], noise: Tensor) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    count = shape[0] * shape[1]
    return noise.repeat(-(-count // len(noise)))[:count].view(shape)


def quartet(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """A weight of 4 bits as GPTQ folders hold it: random levels around zero."""
    stem, rows, columns = name.removesuffix(".weight"), shape[0], shape[1]
    yield f"{stem}.qweight", torch.randint(-(2**31), 2**31 - 1, (columns // 8, rows), dtype=torch.int32)
    yield f"{stem}.qzeros", torch.full((columns // GROUP, rows // 8), 0x77777777, dtype=torch.int32)
    yield f"{stem}.scales", torch.full((columns // GROUP, rows), 0.004, dtype=torch.float16)
    yield f"{stem}.g_idx", (torch.arange(columns) // GROUP).int()


def child(folder: str, tokens: int) -> None:
    """Load and write in a fresh process."""
    from qwenkit.inference import Engine, SamplingParams
    from qwenkit.model import load_model

    start = time.perf_counter()
    model = load_model(folder)
    loaded, own = time.perf_counter() - start, anonymous()
    params = SamplingParams.plain(temperature=0, max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()
    (output,) = Engine(model).generate([list(range(1000, 1032))], params)
    wrote = time.perf_counter() - start
    print(json.dumps({"load_seconds": loaded, "anonymous_mb_loaded": own, "anonymous_mb": anonymous(),
                      "answer_seconds": wrote, "tokens": len(output.ids)}))  # fmt: skip


def anonymous() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["1.8B", "7B", "7B-int4", "14B-int4"])
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.tokens)
        return
    print(
        "| size | weights MB | load s | own MB after loading | own MB after writing | over weights | s for the answer |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.sizes:
        folder = given.place / name
        try:
            weights = write(name, folder) / 2**20
            command = [sys.executable, __file__, "--child", str(folder), "--tokens", str(given.tokens)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"| {name} | {weights:.0f} | {found['load_seconds']:.1f} | {found['anonymous_mb_loaded']:.0f} | "
              f"{found['anonymous_mb']:.0f} | {found['anonymous_mb'] / weights:.2f} | {found['answer_seconds']:.1f} "
              f"({found['tokens']} tokens) |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
