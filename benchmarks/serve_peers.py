"""The server beside llama.cpp's, and beside its own engine without HTTP: the same requests at 16 streams, in turn.

    python3 -m venv .peers-engine && .peers-engine/bin/pip install -r benchmarks/peers-engine.txt
    python benchmarks/serve_peers.py (--model FOLDER | --shape 0.5b) [--bits 16,8,4] [--clients 16] [--requests 48]
        [--runs 5] [--without LABEL,...] [--threads N] [--peers PYTHON] [--work FOLDER] [--lock FILE] [--out FILE.json]

`--model` is a bf16 folder with a tokenizer; forms of 8 and 4 bits, and GGUF files of the same weights, are made once
and kept in `--work` (`engine_models.py`). Three processes have the model at equal bits and as many threads:

| label     | what answers                                                                                            |
| --------- | ------------------------------------------------------------------------------------------------------- |
| server    | `qwenkit serve`, over HTTP                                                                              |
| engine    | our `EngineLoop`, with the settings of the server, asked in its own process                             |
| llama.cpp | its server through `xllamacpp`, over HTTP, a slot for each client; BF16, Q8_0 or Q4_0                   |

In each run all are asked in turn, after one turn that warms up: `--clients` ask, each again when it was answered, until
`--requests` are. Prompts are random ids, new in every run, so nothing is found in a cache; prompts have 16 to 128
tokens, answers 32 to 128, drawn from the run's number, greedily and to their full length. Tokens a second are those of
all answers over the time of the turn. Goodput is the requests a second whose first token came within `--slo-ttft` ms
and whose others within `--slo-itl` ms on average. This process, which asks, runs on the same cores.

A line for each comparison ends with its ratio. Aims: goodput and tokens/s at least llama.cpp's (1.0), or 80 % of the
engine's; HTTP takes at most 5 % of the engine's tokens/s. The last line is the lowest score of all bits: the larger of
server / llama.cpp and server / engine / 0.8, of goodput and of tokens/s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from engine_models import Models, add_arguments, chosen_models
from engine_peers import Process, Request
from engine_vs_peers import alone
from qwenkit import platform
from qwenkit.serving.load.loops import LoadPlan, LoadRun
from qwenkit.serving.load.measures import Objectives, summarize
from qwenkit.serving.load.requests import LoadRequest
from qwenkit.serving.load.sender import HttpSender, Target
from server_process import ServerProcess

PROMPTS, ANSWERS = (16, 128), (32, 128)
FORMS = {16: "bf16", 8: "int8", 4: "int4"}
GGUF_KINDS = {16: "BF16", 8: "Q8_0", 4: "Q4_0"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "qwen.tiktoken", "vocab.json")
AIM, SHARE, HTTP_SHARE = 1.0, 0.8, 0.95
Figures = dict[str, Any]
Turn = Callable[[list[Request]], Figures]


def requests_of(run: int, count: int, vocabulary: int) -> list[Request]:
    """Return the requests of a run, the same for all that are asked."""
    draw = random.Random(f"serve {run}")
    return [([draw.randrange(10, vocabulary * 9 // 10) for _ in range(draw.randint(*PROMPTS))], draw.randint(*ANSWERS))
            for _ in range(count)]  # fmt: skip


def over_http(url: str, clients: int, objectives: Objectives, **body: Any) -> Turn:
    """Return what asks a server."""

    def turn(rows: list[Request]) -> Figures:
        async def measure() -> Figures:
            target = Target(url, "completions", body={"temperature": 0, "ignore_eos": True, **body})
            async with HttpSender(target) as send:
                plan = LoadPlan(clients=clients, requests=len(rows))
                run = LoadRun(plan, lambda number: LoadRequest(rows[number][0], None, rows[number][1]), send)
                return asdict(summarize(await run.run(), objectives, client=run.cost()))

        return asyncio.run(measure())

    return turn


def checked(label: str, figures: Figures, rows: list[Request]) -> Figures:
    """Return figures whose answers all have their full length; exits where one has not."""
    expected = sum(count for _, count in rows)
    if figures["finished"] != len(rows) or figures["answer_tokens"] != expected:
        sys.exit(f"{label}: {figures['finished']} of {len(rows)} requests, {figures['answer_tokens']} of {expected} "
                 f"tokens, errors {figures['errors']} {figures['examples']}")  # fmt: skip
    return figures


def served_folder(models: Models, bits: int, stack: contextlib.ExitStack) -> Path:
    """Return a folder of a form that has the tokenizer of its source."""
    folder = models.folder(FORMS[bits])
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        return folder
    place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = [*folder.iterdir(), *(models.source / name for name in TOKENIZER_FILES)]
    for file in files:
        if file.exists():
            (place / file.name).symlink_to(file.resolve())
    return place


def measure(models: Models, bits: int, given: argparse.Namespace) -> dict[str, list[Figures]]:
    """Return for each label the figures of each run."""
    objectives = Objectives(given.slo_ttft / 1000, given.slo_itl / 1000)
    with contextlib.ExitStack() as stack:
        folder = served_folder(models, bits, stack)
        turns: dict[str, Turn] = {}
        if "server" not in given.without:
            server = stack.enter_context(ServerProcess(folder, "--threads", str(given.threads)))
            turns["server"] = over_http(server.url, given.clients, objectives)
        if "engine" not in given.without:
            engine = stack.enter_context(Process("qwenkit loop", sys.executable, model=folder, threads=given.threads))
            limits = [objectives.first_token, objectives.inter_token]
            turns["engine"] = lambda rows: engine.ask("load", rows, given.clients, limits)[1]
        if "llama.cpp" not in given.without:
            peer = stack.enter_context(
                Process("llama.cpp", given.peers, model=models.gguf(GGUF_KINDS[bits]), threads=given.threads,
                        slots=given.clients, context=PROMPTS[1] + ANSWERS[1] + 8)
            )  # fmt: skip
            turns["llama.cpp"] = over_http(peer.ask("address")[1], given.clients, objectives, cache_prompt=False)
        figures: dict[str, list[Figures]] = {label: [] for label in turns}
        with alone(given.lock):
            for run in range(given.runs + 1):
                rows = requests_of(run, given.requests, models.config.vocab_size)
                for label, turn in turns.items():
                    result = checked(label, turn(rows), rows)
                    if run:  # the first one warms up
                        figures[label].append(result)
                print(f"{bits} bits: {run} of {given.runs} runs", file=sys.stderr, flush=True)
    return figures


def medians(figures: list[Figures]) -> dict[str, float]:
    """Return the median of each figure over the runs; times in ms."""
    rows = [
        {
            "tokens_per_second": each["tokens_per_second"],
            "goodput": each["goodput"]["requests_per_second"],
            "good_share": each["goodput"]["share"],
            **{f"{name} {key}": 1000 * each[name][key] for name in ("first_token", "inter_token", "per_token")
               for key in ("p50", "p99")},
            "client_cpu": each["client"]["cpu_share"],
        }
        for each in figures
    ]  # fmt: skip
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def compare(bits: int, figures: dict[str, list[Figures]]) -> tuple[list[str], dict[str, float]]:
    """Return the lines of a comparison, and its ratios."""
    table = {label: medians(each) for label, each in figures.items()}
    lines = [f"| {bits} bits | " + " | ".join(next(iter(table.values()))) + " |"]
    lines += [
        f"| {label} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |" for label, row in table.items()
    ]
    for label, each in figures.items():
        rates = [one["tokens_per_second"] for one in each]
        lines.append(f"{label}: {min(rates):.1f} to {max(rates):.1f} tokens/s in {len(rates)} runs")
    ratios: dict[str, float] = {}
    for label in ("llama.cpp", "engine"):
        for name in ("goodput", "tokens_per_second"):
            if "server" in table and label in table and table[label][name]:
                ratios[f"{name} of {label}"] = table["server"][name] / table[label][name]
    lines += [f"{bits} bits: {name}: ratio {ratio:.2f}" for name, ratio in ratios.items()]
    if (share := ratios.get("tokens_per_second of engine")) is not None:
        lines.append(
            f"{bits} bits: HTTP takes {1 - share:.1%} of the engine's tokens/s (aim {1 - HTTP_SHARE:.0%} or less)"
        )
    return lines, ratios


def score(ratios: dict[str, float]) -> float:
    """Return the lower score of goodput and tokens/s: each the larger of ratio / aim and share of the engine / 80 %."""
    return min(
        max(ratios.get(f"{name} of llama.cpp", 0.0) / AIM, ratios.get(f"{name} of engine", 0.0) / SHARE)
        for name in ("goodput", "tokens_per_second")
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "a bf16 folder with a tokenizer")
    parser.add_argument("--bits", default="16")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--slo-ttft", type=float, default=1000)
    parser.add_argument("--slo-itl", type=float, default=100)
    parser.add_argument("--without", default="")
    given = parser.parse_args()
    given.without = given.without.split(",")
    result: dict[str, Any] = {}
    scores = []
    with contextlib.ExitStack() as stack:
        models = chosen_models(given, stack)
        for bits in map(int, given.bits.split(",")):
            figures = measure(models, bits, given)
            lines, ratios = compare(bits, figures)
            print("\n".join(lines), end="\n\n")
            result[str(bits)] = {
                "ratios": ratios,
                "medians": {k: medians(v) for k, v in figures.items()},
                "runs": figures,
            }
            scores.append(score(ratios))
    facts = {"date": str(date.today()), "machine": platform.machine(), "threads": given.threads, "runs": given.runs,
             "clients": given.clients, "requests": given.requests,
             "slo_ms": [given.slo_ttft, given.slo_itl]}  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps({**facts, "bits": result}, indent=1) + "\n")
    short = {bits: {name: value for name, value in each.items() if name != "runs"} for bits, each in result.items()}
    print(json.dumps({**facts, "bits": short}))
    print(f"ratio {min(scores):.2f}")


if __name__ == "__main__":
    main()
