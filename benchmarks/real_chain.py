"""Training a real model: SFT, a reward model and PPO on SmolLM2-135M-Instruct, seconds and memory of each.

    python benchmarks/real_chain.py MODEL --data DATA [--other QWENKIT] [--variants none,full] [--out FILE.json]

MODEL is a folder of the model as a Qwen2 (docs/reading.md says how to make one); DATA is the folder of the project's
test data, of which Dolly's rows are read in place (a pair is two answers to
different questions: what is learnt does not matter here). `--other` is the executable of
another version of qwenkit, which does the same work in turn. Every training is the verb of its kind in a process of its
own, `--steps` steps of

    sft           4 rows of 512 tokens
    preference    16 pairs, 4 at a time, at most 512 tokens each side
    ppo           8 prompts, 2 answers of at most 32 tokens, no pretraining term

Seconds are the median of the steps after the first, memory is the peak of the process. The last line is the lowest of
what was aimed at: memory of SFT and of the reward model with checkpointing at most 0.6 of the other version's, and
without it no step slower.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qwenkit import platform

WORK = {
    "sft": "--seq-length 512 --batch-size 4 --micro-batch-size 4 --steps {steps} --warmup-steps 1 --lr 1e-5",
    "preference": "--seq-length 512 --batch-size 16 --micro-batch-size 4 --epochs 1 --warmup-steps 1 --lr 1e-5"
                  " --validation-share 0.0",
    "ppo": "--steps {steps} --prompts-per-step 8 --samples-per-prompt 2 --max-tokens 32 --seq-length 512 --ptx-coef 0"
           " --value-warmup-steps 0 --minibatches 2 --precision bf16",
}  # fmt: skip
EDGES = {"sft": "--model {model} --data {chats}", "preference": "--model {model} --data {pairs}",
         "ppo": "--model {model} --reward {reward} --prompts {prompts}"}  # fmt: skip


def rows(path: Path, limit: int) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(limit))]


def write(rows_: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_), encoding="utf-8")
    return path


def prepare(data: Path, folder: Path, steps: int) -> dict[str, Path]:
    """Write the chats, the prompts and the pairs that the trainings read."""
    dolly = rows(data / "dolly_hhrlhf_small" / "dolly_hhrlhf_train_small.jsonl.gz", 400)
    chats = [
        {"messages": [{"role": role, "content": row[key]} for role, key in
                      (("user", "prompt"), ("assistant", "response"))]}
        for row in dolly
    ]  # fmt: skip
    pairs = [
        {"prompt": row["prompt"], "chosen": row["response"], "rejected": other["response"]}
        for row, other in itertools.pairwise(dolly)
        if row["response"] != other["response"]
    ]
    prompts = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in dolly]
    return {"chats": write(chats, folder / "chats.jsonl"), "prompts": write(prompts, folder / "prompts.jsonl"),
            "pairs": write(pairs[: 16 * steps], folder / "pairs.jsonl")}  # fmt: skip


def train(executable: str, kind: str, out: Path, steps: int, more: str, **paths: Path) -> dict[str, float]:
    """Run the verb of a kind; return the seconds of a step, tokens a second and the peak in MB."""
    words = f"{kind} {EDGES[kind]} {WORK[kind]} {more} --out {out}".format(steps=steps, **paths).split()
    done = subprocess.run([executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} did not run:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    measured = [event for event in events if event["event"] == "step"][1:]
    run = json.loads((out / kind / "run.json").read_text())
    tokens = [event["tokens_per_second"] for event in measured if "tokens_per_second" in event]
    return {"seconds": statistics.median(event["seconds"] for event in measured), "peak_mb": run["peak_mb"],
            **({"tokens_per_second": statistics.median(tokens)} if tokens else {})}  # fmt: skip


def main() -> None:
    """Train each kind by each version in turn, print the table, and the lowest of what was aimed at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--other")
    parser.add_argument("--variants", default="none,full")
    parser.add_argument("--kinds", default="sft,preference,ppo")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    own = str(Path(sys.executable).with_name("qwenkit"))
    versions = {variant: (own, f"--activation-checkpointing {variant}") for variant in given.variants.split(",")}
    if given.other:
        versions = {"other": (given.other, ""), **versions}
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        paths = prepare(given.data, Path(place), given.steps) | {"model": given.model.resolve()}
        reward = Path(place) / "reward"
        train(own, "preference", reward, given.steps, "", **paths)
        for kind in given.kinds.split(","):
            for name, (executable, more) in versions.items():
                out = Path(place) / f"{kind}-{name}"
                result = train(executable, kind, out, given.steps, more, reward=reward / "preference", **paths)
                results.setdefault(kind, {})[name] = result
                print(kind, name, result, file=sys.stderr, flush=True)
    print(f"{platform.machine()}\n| | | seconds a step | tokens/s | peak MB |\n|---|---|---|---|---|")
    for kind, by_version in results.items():
        for name, cell in by_version.items():
            speed = f"{cell['tokens_per_second']:.0f}" if "tokens_per_second" in cell else ""
            print(f"| {kind} | {name} | {cell['seconds']:.2f} | {speed} | {cell['peak_mb']} |")
    if given.out:
        kept = {"machine": platform.machine(), "versions": platform.versions(), "results": results}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    scores = []
    for kind, cells in results.items():
        if "other" in cells and "none" in cells:
            scores.append(cells["other"]["seconds"] / cells["none"]["seconds"])
        if "other" in cells and "full" in cells and kind != "ppo":
            scores.append(0.6 * cells["other"]["peak_mb"] / cells["full"]["peak_mb"])
    if scores:
        print(f"ratio {min(scores):.2f}")


if __name__ == "__main__":
    main()
