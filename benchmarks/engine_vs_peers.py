"""The engine beside `transformers` and llama.cpp: the same weights and prompts, in turn, on this machine's processor,
and one cell on its GPU where it has one.

    python3 -m venv .peers-engine && .peers-engine/bin/pip install -r benchmarks/peers-engine.txt
    python benchmarks/engine_vs_peers.py (--model FOLDER | --shape 0.5b) [--cells prefill,decode_bf16,...] [--runs 5]
        [--without LABEL,...] [--threads N] [--peers PYTHON] [--work FOLDER] [--lock FILE] [--out FILE.json]

`--model` is a bf16 folder (Qwen2 or Qwen3), `--shape` makes random weights of a shape. GGUF files are our own export of
the same weights; quantized forms are made once and kept in `--work` (`engine_models.py`). Every engine is a process of
its own with the same number of threads (`engine_peers.py`); in each run all of a cell answer in turn, after one turn
that warms up. Prompts are random ids, new in every run, so nothing is found in a cache but where the cell says so. No
engine speculates. `--lock` locks that file for each cell, where several people measure on one machine.

| cell        | what is measured                                                               | aim, or of the bound |
| ----------- | ------------------------------------------------------------------------------ | -------------------- |
| prefill     | a prompt of 512 tokens and the first new one, bf16, tokens/s                | 1.3x transformers, 70 % |
| decode_bf16 | tokens/s of one answer after a prompt of 64                                    | 1x llama.cpp, 80 %   |
| decode_int8 | the same in 8 bits (a scale a row) beside Q8_0                                 | 1x llama.cpp, 80 %   |
| decode_int4 | the same in 4 bits (groups of 64) beside the faster of Q4_0 and Q4_1           | 1x llama.cpp, 80 %   |
| mixed       | 32 requests at once, prompts of 16 to 512, answers of 16 to 256, bf16: all     | 5x transformers, 80 % |
|             | their tokens a second; the faster of its static batch and continuous batching  |                      |
| prefix      | first tokens a second behind 1,000 tokens that were read before, and that were | 10x the unread one   |
|             | not, bf16                                                                      |                      |
| decode_cuda | tokens/s of one answer on a GPU, bf16, with CUDA graphs and without; where     | 1x transformers, 80 % |
|             | there is no GPU the table and the file say "not measured"                      |                      |

Bounds are measured in the same run with the same threads. Prefill: the operations of its products at the rate of one
square bf16 product of 2,048. Decode: every weight read once for a token, as fast as torch reads a block of that size.
Mixed: the larger of all operations at the first rate, and the weights read once for each token of the longest answer at
the second. A cell's score is the larger of ratio / aim and share of the bound / aimed share; the last line is the
lowest score.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from engine_models import Models, add_arguments, chosen_models, flops
from engine_peers import Process, Request
from qwenkit import platform

PREFILL, PROMPT, PREFIX, TAIL = 512, 64, 1000, 16
Turn = Callable[[int], float]
"""One measurement, of the run of this number."""


def mixed_lengths() -> list[tuple[int, int]]:
    """Return the lengths of the 32 requests: prompts and answers, each evenly spread in its logarithm."""
    draw = random.Random(16)
    return [(round(16 * 32 ** draw.random()), round(16 * 16 ** draw.random())) for _ in range(32)]


@dataclass
class Cell:
    """What one cell compares: for each label how one turn is measured."""

    name: str
    unit: str
    turns: dict[str, Turn]
    rivals: tuple[str, ...]
    aim: float
    share: float | None = None
    """The aimed share of the bound; None: there is none."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    agreement: dict[str, int] = field(default_factory=dict)
    """How many first tokens of a greedy answer equal ours."""

    @property
    def medians(self) -> dict[str, float]:
        """Return the median of each label."""
        return {label: statistics.median(values) for label, values in self.figures.items()}

    @property
    def ratio(self) -> float:
        """Return ours over the fastest rival."""
        return self.medians["qwenkit"] / max(self.medians[label] for label in self.rivals)

    @property
    def score(self) -> float:
        """Return the larger of ratio / aim and share of the bound / aimed share."""
        reached = self.ratio / self.aim
        if self.share is None:
            return reached
        return max(reached, self.medians["qwenkit"] / self.medians["bound"] / self.share)


