"""An interpreter's times and memory: a start, a warm call, fifty at once.

    python benchmarks/interpreter_latency.py [--runs 200] [--starts 10] [--at-once 50]

Starts and calls in each tier that works here, beside IPython in this process's own Python without a sandbox
(`python -m ipykernel`, over TCP, by `jupyter_client`). A call is `x + 1`, with its files looked for. Memory of those at
once is the proportional set size of all processes that they have started (pages that several share are divided), of the
first tier. Aims: start 2 s, call 50 ms, fifty 3 GB; the last line is the lowest of aim over figure."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jupyter_client.manager import start_new_kernel

from qwenkit.agents import Interpreter
from qwenkit.sandbox import probe
from qwenkit.sandbox.probe import BACKENDS

START, CALL, MEMORY = 2.0, 0.05, 3e9


def seconds(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain(starts: int, runs: int) -> tuple[list[float], list[float]]:
    """Return seconds of starts and of calls of a kernel without a sandbox."""
    began, called = [], []
    for _ in range(starts):
        start = time.perf_counter()
        manager, client = start_new_kernel(kernel_name="python3")
        client.execute_interactive("x = 1", timeout=60)
        began.append(time.perf_counter() - start)
        ask = partial(client.execute_interactive, "x + 1", timeout=60, output_hook=lambda message: None)
        called += [seconds(ask) for _ in range(max(1, runs // starts))]
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return began, called


def confined(backend: str, starts: int, runs: int) -> tuple[list[float], list[float]]:
    """Return seconds of starts and of calls of an interpreter in a tier."""
    began, called = [], []
    for _ in range(starts):
        with Interpreter(backend=backend) as python:  # type: ignore[arg-type]
            began.append(seconds(lambda: python.run("x = 1")))
            called += [seconds(lambda: python.run("x + 1")) for _ in range(max(1, runs // starts))]
    return began, called


def shares() -> dict[int, int]:
    """Return the proportional set size of every process of this machine that may be read, in bytes."""
    found = {}
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found[int(number)] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def at_once(count: int) -> float:
    """Return the memory of so many interpreters that hold a state, in bytes, with their part of this process."""
    before = shares()
    interpreters = [Interpreter() for _ in range(count)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda python: python.run("x = list(range(1000))"), interpreters))
        after = shares()
        own = os.getpid()
        new = sum(size for number, size in after.items() if number not in before)
        return new + after[own] - before[own]
    finally:
        for python in interpreters:
            python.close()


def main() -> None:
    """Measure, print, and end with the lowest of aim over figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=50)
    given = parser.parse_args()
    scores = []
    print(f"{'':<12}{'start s':>10}{'p99':>8}{'call ms':>10}{'p99':>8}")
    for name in ("plain", *BACKENDS):
        if name != "plain" and not probe(name).works:  # type: ignore[arg-type]
            print(f"{name:<12}does not work here: {probe(name).reason}")  # type: ignore[arg-type]
            continue
        measure = plain if name == "plain" else partial(confined, name)
        began, called = measure(given.starts, given.runs)
        print(f"{name:<12}{statistics.median(began):>10.2f}{max(began):>8.2f}{1000 * statistics.median(called):>10.1f}"
              f"{1000 * sorted(called)[int(0.99 * len(called)) - 1]:>8.1f}")  # fmt: skip
        if name != "plain":
            scores += [START / statistics.median(began), CALL / statistics.median(called)]
    memory = at_once(given.at_once)
    print(f"{given.at_once} at once: {memory / 1e9:.2f} GB")
    scores.append(MEMORY * given.at_once / 50 / memory)
    print(f"ratio {min(scores):.2f}")


if __name__ == "__main__":
    main()
