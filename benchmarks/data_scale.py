"""Does the corpus engine's cost grow with its input, and only that? Synthetic documents, and gigabytes under a bound.

    python benchmarks/data_scale.py [--documents 1e4 1e5 1e6] [--gigabytes 5] [--workers 2] [--place FOLDER]

Documents are sentences of invented words, Zipf-distributed, a tenth of them copies of an earlier one with a word
changed. Each size is built in a fresh process. Seconds are of the wall; memory is the largest sum of resident sizes
over the process and its workers, looked at ten times a second (shared pages count once for each of them). The last line
is the cost of a document at the largest number over that at the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WORDS, LENGTH = 50_000, 60
CHILD = """
import sys
from pathlib import Path
from qwenkit.data import CorpusConfig, Source, build_corpus
source, folder, workers = sys.argv[1:]
text = [Source("text", source, "text")]
found = build_corpus(text, (), CorpusConfig(seed=1), folder=Path(folder), workers=int(workers))
print(sum(len(batch) for batch in found.batches()))
"""


def documents(count: int, words: int, seed: int = 0) -> Iterator[str]:
    """Texts of some sentences; every tenth is an earlier one with a word changed."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lexicon = ["".join(draw.choice(letters, draw.integers(2, 10))) for _ in range(WORDS)]
    earlier: list[list[str]] = []
    for number in range(count):
        if number % 10 == 9:
            text = list(earlier[draw.integers(len(earlier))])
            text[draw.integers(len(text))] = "changed"
        else:
            text = [lexicon[i] for i in np.minimum(draw.zipf(1.3, words), WORDS) - 1]
            earlier = [*earlier[-99:], text]
        yield ". ".join(" ".join(text[at : at + 12]).capitalize() for at in range(0, len(text), 12)) + "."


def write(path: Path, count: int | None, size: float, words: int) -> tuple[int, int]:
    """Documents and bytes of a file of that many documents, or of that size."""
    number = total = 0
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(count or 10**9, words), 1):
            total += file.write(json.dumps({"id": f"d{number:08d}", "text": text}) + "\n")
            if count is None and total >= size:
                break
    return number, total


def resident(group: int) -> float:
    """MB over all processes of a process group."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == group:
                    found += int((entry / "statm").read_text().split()[1])
            except (OSError, ValueError):
                continue
    return found * os.sysconf("SC_PAGE_SIZE") / 2**20


def build(source: Path, folder: Path, workers: int) -> tuple[float, float, int]:
    """Seconds, MB, and documents kept."""
    started, peak = time.perf_counter(), 0.0
    command = [sys.executable, "-c", CHILD, str(source), str(folder), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.1)
        assert child.stdout is not None and child.returncode == 0
        return time.perf_counter() - started, peak, int(child.stdout.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, nargs="*", default=[1e4, 1e5, 1e6])
    parser.add_argument("--gigabytes", type=float, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--place", type=Path, help="where files are put, and removed again")
    given = parser.parse_args()
    print("| documents | MB | kept | seconds | µs a document | MB/s | peak MB |\n|---|---|---|---|---|---|---|")
    costs = []
    sizes = [(int(count), 0.0, LENGTH) for count in given.documents]
    for count, size, words in [*sizes, *([(None, given.gigabytes * 1e9, 400)] if given.gigabytes else [])]:
        place = Path(tempfile.mkdtemp(dir=given.place))
        try:
            number, total = write(place / "in.jsonl", count, size, words)
            seconds, peak, kept = build(place / "in.jsonl", place / "work", given.workers)
        finally:
            shutil.rmtree(place)
        costs += [seconds / number] if count else []
        print(f"| {number:,} | {total / 1e6:,.0f} | {kept:,} | {seconds:.1f} | {1e6 * seconds / number:.0f} | "
              f"{total / 1e6 / seconds:.1f} | {peak:,.0f} |", flush=True)  # fmt: skip
    if len(costs) > 1:
        print(f"cost of a document, largest over smallest: {costs[-1] / costs[0]:.2f}")


if __name__ == "__main__":
    main()