class Bench:
    """The model, the machine, and the engines of the cell that is being measured."""

    def __init__(self, models: Models, given: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        """Take the model, the command line, and what ends the processes."""
        self.models, self.given, self.stack = models, given, stack
        self.machine = self.start("machine", sys.executable, threads=given.threads)
        self.versions = dict(self.machine.versions)

    def start(self, kind: str, python: Path | str, **options: object) -> Process:
        """Start an engine, which ends with the cell."""
        return self.stack.enter_context(Process(kind, python, **options))

    def ours(self, form: str, **options: object) -> Process:
        """Start our engine on a form of the model."""
        model = self.models.folder(form)
        return self.start("qwenkit", sys.executable, model=model, threads=self.given.threads, **options)

    def transformers(self, kind: str = "transformers", **options: object) -> Process:
        """Start transformers on the bf16 model."""
        return self._peer(kind, model=self.models.folder("bf16"), threads=self.given.threads, **options)

    def llama(self, gguf: str, slots: int = 1, context: int = 2048, cached: bool = False) -> Process:
        """Start llama.cpp on a GGUF file of a kind."""
        return self._peer("llama.cpp", model=self.models.gguf(gguf), threads=self.given.threads, slots=slots,
                          context=context, cached=cached)  # fmt: skip

    def _peer(self, kind: str, **options: object) -> Process:
        process = self.start(kind, self.given.peers, **options)
        self.versions |= {name: version for name, version in process.versions.items() if name != "torch"}
        self.versions["torch of peers"] = process.versions.get("torch", "none")
        return process

    def ids(self, count: int, *seed: object) -> list[int]:
        """Return the ids of a random prompt, the same for every engine."""
        draw = random.Random(repr(seed))
        return [draw.randrange(10, self.models.config.vocab_size * 9 // 10) for _ in range(count)]

    def bandwidth(self, form: str) -> float:
        """Return the bytes a second of reading a block of the size of the weights."""
        return self.machine.ask("read", self.models.decode_bytes(form))[1]

    def peak(self) -> float:
        """Return the operations a second of a matrix product in bf16."""
        return self.machine.ask("product", "bfloat16")[1]


# ---- the cells -------------------------------------------------------------------------------------------------------


def prefill(bench: Bench) -> Cell:
    """One prompt, in tokens a second."""
    engines = {"qwenkit": bench.ours("bf16"), "transformers": bench.transformers(), "llama.cpp": bench.llama("BF16")}
    work = flops(bench.models.config, [(0, PREFILL, 1)])

    def turn(engine: Process) -> Turn:
        return lambda run: PREFILL / engine.answer([(bench.ids(PREFILL, "prefill", run), 1)])[0]

    turns = {label: turn(engine) for label, engine in engines.items()}
    turns["bound"] = lambda run: PREFILL * bench.peak() / work
    return Cell("prefill", "tokens/s", turns, ("transformers",), aim=1.3, share=0.7)


def decode(bench: Bench, name: str, form: str, ggufs: tuple[str, ...]) -> Cell:
    """One answer beside llama.cpp's, on the processor."""
    engines = {"qwenkit": bench.ours(form)} | {f"llama.cpp {kind}": bench.llama(kind) for kind in ggufs}
    rivals = tuple(label for label in engines if label != "qwenkit")
    if form == "bf16":
        engines["transformers"] = bench.transformers()
    return answering(bench, Cell(name, "tokens/s", {}, rivals, aim=1.0, share=0.8), engines, form)


def decode_cuda(bench: Bench) -> Cell:
    """One answer beside transformers', on a GPU."""
    engines = {"qwenkit": bench.ours("bf16", device="cuda"),
               "qwenkit, no graphs": bench.ours("bf16", device="cuda", cuda_graphs=False),
               "transformers": bench.transformers(device="cuda")}  # fmt: skip
    bench.machine = bench.start("machine", sys.executable, threads=bench.given.threads, device="cuda")
    cell = Cell("decode_cuda", "tokens/s", {}, ("transformers",), aim=1.0, share=0.8)
    return answering(bench, cell, engines, "bf16")


def answering(bench: Bench, cell: Cell, engines: dict[str, Process], form: str) -> Cell:
    """Fill in how one answer is measured, in tokens a second: what a long one takes more than one of one token."""
    name, tokens = cell.name, bench.given.tokens
    first: list[int] = []

    def turn(label: str, engine: Process) -> Turn:
        shorts: list[float] = []  # the least of them is taken off: one that was disturbed would make an answer faster

        def measure(run: int) -> float:
            shorts.append(engine.answer([(bench.ids(PROMPT, name, run, "short"), 1)])[0])
            long, answers = engine.answer([(bench.ids(PROMPT, name, run), 1 + tokens)])
            if run == 0:
                first[:] = first or answers[0]
                asked = bench.ids(PROMPT, name, run), 1 + tokens
                named = engine.ask("named", asked)[1] if engine.kind == "llama.cpp" else answers[0]
                cell.agreement[label] = _equal(first, named)
            return tokens / (long - min(shorts))

        return measure

    cell.turns = {label: turn(label, engine) for label, engine in engines.items()}
    cell.turns["bound"] = lambda run: bench.bandwidth(form) / bench.models.decode_bytes(form)
    return cell


def _equal(ours: list[int], theirs: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), len(ours))


def mixed(bench: Bench) -> Cell:
    """Many requests at once, in tokens a second of prompts and answers together."""
    lengths = mixed_lengths()
    longest = max(prompt + answer for prompt, answer in lengths) + 1
    engines = {"qwenkit": bench.ours("bf16"), "transformers, one static batch": bench.transformers(),
               "transformers, continuous": bench.transformers("transformers continuous"),
               "llama.cpp": bench.llama("BF16", slots=len(lengths), context=longest)}  # fmt: skip
    total = sum(prompt + answer for prompt, answer in lengths)
    work = flops(bench.models.config, [(0, prompt, 1) for prompt, _ in lengths])
    work += flops(bench.models.config, [(prompt, prompt + answer - 1, answer - 1) for prompt, answer in lengths])
    read = bench.models.decode_bytes("bf16") * max(answer for _, answer in lengths)

    def turn(engine: Process) -> Turn:
        def measure(run: int) -> float:
            asked: list[Request] = [(bench.ids(prompt, "mixed", run, i), n) for i, (prompt, n) in enumerate(lengths)]
            return total / engine.answer(asked)[0]

        return measure

    turns = {label: turn(engine) for label, engine in engines.items()}
    turns["bound"] = lambda run: total / max(work / bench.peak(), read / bench.bandwidth("bf16"))
    rivals = tuple(label for label in engines if label.startswith("transformers"))
    return Cell("mixed", "tokens/s", turns, rivals, aim=5.0, share=0.8)


def prefix(bench: Bench) -> Cell:
    """The first token behind a prefix that was read before, as prompts a second."""
    engines = {"qwenkit": bench.ours("bf16"), "llama.cpp": bench.llama("BF16", cached=True)}

    def read(engine: Process, run: int, part: int) -> float:
        ids = bench.ids(PREFIX, "prefix", run) + bench.ids(TAIL, "tail", run, part)
        return 1 / engine.answer([(ids, 1)])[0]

    def turn(engine: Process, part: int) -> Turn:
        return lambda run: read(engine, run, part)

    turns = {}
    for label, engine in engines.items():  # the unread one comes first in every run
        turns[f"{label}, unread prefix"], turns[label] = turn(engine, 0), turn(engine, 1)
    return Cell("prefix", "prompts/s", turns, ("qwenkit, unread prefix",), aim=10.0)


CELLS: dict[str, Callable[[Bench], Cell]] = {
    "prefill": prefill,
    "decode_bf16": lambda bench: decode(bench, "decode_bf16", "bf16", ("BF16",)),
    "decode_int8": lambda bench: decode(bench, "decode_int8", "int8", ("Q8_0",)),
    "decode_int4": lambda bench: decode(bench, "decode_int4", "int4", ("Q4_0", "Q4_1")),
    "mixed": mixed,
    "prefix": prefix,
    "decode_cuda": decode_cuda,
}
ON_GPU = frozenset({"decode_cuda"})
NOT_MEASURED = "not measured: no GPU here"


# ---- all of them -----------------------------------------------------------------------------------------------------


def measured(models: Models, name: str, given: argparse.Namespace, versions: dict[str, str]) -> Cell:
    """Measure one cell: every label in turn, `runs` times after one that warms up."""
    with contextlib.ExitStack() as stack:
        bench = Bench(models, given, stack)
        cell = CELLS[name](bench)
        for label in given.without.split(","):
            cell.turns.pop(label, None)
        cell.rivals = tuple(label for label in cell.rivals if label in cell.turns)
        cell.figures = {label: [] for label in cell.turns}
        with alone(given.lock):
            for run in range(given.runs + 1):
                for label, turn in cell.turns.items():
                    value = turn(run)
                    if run:  # the first one warms up
                        cell.figures[label].append(value)
                print(f"{name}: {run} of {given.runs} runs", file=sys.stderr, flush=True)
        print(*table([cell]), sep="\n", file=sys.stderr, flush=True)  # should a later cell fail
        versions |= bench.versions
    return cell


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold a lock on a file inside the `with` block, where one is given."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table(cells: list[Cell]) -> Iterator[str]:
    """Yield the lines of a table of all cells."""
    yield "| cell | | median | lowest to highest | qwenkit over it |"
    yield "| --- | --- | --- | --- | --- |"
    for cell in cells:
        ours = cell.medians["qwenkit"]
        for label, values in cell.figures.items():
            middle = cell.medians[label]
            over = "" if label == "qwenkit" else f"{ours / middle:.2f}"
            yield (f"| {cell.name}, {cell.unit} | {label} | {middle:.4g} | {min(values):.4g} to {max(values):.4g} "
                   f"| {over} |")  # fmt: skip


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--without", default="", help="labels of the table to leave out, where one is too slow here")
    return parser.parse_args()


def main() -> None:
    """Measure the cells, print the table and the scores, the lowest one last."""
    given = arguments()
    if unknown := set(given.cells.split(",")) - set(CELLS):
        sys.exit(f"no cell {', '.join(unknown)}; there are {', '.join(CELLS)}")
    with contextlib.ExitStack() as stack:
        models = chosen_models(given, stack)
        versions: dict[str, str] = {}
        names = given.cells.split(",")
        missing = [name for name in names if name in ON_GPU and platform.pick_device("auto") != "cuda"]
        cells = [measured(models, name, given, versions) for name in names if name not in missing]
    report(cells, missing, models, versions, given)


def report(
    cells: list[Cell], missing: list[str], models: Models, versions: dict[str, str], given: argparse.Namespace
) -> None:
    """Print a table for people, write a file for programs, and print the lowest score last, of what was measured."""
    model = given.shape or f"{models.config.parameters / 1e6:.0f}M parameters"
    facts = {"date": str(date.today()), "machine": platform.machine(), "versions": versions, "threads": given.threads,
             "runs": given.runs, "model": model}  # fmt: skip
    print("; ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    lines = [*table(cells), *(f"| {name} | {NOT_MEASURED} | | | |" for name in missing)]
    print("\n".join(lines), end="\n\n")
    for cell in cells:
        bound = f", {cell.medians['qwenkit'] / cell.medians['bound']:.2f} of the bound" if cell.share else ""
        print(f"{cell.name}: {cell.ratio:.2f} of {' or '.join(cell.rivals)} (aim {cell.aim:g}){bound} "
              f"-> score {cell.score:.2f}")  # fmt: skip
        if cell.agreement:
            print(f"  first equal tokens of {given.tokens + 1}, greedy: {cell.agreement}")
    if given.out:
        rows: dict[str, object] = {cell.name: {"unit": cell.unit, "figures": cell.figures, "ratio": cell.ratio,
                                               "score": cell.score} for cell in cells}  # fmt: skip
        rows |= dict.fromkeys(missing, NOT_MEASURED)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**facts, "cells": rows}, indent=1) + "\n")
    if cells:
        print(f"ratio {min(cell.score for cell in cells):.2f}")


if __name__ == "__main__":
    main()
