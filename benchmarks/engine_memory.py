"""The memory of a process that loads a model and generates with it, beside the size of its weights and of its cache.

    OMP_NUM_THREADS=1 python benchmarks/engine_memory.py MODEL [--tokens 32] [--native yes|no|auto] [--out FILE.json]

MODEL is a folder or a GGUF file. After a tiny model was loaded and asked (the start), after loading, with the engine
made, and after some tokens, in MB: private memory (what the process has written: nobody else can use it), pages of
files (mapped; the kernel may take them at any time and read them again), and the largest resident size so far.
`weights` is what the tensors of the model take as they are stored. The last line is the peak, less that of the start,
over weights and cache. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import tempfile
import warnings
from pathlib import Path

from qwenkit.errors import UserError
from qwenkit.inference import Engine, SamplingParams
from qwenkit.model import ModelConfig, Transformer, init_weights, load_model, save_model
from qwenkit.model.gguf_blocks import package
from qwenkit.model.gptq import quantize
from qwenkit.model.quantized_linear import QuantConfig
from qwenkit.platform import reset_peak

NATIVE = {"yes": True, "no": False, "auto": None}


def memory() -> dict[str, float]:
    """Return private memory, mapped pages of files and the peak of the resident size, in MB."""
    rollup, status = (_kilobytes(Path(f"/proc/self/{name}")) for name in ("smaps_rollup", "status"))
    return {"private": rollup["Anonymous"] / 1e3, "files": status["RssFile"] / 1e3, "peak": status["VmHWM"] / 1e3}


def _kilobytes(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[2:] == ["kB"]}


def warm_up(native: bool | None) -> None:
    """Load and ask a tiny model in 4 bits: what programs and libraries take is no part of a model."""
    with contextlib.suppress(UserError):
        package()  # of which quantized GGUF files need the module `quants`
        importlib.import_module("gguf.quants")
    shape = ModelConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(quantize(init_weights(Transformer(shape), 0).bfloat16().eval(), QuantConfig(4, 32), None), folder)
        engine = Engine(load_model(folder, device="cpu"), kv_tokens=512, native=native)
        engine.generate([list(range(200))], SamplingParams.plain(temperature=0, max_tokens=4, ignore_eos=True))


def main() -> None:
    """Load, generate, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--native", choices=NATIVE, default="auto")
    parser.add_argument("--varying", action="store_true", help="invariant=False: the faster way is found by a trial")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    warm_up(NATIVE[given.native])
    reset_peak()
    stages = {"start": memory()}
    model = load_model(given.model, device="cpu")
    stages["loaded"] = memory()
    engine = Engine(model, kv_tokens=1024, invariant=not given.varying, native=NATIVE[given.native])
    stages["engine"] = memory()
    params = SamplingParams.plain(temperature=0, max_tokens=given.tokens, ignore_eos=True)
    engine.generate([list(range(1, 200))], params)
    stages["generated"] = memory()
    weights = (
        sum(tensor.nbytes for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values()) / 1e6
    )
    stores = [*engine.runner.cache.keys, *engine.runner.cache.values]
    cache = sum(tensor.nbytes for store in stores for tensor in store.tensors) / 1e6
    print(f"weights {weights:.0f} MB, cache {cache:.0f} MB")
    print(f"{'':10}" + "".join(f"{name:>10}" for name in stages["start"]))
    for stage, sizes in stages.items():
        print(f"{stage:10}" + "".join(f"{size:10.0f}" for size in sizes.values()))
    peak = stages["generated"]["peak"] - stages["start"]["peak"]
    found = {"model": Path(given.model).name, "weights": weights, "cache": cache, "stages": stages, "peak": peak}
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"peak {peak / (weights + cache):.2f}")


if __name__ == "__main__":
    main()
