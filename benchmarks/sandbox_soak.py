"""Many programs in a row, good and bad: nothing is left of them, and nothing grows.

    python benchmarks/sandbox_soak.py --runs 10000

Ends with code 1 where a process, a folder, a descriptor or a cgroup is left, or the memory of this process grows by
more than 20 MB after the first tenth of the runs."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from qwenkit.sandbox import Limits, Sandbox, probe
from qwenkit.sandbox.probe import BACKENDS

LIMITS = Limits(cpu_seconds=2, memory_bytes=128 << 20, processes=16, files=64, file_bytes=2 << 20, output_bytes=10_000,
                disk_bytes=4 << 20)  # fmt: skip
PROGRAMS = (
    ("print('x')", "ok"),
    ("open('f', 'w').write('x' * 1000)", "ok"),
    ("1 / 0", "error"),
    ("import os\nif os.fork() == 0:\n  os.setsid()\n  while True: pass", "ok"),
    ("import os\nfor _ in range(40):\n  if os.fork() == 0: os._exit(0)\nimport time; time.sleep(5)", "processes"),
    ("x = bytearray(10 ** 9)", "memory"),
    ("for i in range(9): open(f'f{i}', 'wb').write(b'x' * 10 ** 6)", "disk"),
    ("import time; time.sleep(9)", "timeout"),
    ("while True: print('x' * 1000)", "output"),
)


def counts() -> dict[str, int]:
    """Return what could be left: descriptors and children of this process, folders, cgroups, strangers' processes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    strangers = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            strangers += path.stat().st_uid >= 1_900_000_000
        except OSError:
            continue
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": len(children),
        "programs": strangers,
        "folders": len(list(Path(tempfile.gettempdir()).glob(f"qwenkit-sandbox-{os.getpid()}-*"))),
        "cgroups": len(list(Path("/sys/fs/cgroup").glob(f"**/qwenkit-sandbox-{os.getpid()}-*"))),
    }


def megabytes() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run the programs in each tier, and say what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    problems = []
    for backend in (name for name in BACKENDS if probe(name).works):
        before, statuses, begin, size = counts(), Counter[str](), time.perf_counter(), 0.0
        with Sandbox(LIMITS, backend) as box:
            for number in range(runs):
                code, expected = PROGRAMS[number % len(PROGRAMS)]
                status = box.run(code, timeout=0.3 if expected == "timeout" else 20).status
                statuses[status if status == expected else f"{status} for {expected}"] += 1
                if number == runs // 10:
                    size = megabytes()
        left = {name: after - before[name] for name, after in counts().items() if after != before[name]}
        grown = megabytes() - size
        seconds = time.perf_counter() - begin
        print(
            f"{backend}: {runs} runs in {seconds:.0f} s, {dict(statuses)}, left: {left or 'nothing'}, {grown:+.1f} MB"
        )
        problems += [left] * bool(left) + [grown] * (grown > 20) + [name for name in statuses if " for " in name]
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
