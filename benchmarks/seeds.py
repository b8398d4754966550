"""Several seeds of the nano family with two ablations, in one report: what is the recipe's, and what one seed's luck?

    python benchmarks/seeds.py --out runs/seeds [--seeds 1 2 3] [--recipe nano] [--parallel 2 --threads 1]
                               [--reuse runs/nano]

World, tests, corpus and tokenizer are those of the first seed for all: what varies is training. Beside the family stand

* `reward-plain`: the reward model from the base model instead of the preference model; the same clean pairs, the same
  updates. Read beside `reward`: what does preference-model pretraining give (report 3.2.1)?
* `rlhf-noptx`: PPO without the pretraining gradient; all else equal. Read beside `chat-rlhf`: what does that term keep
  (report 3.2.2)?

Each run can be cut off and started again; a finished one is not run twice. `RUN/report.html` of the last line's folder
and `ablations.md` beside it hold the results. On two cores three seeds take about 80 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qwenkit.artifacts import read_manifest
from qwenkit.lineage.recipe import recipe_text
from qwenkit.records import read_jsonl
from qwenkit.statistics import across_seeds, pooled_mean

SHARED = ("world", "testsets", "corpus", "tokenizer")
PAIRS = (("reward", "reward-plain"), ("chat-rlhf", "rlhf-noptx"))


def recipe(name: str, threads: int) -> str:
    """The recipe with its ablations, each the table that it varies with one key changed."""
    text = recipe_text(name).partition("[report]")[0]
    tables = tomllib.loads(recipe_text(name))
    plain = {"kind": "reward", **tables["reward"], "model": "base"}
    without = {**tables["chat-rlhf"], "ptx_coef": 0}
    exam = {"kind": "evaluate", **tables["exam"], "models": ["rlhf-noptx", "chat-rlhf"]}
    of = [*tables["report"]["of"], "reward-plain", "rlhf-noptx", "exam-ablations"]
    new = {"reward-plain": plain, "rlhf-noptx": without, "exam-ablations": exam, "report": {"of": of}}
    return text.replace(f"threads = {tables['threads']}", f"threads = {threads}") + "\n".join(map(table, new.items()))


def table(item: tuple[str, dict[str, Any]]) -> str:
    """A TOML table; texts, numbers, truths and lists are written as JSON writes them."""
    name, keys = item
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def raise_family(source: Path, out: Path, seed: int, first: int, reuse: Path | None, *more: str) -> Path:
    """One seed's run; what the first seed has made is taken from it, and the first takes from `reuse`."""
    run = out / f"seed-{seed}"
    known = reuse if seed == first else out / f"seed-{first}"
    changes = [f"seed={seed}", *(f"{name}.seed={first}" for name in SHARED)]
    command = ["run", str(source), "--out", str(run), "--quiet", *(part for c in changes for part in ("--set", c))]
    qwenkit(*command, *(("--reuse", str(known)) if known else ()), *more)
    return run


def qwenkit(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "qwenkit.cli", *arguments], check=True)


def ablations(runs: list[Path]) -> Iterator[str]:
    """A Markdown table of each pair of nodes: by seed, pooled over questions and seeds, over seeds alone."""
    yield "Differences with 95 % intervals; pooled: over questions and seeds; across: Student's t over seeds.\n"
    yield "| difference | measure | by seed | pooled | across seeds |\n|---|---|---|---|---|"
    for label, name in (("held out", "held out"), ("unseen policies", "unseen policies")):
        tables = [paired(margins(run, PAIRS[0][0], name), margins(run, PAIRS[0][1], name)) for run in runs]
        yield row(" − ".join(PAIRS[0]), f"pair accuracy, {label}", tables)
    for items, part in (("chat", "total"), ("chat", "right"), ("base", "right")):
        with_term, without = ([exam(run, node, items, part) for run in runs] for node in PAIRS[1])
        yield row(" − ".join(PAIRS[1]), f"{items} exam, {part}", [paired(a, b) for a, b in zip(with_term, without)])
    by_run = [[read_manifest(run / node).metrics["heldout_loss"] for node in PAIRS[1]] for run in runs]
    for source in sorted(set.intersection(*(set(found) for both in by_run for found in both))):
        losses = [[found[source] for found in both] for both in by_run]
        differences = [kept - lost for kept, lost in losses]
        seeds = ", ".join(f"{d:+.3f} ({kept:.3f}, {lost:.3f})" for d, (kept, lost) in zip(differences, losses))
        measure = f"{' − '.join(PAIRS[1])} | held-out loss, {source}"
        yield f"| {measure} | {seeds} | | {interval(across_seeds(differences))} |"


def row(difference: str, measure: str, tables: list[dict[str, float]]) -> str:
    means = [sum(found.values()) / len(found) for found in tables]
    seeds = ", ".join(f"{mean:+.3f}" for mean in means)
    return f"| {difference} | {measure} | {seeds} | {interval(pooled_mean(tables))} | {interval(across_seeds(means))} |"


def interval(found: Any) -> str:
    known = found.low is not None and found.high is not None
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if known else f"{found.mean:+.3f}"


def paired(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    if a.keys() != b.keys():
        raise SystemExit(f"the two sides do not answer the same questions: {len(a)} and {len(b)}")
    return {key: a[key] - b[key] for key in a}


def margins(run: Path, node: str, name: str) -> dict[str, float]:
    return {item["id"]: item["right"] for item in read_jsonl(run / node / "margins.jsonl") if item["set"] == name}


def exam(run: Path, node: str, items: str, part: str) -> dict[str, float]:
    rows = read_jsonl(run / "exam-ablations" / f"{node}.{items}.jsonl")
    return {item["id"]: item["components"][part] for item in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipe", default="nano")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, after the first one's shared nodes")
    parser.add_argument("--threads", type=int, default=2, help="threads of each run")
    parser.add_argument("--reuse", type=Path, help="a finished run of the recipe with the first seed: not made again")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = given.out / "recipe.toml"
    source.write_text(recipe(given.recipe, given.threads), encoding="utf-8")
    first, *_ = given.seeds
    if given.parallel > 1:
        raise_family(source, given.out, first, first, given.reuse, "--until", "tokenizer")
    with ThreadPoolExecutor(given.parallel) as pool:
        runs = list(pool.map(lambda seed: raise_family(source, given.out, seed, first, given.reuse), given.seeds))
    others = [part for run in runs[1:] for part in ("--seeds", str(run))]
    qwenkit("report", "--of", str(runs[0]), *others, "--out", str(given.out / "report"))
    lines = list(ablations(runs))
    (given.out / "ablations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), given.out / "report", sep="\n")


if __name__ == "__main__":
    main()
