"""What a sandbox adds to a program's time: fresh Python in each tier, warm Python, beside `python -c` with no sandbox.

    python benchmarks/sandbox_latency.py --runs 200

All are asked in turn, so that a busy moment meets all of them. `nanochat's way` is a child with an address space of
256 MB and an emptied environment, which isolates nothing. `cold` starts a sandbox for one program and ends it.
Milliseconds above the bare one: the median of one less the median of the other, and so for the 99th percentile. The
last line is the lowest of aim over time: 60 ms for fresh Python, 30 ms in the tier without namespaces; 1.00 or more is
the aim."""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from qwenkit.sandbox import Limits, Sandbox, probe
from qwenkit.sandbox.probe import BACKENDS

AIMS = {"bwrap": 60.0, "landlock": 30.0}


def bare() -> None:
    """Run `python -c pass`."""
    subprocess.run([sys.executable, "-c", "pass"], check=True, capture_output=True)


def nanochats_way() -> None:
    """Run it as nanochat does: a limit of memory, an emptied environment, a temporary folder, and no isolation."""
    most = 256 << 20
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", "pass"], check=True, capture_output=True, cwd=folder, env={},
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)))  # fmt: skip


def cold(backend: str) -> Callable[[], None]:
    """Return what starts a sandbox, runs a program and ends the sandbox."""

    def run() -> None:
        with Sandbox(Limits(), backend) as box:  # pyright: ignore[reportArgumentType]
            assert box.run("pass").status == "ok"

    return run


def ways(boxes: dict[str, Sandbox]) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    measured: dict[str, Callable[[], object]] = {"python -c": bare, "nanochat's way": nanochats_way}
    for name, box in boxes.items():
        measured[name] = lambda box=box: box.run("pass").status == "ok" or sys.exit("a run failed")
    return measured


def measure(measured: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Return the milliseconds of each way, asked in turn."""
    times: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(runs + 3):
        for name, run in measured.items():
            begin = time.perf_counter()
            run()
            if number >= 3:
                times[name].append(1000 * (time.perf_counter() - begin))
    return times


def at(times: list[float], share: float) -> float:
    """Return a percentile."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def main() -> None:
    """Measure, and print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    tiers = [name for name in BACKENDS if probe(name).works]
    boxes = {name: Sandbox(Limits(), name) for name in tiers}
    boxes |= {f"{name}, warm": Sandbox(Limits(), name, imports=["numpy"]) for name in tiers}
    times = measure(ways(boxes), runs)
    times |= measure({f"{name}, cold": cold(name) for name in tiers}, max(1, runs // 10))
    for box in boxes.values():
        box.close()
    base = times["python -c"]
    print(f"{platform.machine()}, Python {platform.python_version()}, {runs} runs each in turn, ms")
    print(f"{'':<20}{'median':>8}{'p99':>8}{'above':>8}{'p99':>8}")
    scores = []
    for name, values in times.items():
        above = statistics.median(values) - statistics.median(base), at(values, 0.99) - at(base, 0.99)
        print(f"{name:<20}{statistics.median(values):>8.1f}{at(values, 0.99):>8.1f}{above[0]:>8.1f}{above[1]:>8.1f}")
        if name in AIMS:
            scores += [AIMS[name] / max(part, 0.01) for part in above]
    print(f"ratio {min([*scores, 99.99]):.2f}")


if __name__ == "__main__":
    main()
