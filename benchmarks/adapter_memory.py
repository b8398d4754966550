"""The memory and the seconds of a step that trains an adapter on half a billion frozen parameters of random values.

    python benchmarks/adapter_memory.py --place FOLDER [--length 256] [--steps 2] [--forms bf16 int4] [--shape 0.5b]

The shape is that of Qwen2-0.5B, written into FOLDER once; `int4` is its weights in 4 bits (QLoRA). Each form is
measured in a process of its own: it loads the folder as `sft` does, puts an adapter of rank 16 on all linear layers
(`load_trained`), and takes steps of one packed row by the stock update, with and without activation checkpointing. The
peak is the largest resident memory of that process, loading and mapped files included; where the processor has no bf16
the frozen weights of a bf16 folder are float32. Memory does not depend on values, so random ones will do.

The last line is JSON, a row for each form. Exit code 1: a form needed more than the 4 GB that are the aim.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from engine_models import SHAPES, Models, random_folder
from qwenkit import platform
from qwenkit.model.adapted import Trunks, load_trained, trained_part
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.modes import set_activation_checkpointing
from qwenkit.training import Batch, RunState, StepBatch, build_optimizer, build_schedule, train_update
from qwenkit.training.trainer import usable_precision

AIM_GB = 4.0


def measure(folder: Path, length: int, steps: int, checkpointing: str) -> dict[str, Any]:
    """Train an adapter on a folder for some steps in this process; return the loss, seconds a step and peak memory."""
    bf16 = usable_precision("bf16", "cpu") == "bf16"
    model = load_trained(folder, Trunks("cpu"), LoRAConfig(rank=16), 0, bf16=bf16)
    set_activation_checkpointing(model, checkpointing)
    optimizer = build_optimizer(model, "adamw", lr=1e-5)

    def batches(step: int) -> StepBatch[Batch]:
        row = torch.randint(model.config.vocab_size, (1, length + 1), generator=torch.Generator().manual_seed(step))
        ones, documents = torch.ones(1, length), torch.zeros(1, length, dtype=torch.long)
        return StepBatch.of([Batch.of(row[:, :-1], row[:, 1:], ones, documents)])

    update = train_update(model, optimizer, batches, build_schedule("constant", 100, 0, 1.0),
                          dtype=torch.bfloat16 if bf16 else None)  # fmt: skip
    state, seconds, loss = RunState({"model": model}, {"optimizer": optimizer}), [], 0.0
    for step in range(steps):
        start = time.perf_counter()
        loss = update(state, step)["loss"]
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"loss": loss, "seconds": round(min(seconds), 2), "peak_gb": round(peak / 1e9, 3), **trained_part(model)}


def main() -> int:
    """Measure every form, with and without checkpointing; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--place", type=Path, required=True, help="folder for the models")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b", help="`tiny` only shows that everything runs")
    parser.add_argument("--length", type=int, default=256, help="tokens in the row of a step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=["bf16", "int4"], choices=["bf16", "int8", "int4"])
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "CHECKPOINTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(Path(args.one[0]), args.length, args.steps, args.one[1])))
        return 0
    print(f"{platform.cpu_model()}, {torch.get_num_threads()} threads, a row of {args.length} tokens", flush=True)
    place = args.place / args.shape
    models = Models(random_folder(SHAPES[args.shape], place / "bf16"), place)
    rows = [_measured(models.folder(form), form, how, args) for form in args.forms for how in ("none", "full")]
    print(json.dumps(rows))
    return int(any(row["peak_gb"] > AIM_GB for row in rows))


def _measured(folder: Path, form: str, checkpointing: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one form in a process of its own, and print its line."""
    command = [sys.executable, __file__, "--place", str(args.place), "--length", str(args.length),
               "--steps", str(args.steps), "--one", str(folder), checkpointing]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = {"form": form, "checkpointing": checkpointing, **json.loads(said.splitlines()[-1])}
    print(f"{form}, checkpointing {checkpointing}: {row['peak_gb']} GB at most, {row['seconds']} s a step", flush=True)
    return row


if __name__ == "__main__":
    raise SystemExit(main())
