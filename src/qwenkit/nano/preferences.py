"""Preference pairs by scripted policies (report §3.2): many noisy ones for preference-model pretraining (PMP), and
noise-free ones for tests.

Two policies answer one item; the rubric says who did better. A quarter of the training labels are flipped (`flipped`,
ground truth only). PMP asks other kinds of question (`items.PREFERENCE_TASKS`) than the reward model and RL
(`items.CHAT_TASKS`). Test pairs of both kinds are written by policies that no training pair uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from qwenkit.evaluation.rubric import WEIGHTS_RIGHT, WEIGHTS_WRONG, Score, score
from qwenkit.nano import chat
from qwenkit.nano.facts import Facts
from qwenkit.nano.items import CHAT_TASKS, PREFERENCE_TASKS, Item
from qwenkit.nano.response_styles import POLICIES, TEST_POLICIES, answer
from qwenkit.nano.row_rng import RowRng, rows
from qwenkit.records import Row

NOISE, MARGIN = 0.25, 0.03


def pmp_pairs(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Yield noisy pairs for preference-model pretraining."""
    tasks = list(PREFERENCE_TASKS)
    for number, draw in enumerate(rows(seed, "pmp pairs", count)):
        made = chat.item(draw, facts, tasks[number % len(tasks)])
        yield _pair(made, draw, f"pmp-{number:06d}", "train", NOISE)


def test_pairs(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Yield noise-free pairs, half of them on the questions of PMP (`set` "pmp"), half on those of RL (`set`
    "reward")."""
    for number, draw in enumerate(rows(seed, "test pairs", count)):
        name, tasks = (("pmp", list(PREFERENCE_TASKS)), ("reward", list(CHAT_TASKS)))[number % 2]
        made = chat.item(draw, facts, tasks[number // 2 % len(tasks)], "test")
        yield _pair(made, draw, f"pair-{number:05d}", "test", 0.0) | {"set": name}


def _pair(made: Item, draw: RowRng, id: str, split: str, noise: float) -> Row:
    """Return the answers of two policies to one item, drawn again until the rubric distinguishes them."""
    names = list(TEST_POLICIES if split == "test" else POLICIES)
    row = {"messages": made.messages, "rubric": made.rubric}
    while True:
        a, b = ((name, answer(name, made, draw, split)) for name in draw.some(names, 2))
        first, second = score(row, a[1]), score(row, b[1])
        if abs(first.total - second.total) >= MARGIN:
            break
    if first.total < second.total:
        a, b, first, second = b, a, second, first
    flipped = draw.chance(noise)
    component = deciding(first, second)
    if flipped:
        a, b = b, a
    return {
        "id": id, "messages": made.messages, "chosen": a[1], "rejected": b[1], "policy": f"{a[0]}/{b[0]}",
        "component": component, "flipped": flipped, "task": made.task, "language": made.language,
    }  # fmt: skip


def deciding(better: Score, worse: Score) -> str:
    """Return the part of the rubric that makes most of the difference."""
    gaps = {name: _share(better, name) - _share(worse, name) for name in WEIGHTS_RIGHT}
    return max(gaps, key=lambda name: gaps[name])


def _share(result: Score, name: str) -> float:
    weights = WEIGHTS_RIGHT if result.right else WEIGHTS_WRONG
    return weights.get(name, 0.0) * getattr(result, name)


def candidates(made: Item, draw: RowRng) -> list[tuple[str, str]]:
    """Return the name and answer of every training policy, for the annotation of reward pairs."""
    return [(name, answer(name, made, draw)) for name in POLICIES]


def annotation_prompts(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Yield prompts for the annotation of reward pairs, each with the answers of the scripted policies
    (`candidates`)."""
    tasks = list(CHAT_TASKS)
    for number, draw in enumerate(rows(seed, "annotation prompts", count)):
        made = chat.item(draw, facts, tasks[number % len(tasks)])
        row = chat.prompt_row(made, draw, f"reward-{number:05d}", "reward", "train")
        yield row | {"candidates": [{"policy": name, "text": text} for name, text in candidates(made, draw)]}
