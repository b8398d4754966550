"""Where the engine could fall short beside its speed: memory, long prompts among streams, scoring, a busy machine.

    python benchmarks/engine_limits.py (--model FOLDER | --shape 0.5b) [--checks memory,wait,scoring,busy,rollouts]
        [--threads N] [--rows 2000] [--other PYTHON] [--policy FOLDER] [--data FOLDER] [--peers PYTHON]
        [--work FOLDER] [--lock FILE] [--out FILE.json]

memory   The largest resident size, without the libraries', beside weights + keys and values of `kv_tokens`, through
         mixed requests, and long prompts until every block was written. Aim: at most 10 % more.
growth   1,000 short requests in turn: resident at the end beside that after the first 100. Aim: at most 1 % more.
wait     16 streams and then a prompt of 8,000 tokens: the longest that a stream waits for a token, beside the median
         wait before the long prompt came. Aim: at most twice.
scoring  Seconds of `--rows` questions with four choices behind five shots (MMLU), beside an older qwenkit (`--other`,
         the Python of its environment). Aim: a quarter.
busy     Decoding beside a second program on every core, as a share of the speed without one: ours, ours in a program
         that imported torch before qwenkit, llama.cpp's. Aim: half.
rollouts Seconds of sampling one step of PPO in `nano` (32 prompts, 2 answers of at most 64 tokens, log-probabilities),
         in the invariant mode, beside the older qwenkit. `--policy` is the chat model of a run (left out without one).

MMLU is read from `--data` (QWENKIT_TEST_DATA, or ../shared/data): 35 questions of each subject, so that fewer rows are
as often alike as 2,000 are. Without `--other` scoring has no score. Peers and forms of the model are those of
`engine_vs_peers.py`. The last line is the lowest score, aim over what was measured: 1.00 means that all hold.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from engine_models import Models, add_arguments, chosen_models
from engine_peers import Process, Request
from engine_vs_peers import alone, mixed_lengths
from qwenkit import platform
from qwenkit.chat import load_tokenizer
from qwenkit.model.publish import weight_bytes

KV_TOKENS = 16_384
STREAMS, LONG, EACH = 16, 8000, 35
LETTERS = ("A", "B", "C", "D")
HOG = "while True: pass"


class Finding(NamedTuple):
    """What one check found."""

    name: str
    text: str
    score: float | None
    """The aim over what was measured; None: nothing to compare with."""
    figures: dict[str, Any]


class Setting:
    """The model and the command line of a run."""

    def __init__(self, models: Models, given: argparse.Namespace) -> None:
        """Take the forms of the model, and what was asked for."""
        self.models, self.given = models, given
        self._drawn = random.Random(0)

    def ours(self, python: Path | str = sys.executable, **options: object) -> Process:
        """Start our engine on the bf16 model."""
        folder = self.models.folder("bf16")
        return Process("qwenkit", python, model=folder, threads=self.given.threads, **options)

    def ids(self, count: int) -> list[int]:
        """Return random ids that were not asked before."""
        return [self._drawn.randrange(10, self.models.config.vocab_size * 9 // 10) for _ in range(count)]


def memory(setting: Setting) -> Iterator[Finding]:
    """The peak beside weights and cache, and whether requests in turn leave memory behind."""
    config, weights = setting.models.config, weight_bytes(setting.models.folder("bf16"))
    cache = KV_TOKENS * config.num_hidden_layers * 2 * config.kv_heads * config.head_size * 2
    with setting.ours(kv_tokens=KV_TOKENS) as engine:
        engine.answer([(setting.ids(prompt), answer) for prompt, answer in mixed_lengths()])
        long = min(LONG // 2, config.max_length - 8)
        for _ in range(KV_TOKENS // long + 1):  # so that every block was written
            engine.answer([(setting.ids(long), 8)])
        sizes = engine.ask("memory")[1]
        used = sizes["peak"] - sizes["base"]
        text = (f"{used / 1e6:.0f} MB at most for {weights / 1e6:.0f} MB of weights and {cache / 1e6:.0f} MB of keys "
                f"and values of {KV_TOKENS:,} tokens: {used / (weights + cache) - 1:+.0%}")  # fmt: skip
        yield Finding("memory", text, 1.1 / (used / (weights + cache)), {**sizes, "weights": weights, "cache": cache})
        steps = []
        for _ in range(10):
            for _ in range(setting.given.requests // 10):
                engine.answer([(setting.ids(16), 2)])
            steps.append(engine.ask("memory")[1]["now"])
        start, end = steps[0] / 1e6, steps[-1] / 1e6
        text = f"{start:.1f} MB after a tenth of {setting.given.requests} requests, {end:.1f} at the end"
        yield Finding("growth", text, 1.01 * start / end, {"resident": steps})


def wait(setting: Setting) -> Iterator[Finding]:
    """A long prompt among streams."""
    long = min(LONG, setting.models.config.max_length - 16)
    streams: list[Request] = [(setting.ids(32), 400) for _ in range(STREAMS)]
    with setting.ours() as engine:
        engine.answer([(setting.ids(32), 8) for _ in range(STREAMS)])
        times, late = engine.ask("stream", streams, (setting.ids(long), 8), 48)[1]
    asked, first = late[0], late[1]
    waits = [(end, end - start) for stream in times for start, end in itertools.pairwise(stream[8:])]
    usual = statistics.median(seconds for end, seconds in waits if end < asked)
    longest = max(seconds for end, seconds in waits if end >= asked)
    text = (f"a step of {STREAMS} streams {1000 * usual:.0f} ms, the longest wait {1000 * longest:.0f} ms "
            f"({longest / usual:.1f} times); the prompt of {long:,} tokens had its first token after "
            f"{first - asked:.1f} s")  # fmt: skip
    yield Finding("wait", text, 2 * usual / longest, {"usual": usual, "longest": longest, "first": first - asked})


def scoring(setting: Setting) -> Iterator[Finding]:
    """Questions with four choices behind five shots."""
    questions = list(few_shot_rows(setting.given.data, setting.given.rows))
    tok = load_tokenizer(setting.models.folder("bf16"))
    prompts = [tok.encode(prompt) for prompt in questions for _ in LETTERS]
    choices = [tok.encode(f" {letter}") for _ in questions for letter in LETTERS]
    seconds, scores = {}, {}
    pythons = {"qwenkit": sys.executable} | ({"older": setting.given.other} if setting.given.other else {})
    with contextlib.ExitStack() as stack:
        engines = {label: stack.enter_context(setting.ours(python)) for label, python in pythons.items()}
        for label, engine in engines.items():
            engine.ask("score", prompts[:1], choices[:1])  # warms up
            seconds[label], scores[label] = engine.ask("score", prompts, choices)
        stats = engines["qwenkit"].ask("stats")[1]
    text = ", ".join(f"{label} {value:.1f} s" for label, value in seconds.items())
    text += f" for {len(questions):,} questions, {sum(map(len, prompts)):,} tokens of prompts; counters {stats}"
    score = None
    if "older" in seconds:
        apart = max(abs(a - b) for a, b in zip(scores["qwenkit"], scores["older"]))
        text += (
            f"; {seconds['older'] / seconds['qwenkit']:.2f} times sooner, log-probabilities {apart:.2g} apart at most"
        )
        score = seconds["older"] / seconds["qwenkit"] / 4
    yield Finding("scoring", text, score, {"seconds": seconds, "questions": len(questions)})


def few_shot_rows(data: Path, count: int) -> Iterator[str]:
    """Yield prompts of MMLU: five answered questions of a subject, and one that is not; 35 of a subject."""
    folder = data / "mmlu"
    if not folder.is_dir():
        sys.exit(f"no folder mmlu in {data.name} (give --data, or set QWENKIT_TEST_DATA)")
    shots, asked = _tables(folder / "dev_val.tar.xz", "dev/"), _tables(folder / "test.tar.xz", "test/")
    pairs = ((shots[subject], row) for subject in sorted(asked) for row in asked[subject][:EACH])
    for number, (examples, row) in enumerate(pairs):
        if number == count:
            return
        shown = "".join(f"{_question(*example[:5])} {example[5]}\n\n" for example in examples[:5])
        yield f"The following are multiple choice questions (with answers).\n\n{shown}{_question(*row[:5])}"


def _tables(archive: Path, start: str) -> dict[str, list[list[str]]]:
    with tarfile.open(archive) as tar:
        files = {m.name: tar.extractfile(m) for m in tar.getmembers() if m.name.startswith(start)}
        return {name.split("/")[1].rsplit("_", 1)[0]: list(csv.reader(io.TextIOWrapper(file, encoding="utf-8")))
                for name, file in files.items() if file is not None}  # fmt: skip


def _question(question: str, *choices: str) -> str:
    lines = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, choices))
    return f"{question}\n{lines}Answer:"


def busy(setting: Setting) -> Iterator[Finding]:
    """Decoding beside another program on every core."""
    given, tokens = setting.given, setting.given.tokens
    llama = dict(model=setting.models.gguf("BF16"), threads=given.threads, slots=1, context=1024)
    figures: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        engines = {"qwenkit": stack.enter_context(setting.ours()),
                   "qwenkit, torch first": stack.enter_context(setting.ours(torch_first=True)),
                   "llama.cpp": stack.enter_context(Process("llama.cpp", given.peers, **llama))}  # fmt: skip
        for run in range(given.runs + 1):
            for label, engine in engines.items():
                for condition, hogs in (("idle", 0), ("busy", given.threads)):
                    with beside(hogs):
                        short, _ = engine.answer([(setting.ids(64), 1)])
                        long, _ = engine.answer([(setting.ids(64), 1 + tokens)])
                    if run:  # the first one warms up
                        kept = figures.setdefault(label, {}).setdefault(condition, [])
                        kept.append(tokens / max(long - short, 1e-9))
    for label, both in figures.items():
        idle, loaded = (statistics.median(both[condition]) for condition in ("idle", "busy"))
        text = f"{label}: {idle:.1f} tokens/s alone, {loaded:.1f} beside a busy program, {loaded / idle:.2f} of it"
        yield Finding("busy", text, None if label == "llama.cpp" else loaded / idle / 0.5, {label: both})


def rollouts(setting: Setting) -> Iterator[Finding]:
    """One step's samples of PPO in nano."""
    given = setting.given
    if given.policy is None:
        return
    pythons = {"qwenkit": sys.executable} | ({"older": given.other} if given.other else {})
    seconds: dict[str, list[float]] = {label: [] for label in pythons}
    counts: dict[str, list[int]] = {label: [] for label in pythons}
    draw, vocabulary = random.Random(0), load_tokenizer(given.policy).vocab_size
    with contextlib.ExitStack() as stack:
        engines = {label: stack.enter_context(Process("qwenkit", python, model=given.policy, threads=given.threads,
                                                      invariant=True))
                   for label, python in pythons.items()}  # fmt: skip
        for run in range(given.runs + 1):
            prompts = [[draw.randrange(300, vocabulary - 300) for _ in range(draw.randint(12, 40))] for _ in range(32)]
            for label, engine in engines.items():
                took, count = engine.ask("rollouts", prompts, 2, 64, run)
                if run:  # the first one warms up
                    seconds[label].append(took)
                    counts[label].append(count)
    texts = []
    for label, each in seconds.items():
        spread = f"{min(each):.2f} to {max(each):.2f}"
        tokens = f"{round(statistics.mean(counts[label])):,} tokens"
        texts.append(f"{label} {statistics.median(each):.2f} s ({spread}) for {tokens}")
    text = ", ".join(texts)
    yield Finding("rollouts", text, None, {"seconds": seconds, "tokens": counts})


