"""Can each task of the nano world be learnt at all? A model of the recipe's shape, from nothing, on one task alone.

    python benchmarks/learnability.py [--tasks json read] [--seconds 60] [--seeds 1 2] [--examples 128]

Every task of the chats, the preference pairs and the base tests, each kind of system message, in each language: a small
fixed set of examples again and again, for at most `--seconds` of one thread's processor time (a busy machine gives a
program less of a minute; steps are planned by the pace of the task before). `set right`: the share of the set that
is answered rightly (greedy; `right` of the rubric, and the system message obeyed; base tests: the right one of four
choices). When it is 1 the task is fitted, and training ends. `fresh right`: the same for examples that were not in the
set, asked by the same phrasings, then. A task that no plan of `PLANS` fits is a finding: its examples contradict each
other, the rubric refuses its answers, or the model is too small for it.

Training is the recipe's `base` node (shape, optimizer, rates, precision) in smaller batches, uncompiled; the tokenizer
has seen the world's texts. `tell` has no rubric, for no test asks it: it is held to the letter of its answers, which
are drawn, so a fresh one is right only by chance.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qwenkit import Engine, SamplingParams, load_tokenizer, rng
from qwenkit.data.tokens.chat_shards import chat_example
from qwenkit.data.tokens.dataset import Example, InMemoryTokenDataset
from qwenkit.data.tokens.order import EpochOrder
from qwenkit.evaluation import chat_eval, multiple_choice
from qwenkit.evaluation.chat_answers import answers
from qwenkit.evaluation.rubric import score
from qwenkit.lineage.recipe import load_recipe
from qwenkit.model import Transformer, init_weights
from qwenkit.nano import Scale, build_world, chat, eval_sets
from qwenkit.nano.facts import LANGUAGES, Facts
from qwenkit.nano.items import CHAT_TASKS, PREFERENCE_TASKS, SYSTEM_TASKS, make, with_system
from qwenkit.nano.row_rng import rows
from qwenkit.records import Row, write_json
from qwenkit.stages.base import StageContext
from qwenkit.stages.pretrain import model_config_of
from qwenkit.statistics import mean_interval
from qwenkit.tokenizer import save_tokenizer, train_bpe
from qwenkit.training import AlarmError, Batches, train

RECIPE: Any = load_recipe("nano").nodes
PLANS = ((1.0, 0.4), (1.0, 1.0), (0.4, 1.0), (2.0, 1.0))  # rates over the recipe's, and the share of the time
BATCH_ROWS, PACE_STEPS, CANDIDATES = 4, 20, 6000
SYSTEM = ("end", "brief", "language")
GREEDY = SamplingParams.plain(temperature=0, max_tokens=RECIPE["exam"].config.max_tokens)
TOLD = {"language": None, "parts": [], "limit": 99, "manners": "plain", "system": None}


@cache
def all_tasks() -> list[tuple[str, str]]:
    """Every task in every language it has."""
    chats = [*CHAT_TASKS, "tell", *(f"system {kind}" for kind in SYSTEM), *PREFERENCE_TASKS]
    base = {(f"base {row['task']}", row["language"]) for row in eval_sets.base_test(Facts(0), 0, 20)}
    return [*itertools.product(chats, LANGUAGES), *sorted(base)]


def questions(name: str, language: str, seed: int) -> Iterator[Row]:
    """Rows of a task as the world makes them; not all different."""
    facts, (kind, _, part) = Facts(seed), name.partition(" ")
    if kind == "base":
        yield from (row for row in base_rows(seed) if (row["task"], row["language"]) == (part, language))
    elif kind == "tell":
        for row in chat.chats(facts, seed, CANDIDATES):
            if (row["task"], row["language"]) == (name, language):
                *asked, answer = row["messages"]
                right = {"kind": "exact", "value": answer["content"]}
                yield {**row, "messages": asked, "reference": answer["content"], "rubric": {**TOLD, "right": right}}
    else:
        among = [task for task in CHAT_TASKS if task in SYSTEM_TASKS] if part else [name]
        for number, draw in enumerate(rows(seed, f"learnability {name} {language}", CANDIDATES)):
            made = make(draw.pick(among), draw, facts, language)
            made = with_system(made, draw) if part else made
            if not part or (made.system_rule or {})["kind"] == part:
                yield chat.prompt_row(made, draw, f"{name}-{number}", "learnability", "train")


@cache
def base_rows(seed: int) -> list[Row]:
    return list(eval_sets.base_test(Facts(seed), seed, CANDIDATES // 10))


def sets(name: str, language: str, seed: int, examples: int) -> tuple[list[Row], list[Row]]:
    """Different questions: the set to be fitted (two thirds of what there is, where that is little), and fresh ones."""
    found = {str(row.get("messages") or row["prompt"]): row for row in questions(name, language, seed)}
    known = min(examples, len(found) * 2 // 3)
    several = list(found.values())[: known + examples]
    return several[:known], several[known:]


def document(tok: Any, row: Row) -> Example:
    """What is trained on: a chat with its best answer, or a base test's text with the right choice."""
    if "prompt" in row:
        ids = [*tok.encode(row["prompt"] + row["answer"]), tok.eot_id]
        return Example(row["id"], ids, [1.0] * len(ids))
    answer = {"role": "assistant", "content": row["reference"]}
    return chat_example(tok, {**row, "messages": [*row["messages"], answer]}, RECIPE["chat"].config.mask)


