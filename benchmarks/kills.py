"""A run killed with SIGKILL at random moments and started again each time: is it the run that nobody touched?

    python benchmarks/kills.py --whole runs/nano --out runs/killed [--recipe nano] [--kills 20] [--longest 140]

`--whole` is a finished, uninterrupted run of the recipe under the same conditions (threads, packages, `--set`). Each
node's manifest, with the digests of all its files, is compared byte for byte. The moments are drawn from `--seed`.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

from qwenkit.artifacts import MANIFEST, run_artifacts
from qwenkit.stages import views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", type=Path, required=True, help="the uninterrupted run")
    parser.add_argument("--out", type=Path, required=True, help="the run to kill; a new folder")
    parser.add_argument("--recipe", default="nano")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `qwenkit run`")
    parser.add_argument("--until", help="as for `qwenkit run`")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=140, help="seconds that a started run lives at most")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.out.exists():
        raise SystemExit(f"{given.out} exists; name a new folder")
    command = [sys.executable, "-m", "qwenkit.cli", "run", given.recipe, "--out", str(given.out), "--quiet"]
    command += [part for change in given.set for part in ("--set", change)]
    command += ["--until", given.until] if given.until else []
    started = time.monotonic()
    hits = kill(command, given.kills, given.longest, random.Random(given.seed), given.out)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    nodes = run_artifacts(given.out, views())
    wrong = [node for node in nodes if manifest(given.whole, node) != manifest(given.out, node)]
    minutes = (time.monotonic() - started) / 60
    print(f"{hits} of {given.kills} kills hit a running process; {minutes:.1f} min in all")
    print(f"{len(nodes)} nodes compared with {given.whole}; different: {', '.join(wrong) or 'none'}")
    raise SystemExit(bool(wrong))


def kill(command: list[str], kills: int, longest: float, moments: random.Random, out: Path) -> int:
    """Start and kill, `kills` times; how many found the process alive. One line for each says what was there then."""
    hits = 0
    for number in range(1, kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        seconds = moments.uniform(0.5, longest)
        time.sleep(seconds)
        alive = process.poll() is None
        process.kill()
        process.wait()
        hits += alive
        done = run_artifacts(out, views()) if out.exists() else []
        state = "killed" if alive else "had ended"
        print(f"kill {number}: {state} after {seconds:.1f} s; {len(done)} nodes whole", flush=True)
    return hits


def manifest(run: Path, node: str) -> bytes:
    return (run / node / MANIFEST).read_bytes()


if __name__ == "__main__":
    main()
