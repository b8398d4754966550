"""Whose answers should a reward model learn to compare? Ways of forming pairs, measured on the policy's own answers.

    python benchmarks/reward_pairs.py --run runs/nano [--way others=true,lr=5e-4 --way others=false]

Each way is the recipe's `reward` node with these keys changed, trained from the run's preference model. Measured: the
share of pairs ranked rightly, of pairs by policies that no training pair has heard (the test sets'), and of pairs of
the chat model's own answers to prompts that only RL asks: what PPO will ask the reward model. `style`: pairs of which
both answers are right, or both wrong.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qwenkit import Engine, SamplingParams, load_model, load_tokenizer
from qwenkit.alignment import encode_pairs, margin_rows
from qwenkit.artifacts import read_manifest
from qwenkit.data.chats.datasets import read_pairs
from qwenkit.evaluation.questions import read_prompts
from qwenkit.evaluation.rubric import scored_answer
from qwenkit.model import load_scalar
from qwenkit.statistics import mean_interval

PROMPTS, ANSWERS, MARGIN, ROW = 480, 4, 0.03, 256
WAYS = ("others=true,epochs=4,lr=5e-4", "others=true,pairs_per_prompt=2,epochs=4,lr=5e-4", "others=false")


def own_pairs(run: Path) -> list[dict[str, Any]]:
    """Every two answers of the chat model to one prompt whose true scores differ."""
    rows = read_prompts(run / "world", "rl", rubric=True)[-PROMPTS:]
    engine = Engine(load_model(run / "chat"), load_tokenizer(run / "chat"))
    params = SamplingParams.plain(n=ANSWERS, temperature=1.0, top_p=0.95, max_tokens=64, seed=99)
    pairs: list[dict[str, Any]] = []
    for row, output in zip(rows, engine.chat([row["messages"] for row in rows], params)):
        answers = [scored_answer(row, sample.text, "chat") for sample in output.samples]
        for a, b in itertools.combinations(answers, 2):
            better, worse = (a, b) if a["score"] > b["score"] else (b, a)
            if better["score"] - worse["score"] > MARGIN:
                group = "style" if better["parts"]["right"] == worse["parts"]["right"] else "right"
                pairs.append({"id": f"{row['id']}/{len(pairs)}", "messages": row["messages"], "group": group,
                              "chosen": better["text"], "rejected": worse["text"]})  # fmt: skip
    return pairs


def train(run: Path, way: str, out: Path) -> Path:
    """The run's reward node with the keys of this way changed, by the verb of its kind."""
    keys = {**read_manifest(run / "reward").config, **dict(key.split("=", 1) for key in way.split(",") if key)}
    command = [sys.executable, "-m", "qwenkit.cli", "reward", "--out", str(out), "--quiet"]
    for key, source in (("model", "pmp"), ("policy", "chat"), ("prompts", "world"), ("tests", "testsets")):
        command += [f"--{key}", str(run / source)]
    for key, value in keys.items():
        command += ["--" + key.replace("_", "-"), str(value).lower()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out / "reward"


def ranked(node: Path, pairs: list[dict[str, Any]]) -> str:
    """Table cells: the share ranked rightly, with its interval, for each group of pairs."""
    items = margin_rows(load_scalar(node), encode_pairs(pairs, load_tokenizer(node), ROW)[0], "own")
    groups = {pair["id"]: pair["group"] for pair in pairs}
    cells = []
    for group in sorted(set(groups.values())):
        found = mean_interval(item["right"] for item in items if groups[item["id"]] == group)
        cells.append(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]")
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of nano")
    parser.add_argument("--way", action="append", help="keys of the reward node, KEY=VALUE,...; may be repeated")
    given = parser.parse_args()
    unseen = [{**pair, "group": "unseen policies"} for pair in read_pairs(given.run / "testsets", "pairs.jsonl")]
    pairs = own_pairs(given.run) + unseen
    print("| reward model | " + " | ".join(sorted({pair["group"] for pair in pairs})) + " |")
    print(f"| preference model alone | {ranked(given.run / 'pmp', pairs)} |", flush=True)
    for way in given.way or WAYS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {way} | {ranked(train(given.run, way, Path(folder) / 'run'), pairs)} |", flush=True)


if __name__ == "__main__":
    main()
