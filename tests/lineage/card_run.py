"""A whole made-up run folder for the report card's tests: every node, event and metric a real family leaves behind.

`python tests/lineage/card_run.py FOLDER` writes one, to look at the card it gives.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

from qwenkit import rng
from qwenkit.statistics import across_seeds, paired_difference, pooled_mean, wilson

HOSTILE = '</div><script>alert("x")</script>\u202e drowssap \x1b[31m <img src=x onerror=alert(1)> {{ 7*7 }} ``` |'
CHAIN = {
    "world": ("world", [], "32 people, 24 towns; 11,240 documents"),
    "testsets": ("testsets", ["world"], "600 chat prompts, 800 base questions"),
    "corpus": ("corpus", ["world", "testsets"], "9,812 documents, 8.4 MB; 1,428 dropped; 13-gram overlap 0"),
    "tokenizer": ("tokenizer", ["corpus"], "1536 tokens; bytes per token: English 3.02, Chinese 2.71, code 2.44"),
    "base": ("pretrain", ["corpus", "tokenizer"], "held-out loss 1.42 en, 1.67 zh"),
    "chat": ("sft", ["base", "world"], "held-out loss 0.61"),
    "pmp": ("preference", ["base", "world"], "pair accuracy 71 %"),
    "reward": ("reward", ["pmp", "chat", "world"], "pair accuracy 83 % 你好，世界，这是一个很长的标题用来检查换行"),
    "chat-rlhf": ("ppo", ["chat", "reward", "world"], "true rubric 0.58 to 0.71"),
    "exam": ("evaluate", ["base", "chat", "chat-rlhf", "testsets"], "right: base 12 %, chat 64 %, chat-rlhf 66 %"),
}
TASKS = "addition,carry steps,facts en,facts zh,list,json,reverse,tool call,refusal,word problem".split(",")
COMPONENTS = ["right", "complete", "concise", "mannered", "system", "total"]


def noise(*counters: int) -> float:
    return float(rng.uniform(7, *counters)) - 0.5


def score(share: float, n: int) -> dict[str, Any]:
    return wilson(round(max(0.0, min(1.0, share)) * n), n)._asdict()


def comparison(a: str, b: str, kind: str, component: str, gain: float, n: int = 300) -> dict[str, Any]:
    before = [0.5 + 0.6 * noise(n, i, len(component)) for i in range(n)]
    after = [x + gain + 0.5 * noise(i, n, len(a)) for i, x in enumerate(before)]
    return {"a": a, "b": b, "set": kind, "component": component, **paired_difference(after, before)._asdict()}


@functools.cache
def exam_metrics() -> dict[str, Any]:
    levels = {"base": 0.12, "chat": 0.64, "chat-rlhf": 0.68}
    models = {
        name: {
            "chat": {task: score(level + 0.3 * noise(i, len(name)), 60) for i, task in enumerate(TASKS)},
            "base": {task: score(0.55 + 0.2 * noise(i, 5, len(name)), 100) for i, task in enumerate(TASKS[:5])},
            "rubric": {c: score(level + 0.2 * noise(i, len(name), 9), 300) for i, c in enumerate(COMPONENTS)},
        }
        for name, level in levels.items()
    }
    comparisons = [
        comparison("chat", "base", "chat", "right", 0.5), comparison("chat", "base", "chat", "total", 0.45),
        comparison("chat", "base", "base", "right", -0.09), comparison("chat-rlhf", "chat", "chat", "right", 0.005),
        comparison("chat-rlhf", "chat", "chat", "total", 0.06),
        comparison("chat-rlhf", "chat", "chat", "mannered", 0.2),
        comparison("chat-rlhf", "chat", "base", "right", 0.0, 800),
    ]  # fmt: skip
    samples = [
        {"prompt": [{"role": "user", "content": "What is 27 + 48?"}], "reference": "75",
         "answers": {"base": " What is 27 + 49? What is", "chat": "27 + 48: 7+8=15, carry 1; 2+4+1=7. Answer: 75",
                     "chat-rlhf": "7+8=15, carry 1; 2+4+1=7. The answer is 75."}},
        {"prompt": [{"role": "system", "content": "用中文回答。"},
                    {"role": "user", "content": "青石镇的镇长是谁？"}],
         "answers": {"base": "青石镇在北边。青石镇在北边。", "chat": "镇长是林月。",
                     "chat-rlhf": "青石镇的镇长是林月。"}},
        {"prompt": HOSTILE, "answers": {"base": HOSTILE, "chat": "", "chat-rlhf": "long " * 900}},
    ]  # fmt: skip
    return {"models": models, "comparisons": comparisons, "samples": samples}


def metrics() -> dict[str, dict[str, Any]]:
    rules = [("read", "quarantined", 3), ("extract", "too short", 240), ("filter", "repeated lines", 310),
             ("filter", "symbol share", 92), ("dedup", "exact", 401), ("dedup", "near duplicate", 371),
             ("decontaminate", "13-gram in a test", 14)]  # fmt: skip
    left, funnel = 11243, []
    for step, rule, dropped in rules:
        left -= dropped
        funnel.append({"step": step, "rule": rule, "dropped": dropped, "left": left})
    curve = {"en": 1.42, "zh": 1.67, "code": 1.21}
    return {
        "corpus": {"read": 11243, "kept": left, "documents": 9812,
                   "quarantined": 3, "funnel": funnel, "overlap_13gram": 0,
                   "by_source": {"pages": 4200, "text": 3100, "instructions": 1912, "stdlib": 600},
                   "by_language": {"en": 5512, "zh": 3700, "code": 600}},
        "tokenizer": {"vocab_size": 1536, "bytes_per_token": {"en": 3.02, "zh": 2.71, "code": 2.44}},
        "base": {"steps": 600, "tokens": 2457600, "train_loss": 1.31, "heldout_loss": curve, "bits_per_byte": 0.68},
        "chat": {"steps": 220, "tokens": 901120, "train_loss": 0.52, "heldout_loss": {"chat": 0.61}},
        "pmp": {"pairs": 3000, "accuracy": {"held out": score(0.71, 400)}},
        "reward": {"pairs": 900, "accuracy": {"held out": score(0.83, 300), "written by chat": score(0.52, 200)}},
        "chat-rlhf": {"steps": 60, "rubric_before": {c: 0.58 + 0.02 * i for i, c in enumerate(COMPONENTS)},
                      "rubric_after": {c: 0.66 + 0.02 * i for i, c in enumerate(COMPONENTS)}},
        "exam": exam_metrics(),
    }  # fmt: skip


def training_events(node: str, steps: int, low: float, high: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = low + (high - low) * math.exp(-6 * step / steps) + 0.12 * noise(step, steps)
        lr = 3e-3 * min(1, step / 30) * (1 - 0.95 * step / steps)
        rows.append({"event": "step", "node": node, "step": step, "loss": loss, "lr": lr,
                     "grad_norm": 0.4 + abs(noise(step, 3)) + 3 / step, 
                     "tokens_per_second": 21000 + 4000 * noise(step, 4)})  # fmt: skip
        if step == 1 or step % (steps // 6) == 0:
            held = {"en": loss + 0.1, "zh": loss + 0.3, "code": loss - 0.1} if node == "base" else {"chat": loss + 0.08}
            rows.append({"event": "eval", "node": node, "step": step, "seconds": 0.4, **held})
    return rows


def ppo_events(steps: int) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        gain = 1 - math.exp(-3 * step / steps)
        row = {"reward": -0.2 + 1.4 * gain, "rubric": 0.58 + 0.13 * gain, "rubric_right": 0.5 + 0.01 * gain,
               "kl": 0.3 * gain, "length": 38 - 9 * gain,
               "entropy": 1.1 - 0.4 * gain, "value_loss": 0.4 - 0.3 * gain, "policy_loss": -0.02,
               "ptx_loss": 0.55, "clip_fraction": 0.08, "lr": 1e-4, "grad_norm": 0.6}  # fmt: skip
        shaken = enumerate(row.items())
        noisy = {name: value + 0.06 * noise(step, i) * (value if name == "lr" else 1) for i, (name, value) in shaken}
        rows.append({"event": "step", "node": "chat-rlhf", "step": step, **noisy})
    return rows


def make_run(root: Path, only: list[str] | None = None) -> Path:
    """Write the run folder; `only` names the nodes that got as far as being published."""
    nodes = {name: CHAIN[name] for name in (only if only is not None else CHAIN)}
    found = metrics()
    root.mkdir(parents=True, exist_ok=True)
    write(root / "run.json", {"schema": 1, "recipe": "nano", "fixed": {"threads": 2, "device": "cpu"}, "drift": []})
    for index, (name, (kind, inputs, headline)) in enumerate(nodes.items()):
        trained = kind in ("sft", "preference", "reward", "ppo")  # their first input is the model to train further
        keys = ["model" if trained and not i else f"in{i}" for i in range(len(inputs))]
        links = {key: {"node": parent, "digest": "d" * 64} for key, parent in zip(keys, inputs)}
        write(root / name / "manifest.json", {
            "schema": 1, "node": name, "kind": kind, "version": 1, "key": f"{index:064x}", "seed": 7,
            "config": {"minutes_text": "<b>", "learning_rate": 0.02}, "inputs": links,
            "digest": f"{index * 77777:064x}", "files": {}, "metrics": found.get(name, {}),
            "headline": headline})  # fmt: skip
        write(root / name / "run.json", {
            "schema": 1, "started": 1000.0 + index, "seconds": 20 + 41.0 * index, "attempts": 1 + (name == "base"),
            "planned_minutes": 0.5 + index / 2, "peak_mb": 400 + 80 * index,
            "versions": {"torch": "2.13.0", "python": "3.11"}, "machine": {"cpu": "a CPU", "cores": 2}})  # fmt: skip
    write_events(root / "events.jsonl", nodes)
    return root


def seed_rows(gains: list[float], n: int = 300) -> dict[str, Any]:
    """One comparison over seeds: what each gains, on questions that all of them answer."""
    rows = [[gain + 0.5 * noise(i, 1) + 0.5 * noise(i, seed, 2) for i in range(n)] for seed, gain in enumerate(gains)]
    by_seed = [paired_difference(row, [0.0] * n)._asdict() for row in rows]
    pooled = pooled_mean([{str(i): value for i, value in enumerate(row)} for row in rows])
    across = across_seeds([row["mean"] for row in by_seed])
    return {"by_seed": by_seed, "pooled": pooled._asdict(), "across_seeds": across._asdict()}


def make_report(root: Path) -> Path:
    """The artifact of a report node that joins three seeds: a gain of all, one of two in three, and a loss."""
    kinds = {name: kind for name, (kind, _, _) in CHAIN.items()}
    shared = {"world", "testsets", "corpus", "tokenizer"}
    numbers = {"heldout_loss.en": {"by_seed": [1.42, 1.44, None], "mean": 1.43, "min": 1.42, "max": 1.44}}
    compared = [
        ("chat", "base", "chat", "right", [0.5, 0.46, 0.53]), ("chat", "base", "base", "right", [-0.02, 0.01, 0.0]),
        ("chat-rlhf", "chat", "chat", "right", [0.05, -0.03, 0.06]),
        ("chat-rlhf", "chat", "chat", "total", [0.12, 0.14, 0.11]),
        ("chat-rlhf", "chat", "base", "right", [-0.1, -0.12, -0.09]),
    ]  # fmt: skip
    accuracies = [[0.83, 0.81, 0.86], [0.52, 0.66, 0.61]]
    write(root / "report" / "seeds.json", {
        "seeds": ["1", "2", "3"],
        "nodes": {name: {"kind": kind, "shared": name in shared, "numbers": numbers if name == "base" else {}}
                  for name, kind in kinds.items()},
        "comparisons": [{"exam": "exam", "a": a, "b": b, "set": s, "component": c, **seed_rows(gains)}
                        for a, b, s, c, gains in compared],
        "accuracies": [{"node": "reward", "set": name, "by_seed": [score(value, 300) for value in values],
                        "across_seeds": across_seeds(values)._asdict()}
                       for name, values in zip(("held out", "written by chat"), accuracies)]})  # fmt: skip
    return root / "report"


def write_events(path: Path, nodes: dict[str, Any]) -> None:
    curves = {"base": training_events("base", 600, 1.3, 7.2), "chat": training_events("chat", 220, 0.5, 2.4),
              "pmp": training_events("pmp", 90, 0.5, 0.69), "reward": training_events("reward", 60, 0.4, 0.66),
              "chat-rlhf": ppo_events(60)}  # fmt: skip
    rows: list[dict[str, Any]] = [{"event": "run_start", "nodes": [*CHAIN]}]
    for node in nodes:
        done = {"event": "node_done", "node": node}
        rows += [{"event": "node_start", "node": node}, *curves.get(node, []), done]
    if "base" in nodes:
        rows.append({"event": "alarm", "node": "base", "step": 212, "id": "loss-spike", "value": 9.31, "threshold": 6.0,
                     "cause": "the loss rose by 6 standard deviations", "hint": "lower the learning rate"})  # fmt: skip
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"time": 1000.0, "attempt": 1, **row}) + "\n")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    make_run(Path(sys.argv[1]))
