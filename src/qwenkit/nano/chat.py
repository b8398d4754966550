"""Chats for supervised fine-tuning, and the prompts of RLHF (sections 3.1 and 3.2).

Every answer is correct; annotators differ in politeness and length (`response_styles.ANNOTATORS`). A third of the items
that allow it have a system message that changes the answer. Task "tell" restates all facts, also of people of the tests
(`held_out`), because facts learnt in pretraining fade in fine-tuning unless repeated; it never asks the questions of
the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from qwenkit.nano.facts import LANGUAGES, RELATIONS, Facts, phrases
from qwenkit.nano.items import CHAT_TASKS, SYSTEM_TASKS, Item, make, with_system
from qwenkit.nano.response_styles import ANNOTATORS
from qwenkit.nano.row_rng import RowRng, rows
from qwenkit.records import Row

# Shares of the chats: copying from the context is what a small model learns last, facts and sums come early.
SHARES = {
    "tell": 0.08, "fact": 0.08, "read": 0.16, "recall": 0.07, "sum": 0.08, "word": 0.09, "repeat": 0.09, "upper": 0.07,
    "list": 0.07, "json": 0.07, "one_word": 0.07, "howto": 0.035, "refuse": 0.035,
}  # fmt: skip
MANNERS = {"polite": 0.25, "curt": 0.30, "verbose": 0.15, "neutral": 0.30}
SYSTEM_SHARE = 1 / 3


def weighted(draw: RowRng, shares: dict[str, float]) -> str:
    """Return a name drawn by its share."""
    bounds = list(accumulate(shares.values()))
    at = draw.unit() * bounds[-1]
    return next(name for name, bound in zip(shares, bounds) if at < bound)


def item(draw: RowRng, facts: Facts, task: str, split: str = "train", system: float = SYSTEM_SHARE) -> Item:
    """Return an item in either language, with probability `system` under a system message."""
    made = make(task, draw, facts, draw.pick(LANGUAGES), split)
    return with_system(made, draw) if draw.chance(system) and task in SYSTEM_TASKS else made


def chats(facts: Facts, seed: int, count: int) -> Iterator[Row]:
    """Yield training chats."""
    for number, draw in enumerate(rows(seed, "chat", count)):
        task = weighted(draw, SHARES)
        if task == "tell":
            messages, language, by = *_restate(draw, facts), "neutral"
        else:
            made = item(draw, facts, task)
            by = weighted(draw, MANNERS)
            messages, language = made.messages, made.language
            messages.append({"role": "assistant", "content": ANNOTATORS[by](made, draw, "train")})
        yield {
            "id": f"chat-{number:06d}", "messages": messages, "source": "nano", "task": task, "language": language,
            "annotator": by,
        }  # fmt: skip


def _restate(draw: RowRng, facts: Facts) -> tuple[list[dict[str, str]], str]:
    language, person = draw.pick(LANGUAGES), draw.pick(facts.people)
    ask = draw.pick(phrases("tell", language)["ask"]).format(n=person.name(language))
    sentences = [facts.fact(draw, person, relation, language) for relation in draw.some(RELATIONS, 3)]
    text = (" " if language == "en" else "").join(sentences)
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": text}], language


def prompts(facts: Facts, seed: int, count: int, use: str, split: str = "train") -> Iterator[Row]:
    """Yield prompts with a reference and a rubric, tasks in turn: for RL (`use` "rl"), reward annotation, or tests."""
    tasks = list(CHAT_TASKS)
    for number, draw in enumerate(rows(seed, f"prompts {use} {split}", count)):
        yield prompt_row(item(draw, facts, tasks[number % len(tasks)], split), draw, f"{use}-{number:05d}", use, split)


def prompt_row(made: Item, draw: RowRng, id: str, use: str, split: str) -> Row:
    """Return a prompt row; its reference is the answer with the highest rubric score."""
    return {
        "id": id, "messages": made.messages, "task": made.task, "language": made.language,
        "reference": ANNOTATORS["polite"](made, draw, split), "rubric": made.rubric, "use": use,
    }  # fmt: skip
