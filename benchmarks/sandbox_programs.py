"""Published programs with unit tests: each canonical solution passes, each buggy one fails.

    python benchmarks/sandbox_programs.py DATA --languages python,javascript --limit 20

DATA is a folder with `humaneval`, `mbpp`, `humaneval_x` and `humanevalpack` as their authors publish them. Languages
whose compiler is missing are listed as not run. Ends with code 1 where a verdict is not the expected one."""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qwenkit.sandbox import Limits, Problem, Sandbox, run_tests
from qwenkit.sandbox.languages import LANGUAGES, compiler

SHORT = {"javascript": "js"}
CRATES = r"^use (rand|regex|md5)\b.*;$"
"""Crates that no solution but a few needs, and rustc alone does not have."""


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; none where there is no such file."""
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def python_programs(data: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (name, program, tests, whether it is right) in Python."""
    for row in rows(data / "humaneval" / "HumanEval.jsonl.gz"):
        tests = f"{row['test']}\ncheck({row['entry_point']})"
        yield row["task_id"], row["prompt"] + row["canonical_solution"], tests, True
        yield row["task_id"] + " empty", row["prompt"] + "    return None\n", tests, False
    for row in rows(data / "mbpp" / "mbpp.jsonl.gz"):
        tests = "\n".join([row["test_setup_code"], *row["test_list"]])
        yield f"MBPP/{row['task_id']}", row["code"], tests, True
    for row in rows(data / "humanevalpack" / "humanevalpack_python.jsonl.gz"):
        yield row["task_id"], row["declaration"] + row["canonical_solution"], row["test"], True
        yield row["task_id"] + " buggy", row["declaration"] + row["buggy_solution"], row["test"], False


def programs(data: Path, language: str) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (name, program, tests, whether it is right) in a language."""
    if language == "python":
        yield from python_programs(data)
        return
    short = SHORT.get(language, language)
    for folder, stem in (("humaneval_x", "humaneval"), ("humanevalpack", "humanevalpack")):
        for row in rows(data / folder / f"{stem}_{short}.jsonl.gz"):
            head = row["prompt"] if language in ("java", "cpp") else row["declaration"]
            if language == "cpp" and folder == "humanevalpack":
                head = row["declaration"]
            head = re.sub(CRATES, "", head, flags=re.M) if language == "rust" else head
            for kind, right in (("canonical_solution", True), ("buggy_solution", False)):
                if kind in row:
                    yield f"{folder} {row['task_id']} {kind}", head + row[kind], row["test"], right


def judge(language: str, items: list[tuple[str, str, str, bool]]) -> list[tuple[str, str]]:
    """Return (name, why) of the programs whose verdict is not the expected one."""
    tools = compiler(language) if language != "python" else None
    limits = Limits(cpu_seconds=60 if tools else 15, memory_bytes=2 << 30, processes=128)
    with Sandbox(limits, readable=tools[1] if tools else (), imports=[] if language == "python" else None) as box:
        with ThreadPoolExecutor(2) as pool:
            verdicts = list(
                pool.map(lambda item: run_tests(Problem(item[2], language=language), item[1], box, 120), items)
            )
    wrong = []
    for (name, _, _, right), verdict in zip(items, verdicts):
        if verdict.passed != right:
            last = verdict.result.stderr.strip()[-200:] if verdict.result else ""
            wrong.append((name, f"{verdict.state}: {verdict.reason} {last}"))
    return wrong


def main() -> None:
    """Judge the programs of each language and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--limit", type=int, default=None, help="programs of a language at most, evenly spread")
    options = parser.parse_args()
    failed = False
    for language in options.languages.split(","):
        items = list(programs(options.data, language))
        items = items[:: max(1, -(-len(items) // options.limit))] if options.limit else items
        if language != "python" and compiler(language) is None:
            print(f"{language}: not run, {LANGUAGES[language].program} is not installed")
            continue
        begin = time.perf_counter()
        wrong = judge(language, items)
        seconds = time.perf_counter() - begin
        counts = Counter(right for *_, right in items)
        print(f"{language}: {counts[True]} right and {counts[False]} wrong programs, {len(wrong)} verdicts differ, "
              f"{len(items) / seconds:.1f} a second", flush=True)  # fmt: skip
        for name, why in wrong[:20]:
            print(f"  {name}: {why}")
        failed |= bool(wrong)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