def rightly(engine: Engine, several: list[Row]) -> list[float]:
    """1 for each question that is answered rightly."""
    if "prompt" in several[0]:
        return [item["components"]["right"] for item in multiple_choice(engine, several)]
    scored = chat_eval(
        lambda rows: answers(engine, rows, GREEDY), several, lambda row, answer: score(row, answer)._asdict()
    )
    return [min(item["components"]["right"], item["components"]["system"]) for item in scored]


@dataclass
class Fit:
    """What one training came to. `rate`: over the recipe's; `alarm`: what stopped it, if anything did."""

    task: str
    language: str
    seed: int
    rate: float = 1.0
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0
    set_right: float = 0.0
    fresh: list[float] = field(default_factory=list)
    alarm: str = ""


def fit(fit: Fit, tok: Any, known: list[Row], steps: int, say: Callable[[str], None]) -> Engine:
    """Train for `steps`, or until the set is answered rightly: it is asked after a half, three quarters and the end."""
    base = RECIPE["base"].config
    peaks = {"lr": base.lr * fit.rate, "muon_lr": base.muon_lr * fit.rate}
    keys = base.model_copy(update={**peaks, "warmup_steps": min(10, steps), "compile": False})
    store = InMemoryTokenDataset(document(tok, row) for row in known)
    batches = Batches(
        store, EpochOrder(store.digest, fit.seed, store.lengths, keys.seq_length, split_documents=False), BATCH_ROWS
    )
    model = init_weights(
        Transformer(model_config_of(keys, tok.vocab_size, tok.eot_id)), rng.derive_seed(fit.seed, fit.task)
    )
    engine, silent = Engine(model, tok), lambda *_, **__: None
    name = f"{fit.task} {fit.language}, rate x{fit.rate:g}"
    step = lambda done, total, loss: say(f"{name}, step {done} of {total}, loss {loss:.3f}")  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        context = StageContext(fit.task, place, place, place, fit.seed, 1, "cpu", silent, step)
        for until in (steps // 2, steps * 3 // 4, steps):
            started = time.process_time()
            try:
                train(keys, model, batches, steps, **context.training(), until=until)
            except AlarmError as stopped:
                fit.alarm = stopped.alarm_event.alarm.id
                break
            fit.seconds, fit.steps = fit.seconds + time.process_time() - started, until
            engine.update_weights()
            right = rightly(engine, known)
            fit.set_right = sum(right) / len(right)
            if fit.set_right == 1:
                break
    return engine


def examine(pair: tuple[str, str], seed: int, tok: Any, given: argparse.Namespace, steps: int, say: Any) -> list[Fit]:
    """Train by one plan after the other until one fits the set; then ask what is fresh."""
    known, fresh = sets(*pair, seed, given.examples)
    tried: list[Fit] = []
    for rate, share in PLANS:
        tried.append(Fit(*pair, seed, rate, len(known)))
        engine = fit(tried[-1], tok, known, max(1, int(steps * share)), say)
        tried[-1].fresh = rightly(engine, fresh)
        if tried[-1].set_right == 1:
            break
    return tried


def tokenizer(seed: int) -> Any:
    """A tokenizer as the recipe's, from the world's texts."""
    world, keys = build_world(seed, Scale(0, 300_000, 12_000, 8000, *[0] * 7)), RECIPE["tokenizer"].config
    texts = (row["text"] for row in itertools.chain(world.stdlib(), world.text(), world.instructions()))
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(train_bpe(texts, keys.vocab_size, extras=keys.extras, multiple=keys.pad_to), folder)
        return load_tokenizer(folder)


def line(tried: list[Fit]) -> str:
    """A row of the table: the best training of each seed, all seeds together."""
    best = [max(group, key=lambda one: one.set_right) for _, group in itertools.groupby(tried, key=lambda f: f.seed)]
    right = sum(one.set_right for one in best) / len(best)
    found = mean_interval([value for one in best for value in one.fresh])
    learnt = "generalises" if found.mean >= 0.9 else "in part" if found.mean >= 0.5 else "by heart"
    verdict = f"fits, {learnt}" if right == 1 else "**NOT FITTED** " + " ".join(one.alarm for one in tried)
    seconds, rates = max(one.seconds for one in best), "/".join(f"{one.rate:g}" for one in best)
    cells = [best[0].task, best[0].language, str(best[0].examples), f"{right:.3f}", f"{seconds:.0f}", rates]
    return f"| {' | '.join(cells)} | {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help='by name, as in the table: json "system end" "base read"')
    parser.add_argument("--seconds", type=float, default=60, help="processor time of one training at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--examples", type=int, default=128, help="in the set to be fitted")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "learnability.json")
    given = parser.parse_args()
    pairs = [pair for pair in all_tasks() if given.tasks is None or pair[0] in given.tasks]
    if unknown := set(given.tasks or ()) - {name for name, _ in pairs}:
        raise SystemExit(f"no task {', '.join(unknown)}; there are {', '.join(dict(all_tasks()))}")
    torch.set_num_threads(1)
    tok = tokenizer(given.seeds[0])
    pace = Fit("sum", "en", 0)
    fit(pace, tok, sets("sum", "en", 0, given.examples)[0], PACE_STEPS, lambda _: None)
    lines = ["| task | language | set | set right | seconds | rate | fresh right | verdict |", "|---|" + "---|" * 7]
    results: list[Fit] = []
    settings = {"seconds": given.seconds, "seeds": given.seeds, "torch": torch.__version__}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description:<60}"), BarColumn(28), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True, width=150)) as bars:
        bar = bars.add_task("", total=len(pairs))
        for pair in pairs:
            say = lambda text: bars.update(bar, description=text)  # noqa: E731
            steps = int(0.9 * given.seconds * pace.steps / pace.seconds)
            tried = [one for seed in given.seeds for one in examine(pair, seed, tok, given, steps, say)]
            pace = tried[-1] if tried[-1].steps >= PACE_STEPS else pace
            results, lines = results + tried, [*lines, line(tried)]
            bars.console.print(lines[-1], markup=False, highlight=False)
            bars.advance(bar)
            fits = [{**asdict(one), "fresh": mean_interval(one.fresh)._asdict()} for one in results]
            write_json(given.out, {**settings, "fits": fits})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
