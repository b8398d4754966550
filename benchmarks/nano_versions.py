"""Two versions of qwenkit on the nano family, in turn: seconds of a step, and the peak memory of every node.

    python benchmarks/nano_versions.py --other QWENKIT [--runs 3] [--own QWENKIT] [--out FILE.json]

`--other` is the executable of another version. Each run is the recipe `nano` with its sizes and fewer steps, in a
folder of its own; the versions take turns, so that both meet the machine's moods. A node's seconds are the median of
its steps after the first ten (of PPO: after the first three), then the lowest of the runs: what disturbs a machine only
adds.
The last line is the lowest of what was aimed at: no node 5 % slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qwenkit import platform

FEWER = ["world.scale=quick", "base.tokens=4e5", "base.warmup_steps=20", "chat.steps=100", "reward.pairs=400",
         "reward.epochs=1", "chat-rlhf.steps=14", "chat-rlhf.value_warmup_steps=4"]  # fmt: skip
NODES = ("base", "chat", "pmp", "reward", "chat-rlhf")
SLOWER = 1.05


def run(executable: str, out: Path) -> dict[str, dict[str, float]]:
    """Run the recipe; return seconds of a step, peak memory in MB and minutes of each node that trains."""
    words = [executable, "run", "nano", "--out", str(out), "--quiet", "--until", "chat-rlhf"]
    done = subprocess.run([*words, *(word for change in FEWER for word in ("--set", change))],
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} did not run:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    steps: dict[str, list[float]] = {name: [] for name in NODES}
    for line in (out / "events.jsonl").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "step" and event.get("node") in steps:
            steps[event["node"]].append(event["seconds"])
    found = {}
    for name, seconds in steps.items():
        about = json.loads((out / name / "run.json").read_text())
        kept = seconds[3 if name == "chat-rlhf" else 10 if len(seconds) > 20 else 1 :]
        found[name] = {
            "seconds": statistics.median(kept),
            "peak_mb": about["peak_mb"],
            "minutes": about["seconds"] / 60,
        }
    return found


def main() -> None:
    """Run both versions in turn, print the table, and the lowest of what was aimed at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True)
    parser.add_argument("--own", default=str(Path(sys.executable).with_name("qwenkit")))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results: dict[str, list[dict[str, dict[str, float]]]] = {"other": [], "own": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(given.runs):
            for name, executable in (("other", given.other), ("own", given.own)):
                results[name].append(run(executable, Path(place) / f"{name}-{number}"))
                print(name, results[name][-1], file=sys.stderr, flush=True)
    print(f"{platform.machine()}, {given.runs} runs of each in turn")
    print("| node | seconds a step, other | own | own over other | peak MB, other | own |\n|---|---|---|---|---|---|")
    ratios = []
    for node in NODES:
        seconds = {name: min(each[node]["seconds"] for each in runs) for name, runs in results.items()}
        peaks = {name: max(each[node]["peak_mb"] for each in runs) for name, runs in results.items()}
        ratios.append(seconds["own"] / seconds["other"])
        print(f"| {node} | {seconds['other']:.4f} | {seconds['own']:.4f} | {ratios[-1]:.3f} "
              f"| {peaks['other']:.0f} | {peaks['own']:.0f} |")  # fmt: skip
    if given.out:
        kept = {"machine": platform.machine(), "versions": platform.versions(), "results": results}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"ratio {SLOWER / max(ratios):.2f}")


if __name__ == "__main__":
    main()
