"""Two versions of qwenkit on the nano family, in turn: seconds of a step, peak memory, and what became of every node.

    python benchmarks/nano_versions.py --other QWENKIT [--runs 3] [--recipe nano-quick] [--own QWENKIT] [--out F.json]
        [--together] [--work FOLDER]

`--other` is the executable of another version. Without `--recipe` each run is `nano` with its sizes and fewer steps, up
to its PPO; with it, that recipe as it is, run number i with the seed i. The versions take turns, so that both meet the
machine's moods; with `--together` they run at the same time, with one thread each. `--work` keeps the runs, and a run
that was cut off is continued there by the same command. A node's seconds are the median of its steps after the first
ten (of PPO: after the first three), then the lowest of the runs: what disturbs a machine only adds. Minutes, and
headlines of each seed, are shown below for whole recipes. The last line is the lowest of what was aimed at: no node 5 %
slower.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from qwenkit import platform

FEWER = ["world.scale=quick", "base.tokens=4e5", "base.warmup_steps=20", "chat.steps=100", "reward.pairs=400",
         "reward.epochs=1", "chat-rlhf.steps=14", "chat-rlhf.value_warmup_steps=4"]  # fmt: skip
TRAINED = ("base", "chat", "pmp", "reward", "chat-rlhf")
SLOWER = 1.05


class Node(NamedTuple):
    """One node of one run."""

    seconds: float | None
    """The median of its steps; None: it does not train."""
    minutes: float
    peak_mb: float
    headline: str


def run(executable: str, out: Path, recipe: str | None, seed: int, threads: int | None = None) -> dict[str, Node]:
    """Run the recipe; return what became of each node."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    words = [executable, "run", recipe or "nano", "--out", str(out), "--quiet"]
    changes = [f"seed={seed}"] if recipe else FEWER
    words += [] if recipe else ["--until", "chat-rlhf"]
    done = subprocess.run([*words, *(word for change in changes for word in ("--set", change))],
                          capture_output=True, text=True, env=environment)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} did not run:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    steps: dict[str, list[float]] = {}
    for line in (out / "events.jsonl").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "step" and event.get("node"):
            steps.setdefault(event["node"], []).append(event["seconds"])
    found = {}
    for manifest in sorted(out.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime):
        name, about = manifest.parent.name, json.loads(manifest.with_name("run.json").read_text())
        seconds = steps.get(name) if name in TRAINED else None
        kept = seconds and seconds[3 if name == "chat-rlhf" else 10 if len(seconds) > 20 else 1 :]
        median = statistics.median(kept) if kept else None
        headline = json.loads(manifest.read_text()).get("headline", "")
        found[name] = Node(median, about["seconds"] / 60, about["peak_mb"], headline)
    return found


def main() -> None:
    """Run both versions in turn, print the tables, and the lowest of what was aimed at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True)
    parser.add_argument("--own", default=str(Path(sys.executable).with_name("qwenkit")))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recipe", help="a recipe as it is, with another seed in each run")
    parser.add_argument("--together", action="store_true", help="both versions at the same time, a thread each")
    parser.add_argument("--work", type=Path, help="keep the runs in this folder, and continue them there")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results: dict[str, list[dict[str, Node]]] = {"other": [], "own": []}
    executables, threads = {"other": given.other, "own": given.own}, 1 if given.together else None
    with contextlib.ExitStack() as stack:
        place = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(2 if given.together else 1))
        for seed in range(given.runs):
            jobs = {name: pool.submit(run, executable, place / f"{name}-{seed}", given.recipe, seed, threads)
                    for name, executable in executables.items()}  # fmt: skip
            for name, job in jobs.items():
                results[name].append(job.result())
                print(name, results[name][-1], file=sys.stderr, flush=True)
    manner = "at once, a thread each" if given.together else "in turn"
    print(f"{platform.machine()}, {given.runs} runs of each {manner}")
    ratios = print_seconds(results)
    if given.recipe:
        print_headlines(results)
    if given.out:
        rows = {name: [{node: each._asdict() for node, each in one.items()} for one in runs]
                for name, runs in results.items()}  # fmt: skip
        kept = {"machine": platform.machine(), "versions": platform.versions(), "results": rows}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"ratio {SLOWER / max(ratios):.2f}")


def print_seconds(results: dict[str, list[dict[str, Node]]]) -> list[float]:
    """Print seconds, minutes and peaks of both versions; return the ratios of the seconds of nodes that train."""
    print("| node | seconds a step, other | own | own over other | minutes, other | own | peak MB, other | own |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    ratios = []
    for node in results["own"][0]:
        seconds, minutes, peaks = {}, {}, {}
        for name, runs in results.items():
            nodes = [each[node] for each in runs]
            seconds[name] = min((each.seconds for each in nodes if each.seconds is not None), default=None)
            minutes[name] = min(each.minutes for each in nodes)
            peaks[name] = max(each.peak_mb for each in nodes)
        step = "| | | "
        if seconds["own"] is not None and seconds["other"] is not None:
            ratios.append(seconds["own"] / seconds["other"])
            step = f"| {seconds['other']:.4f} | {seconds['own']:.4f} | {ratios[-1]:.3f} "
        print(f"| {node} {step}| {minutes['other']:.2f} | {minutes['own']:.2f} "
              f"| {peaks['other']:.0f} | {peaks['own']:.0f} |")  # fmt: skip
    return ratios


def print_headlines(results: dict[str, list[dict[str, Node]]]) -> None:
    """Print the headline of each node, version and seed."""
    print("\n| node | seed | other | own |\n|---|---:|---|---|")
    for node in results["own"][0]:
        for seed, (other, own) in enumerate(zip(results["other"], results["own"])):
            print(f"| {node} | {seed} | {other[node].headline} | {own[node].headline} |")


if __name__ == "__main__":
    main()
