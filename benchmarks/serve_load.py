"""A server under load: many streaming clients for a long time, then a thousand requests at once.

    python benchmarks/serve_load.py MODEL [--clients 64] [--seconds 600] [--burst 1000] [--threads 0]
        [--kv-tokens 32768] [--lock FILE] [--out FILE.json] [--plot FILE.svg]

1. `--clients` ask `qwenkit serve` again and again for `--seconds`: errors, times to the first token and between tokens,
   fairness. The server's memory is read each second; after a warm-up of a fifth of the time, in which its cache fills
   (`--kv-tokens` bounds it), a line is fitted: flat is a growth of less than 16 MB or 3 % over the rest. A run of a few
   seconds is not flat: its cache still fills.
2. `--burst` requests come at once: some are answered, all others are sent away with 429, none is lost. The memory they
   take is bounded: at most 256 MB, and no more than that afterwards. Then the queue is empty, and single requests take
   as long as they did before the load (at most 1.5 times the median, and 50 ms).

Prints a table, then one JSON object, then the verdict; the exit code is 1 where something is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from qwenkit import platform
from qwenkit.cli.load import clock, heading, remarks
from qwenkit.serving.load.loops import LoadPlan, LoadRun, Progress
from qwenkit.serving.load.measures import LoadReport, summarize
from qwenkit.serving.load.plot import write_plot
from qwenkit.serving.load.records import RequestRecord
from qwenkit.serving.load.requests import Lengths, made_requests
from qwenkit.serving.load.sender import HttpSender, Target
from server_process import MemorySamples, ServerProcess

MB = 1e6
WARM_UP, FLAT_SHARE, FLAT_BYTES, BURST_BYTES = 0.2, 0.03, 16 * MB, 256 * MB
SINGLE, SLOWER, SLACK, IDLE_SECONDS = 7, 1.5, 0.05, 60.0


def ask(server: ServerProcess, plan: LoadPlan, prompt: str, answer: str) -> tuple[list[RequestRecord], LoadReport]:
    """Run a load test against the server."""
    requests = made_requests(
        plan.seed, Lengths.parse(prompt, "--prompt-tokens"), Lengths.parse(answer, "--answer-tokens")
    )

    async def measure() -> tuple[list[RequestRecord], LoadRun]:
        async with HttpSender(Target(server.url, "completions", body={"ignore_eos": True})) as send:
            run = LoadRun(plan, requests, send, tell)
            return await run.run(), run

    records, run = asyncio.run(measure())
    return records, summarize(records, unsent=run.unsent, client=run.cost())


def tell(progress: Progress) -> None:
    """Show how far the run is, now and then."""
    if round(progress.seconds) % 10 == 0:
        left = "" if progress.left is None else f", {clock(progress.left)} left"
        print(f"{progress.ended} requests, {progress.errors} errors{left}", file=sys.stderr, flush=True)


def growth(seconds: list[float], memory: list[float]) -> dict[str, float]:
    """Return how the memory grew after the warm-up: bytes over that time by a fitted line, and the bytes at its end."""
    kept = [(at, size) for at, size in zip(seconds, memory) if at >= WARM_UP * seconds[-1]]
    slope = np.polyfit([at for at, _ in kept], [size for _, size in kept], 1)[0] if len(kept) > 2 else 0.0
    return {"bytes": float(slope) * (kept[-1][0] - kept[0][0]), "bytes_per_minute": 60 * float(slope),
            "seconds": kept[-1][0] - kept[0][0], "last": kept[-1][1]}  # fmt: skip


def steady(server: ServerProcess, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """Run the long test."""
    plan = LoadPlan(clients=given.clients, duration=given.seconds, seed=1)
    with MemorySamples(server) as memory:
        records, report = ask(server, plan, given.prompt_tokens, given.answer_tokens)
    grown = growth(list(memory.seconds), list(memory.bytes))
    show(f"{heading(report, plan)}", report)
    print(f"memory   {memory.bytes[0] / MB:.0f} MB at the start, {grown['last'] / MB:.0f} MB at the end; "
          f"{grown['bytes'] / MB:+.1f} MB in the last {grown['seconds']:.0f} s\n")  # fmt: skip
    if given.plot:
        write_plot(records, given.plot, f"{given.model.name}, {given.clients} clients")
    checks = {
        "no error": not report.failed and not report.cut and report.finished > 0,
        "flat memory": grown["bytes"] < max(FLAT_BYTES, FLAT_SHARE * grown["last"]),
    }
    return {**asdict(report), "memory": grown}, checks


def burst(server: ServerProcess, given: argparse.Namespace, before: float) -> tuple[dict[str, Any], dict[str, bool]]:
    """Send many requests at once, then look whether the server is as it was."""
    start = server.resident()
    plan = LoadPlan(clients=given.burst, requests=given.burst, seed=2)
    with MemorySamples(server, 0.1) as memory:
        began = time.monotonic()
        _, report = ask(server, plan, given.prompt_tokens, given.answer_tokens)
        seconds = time.monotonic() - began
    idle = server.wait_until_idle(IDLE_SECONDS)
    after, most = single(server, given, 4), max(memory.bytes)
    show(
        f"{given.burst} at once: {report.finished} finished, {report.rejected} sent away (429), {seconds:.1f} s", report
    )
    print(f"memory   {start / MB:.0f} MB before, {most / MB:.0f} MB at most, {server.resident() / MB:.0f} MB after")
    print(f"single   {1000 * before:.0f} ms before all load, {1000 * after:.0f} ms after it\n")
    others = {kind: number for kind, number in report.errors.items() if kind != "HTTP 429"}
    checks = {
        "all answered or sent away": not others and report.finished + report.rejected == given.burst,
        "some answered": report.finished > 0,
        "bounded memory": most - start < BURST_BYTES and server.resident() - start < BURST_BYTES,
        "queue empty": idle is not None,
        "recovered": after <= SLOWER * before + SLACK,
    }
    figures = {"memory": {"before": start, "most": most, "after": server.resident()}, "single_before": before,
               "single_after": after, "idle_after": idle}  # fmt: skip
    return {**asdict(report), "rejected": report.rejected, **figures}, checks


def single(server: ServerProcess, given: argparse.Namespace, seed: int) -> float:
    """Return the median time of a request that has the server for itself."""
    records, _ = ask(server, LoadPlan(clients=1, requests=SINGLE, seed=seed), "32", "32")
    if any(record.error for record in records):
        sys.exit(f"a single request failed: {[record.error for record in records]}")
    return statistics.median(record.latency for record in records)


def show(title: str, report: LoadReport) -> None:
    """Print a report."""
    print(title)
    for name, times in (("first token", report.first_token), ("inter-token", report.inter_token)):
        if times is not None:
            shown = "  ".join(f"{key} {1000 * getattr(times, key):.1f} ms" for key in ("p50", "p95", "p99", "max"))
            print(f"{name}  {shown}")
    print("\n".join(remarks(report)))


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold a lock on a file inside the `with` block, where one is given."""
    with contextlib.ExitStack() as stack:
        if lock is not None:
            fcntl.flock(stack.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield


def main() -> int:
    """Run both parts, print what came of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    for name, default in (("clients", 64), ("burst", 1000), ("threads", 0), ("kv-tokens", 32768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--prompt-tokens", default="16-128")
    parser.add_argument("--answer-tokens", default="16-128")
    for name in ("lock", "out", "plot"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    options = ("--threads", str(given.threads), "--kv-tokens", str(given.kv_tokens))
    with alone(given.lock), ServerProcess(given.model, *options) as server:
        single(server, given, 3)  # the first ones are slower: nothing is packed or compiled yet
        before = single(server, given, 5)
        long, long_checks = steady(server, given)
        short, short_checks = burst(server, given, before)
    facts = {"date": str(date.today()), "machine": platform.machine(), "model": given.model.name,
             "clients": given.clients, "threads": given.threads, "kv_tokens": given.kv_tokens}  # fmt: skip
    checks = {**long_checks, **short_checks}
    result = {**facts, "steady": long, "burst": short, "checks": checks}
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    bad = [name for name, good in checks.items() if not good]
    print(f"BAD: {', '.join(bad)}" if bad else f"good: {', '.join(checks)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