@contextlib.contextmanager
def beside(programs: int) -> Iterator[None]:
    """Run programs that only compute, one a core, inside the `with` block."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(programs)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


CHECKS: dict[str, Callable[[Setting], Iterator[Finding]]] = {
    "memory": memory,
    "wait": wait,
    "scoring": scoring,
    "busy": busy,
    "rollouts": rollouts,
}


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "a bf16 folder; scoring needs its tokenizer")
    parser.add_argument("--checks", default=",".join(CHECKS))
    parser.add_argument("--requests", type=int, default=1000, help="short requests in turn")
    parser.add_argument("--rows", type=int, default=2000, help="questions to score")
    parser.add_argument("--other", type=Path, help="the Python of an environment with an older qwenkit")
    parser.add_argument("--policy", type=Path, help="the chat model of a run of nano")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QWENKIT_TEST_DATA", "../shared/data")))
    return parser.parse_args()


def main() -> None:
    """Run the checks, print what each found, and the lowest score last."""
    given = arguments()
    if unknown := set(given.checks.split(",")) - set(CHECKS):
        sys.exit(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    facts = {"date": str(date.today()), "machine": platform.machine(), "threads": given.threads,
             "versions": platform.versions()}  # fmt: skip
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    findings: list[Finding] = []
    with contextlib.ExitStack() as stack:
        models = chosen_models(given, stack)
        for name in given.checks.split(","):
            with alone(given.lock):
                for finding in CHECKS[name](Setting(models, given)):
                    findings.append(finding)
                    score = "" if finding.score is None else f" -> score {finding.score:.2f}"
                    print(f"{finding.name}: {finding.text}{score}", flush=True)
    if given.out:
        kept = [finding._asdict() for finding in findings]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**facts, "findings": kept}, indent=1) + "\n")
    if scores := [finding.score for finding in findings if finding.score is not None]:
        print(f"ratio {min(scores):.2f}")


if __name__ == "__main__":
    main()
