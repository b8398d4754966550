"""The tests of the family: questions whose names, numbers, words and phrasings occur in no training text.

Base tests (five tasks, four choices each) for the pretrained model, chat tests (twelve tasks) for the aligned ones,
pair tests for the preference and reward models. What training and tests share is counted by the stages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from qwenkit.nano import chat
from qwenkit.nano.facts import LANGUAGES, RELATIONS, Facts, phrases, values
from qwenkit.nano.items import CHAT_TASKS, Item, make, passing_name
from qwenkit.nano.row_rng import RowRng, rows
from qwenkit.records import Row

CHOICES = 4


def chat_test(facts: Facts, seed: int, per_task: int) -> Iterator[Row]:
    """Yield prompts of all chat tasks with references and rubrics, all different."""
    yield from _distinct(
        chat.prompts(facts, seed, per_task * len(CHAT_TASKS) * 8, "test", "test"), per_task,
        lambda row: str(row["messages"]),
    )  # fmt: skip


def _distinct(candidates: Iterable[Row], per_task: int, key: Callable[[Row], str]) -> Iterator[Row]:
    """Yield the first `per_task` different rows of every task, or all where a task has fewer."""
    keys, counts = set(), dict[str, int]()
    for row in candidates:
        if counts.get(row["task"], 0) < per_task and key(row) not in keys:
            keys.add(key(row))
            counts[row["task"]] = counts.get(row["task"], 0) + 1
            yield row | {"id": f"{row['task']}-{counts[row['task']]:03d}"}


def base_test(facts: Facts, seed: int, per_task: int) -> Iterator[Row]:
    """Yield texts to complete, with four choices."""
    tasks = {"fact_en": _fact("en"), "fact_zh": _fact("zh"), "read": _read, "sum": _sum, "problem": _problem}
    candidates = (
        {"task": task} | make_row(draw, facts)
        for draw in rows(seed, "base test", per_task * 12)
        for task, make_row in tasks.items()
    )
    yield from _distinct(candidates, per_task, lambda row: row["prompt"])


def _choices(draw: RowRng, language: str, prompt: str, right: str, wrong: list[str], space: str = "") -> Row:
    """Return a row with the correct answer among wrong ones."""
    gold = draw.integer(0, CHOICES - 1)
    texts = [space + text for text in [*wrong[:gold], right, *wrong[gold:]]]
    return {"language": language, "prompt": prompt, "answer": texts[gold], "choices": texts, "gold": gold}


def _fact(language: str) -> Callable[[RowRng, Facts], Row]:
    """Return a maker of questions about a fact of a person of the tests, in a phrasing that is never used for such
    people."""

    def row(draw: RowRng, facts: Facts) -> Row:
        person, relation = draw.pick(facts.held_out()), draw.pick(RELATIONS)
        right = facts.value(person, relation, language)
        form = draw.pick(phrases(relation, language)["only_train"])
        prompt = form.format(n=person.name(language), v="|").split("|")[0]
        among = [value for value in _among(relation, language) if value != right]
        space = " " if language == "en" else ""
        return _choices(draw, language, prompt.rstrip(), right, draw.some(among, CHOICES - 1), space)

    return row


def _among(relation: str, language: str) -> list[str]:
    return values({"city": "cities"}.get(relation, relation + "s"), language)


def _read(draw: RowRng, facts: Facts) -> Row:
    """Return a passage about four unknown people, and the beginning of one of its sentences in other words."""
    language, relation = draw.pick(LANGUAGES), draw.pick(RELATIONS)
    names = [passing_name(draw, language, "test") for _ in range(CHOICES)]
    shown = draw.some(_among(relation, language), CHOICES)
    forms = phrases(relation, language)
    space = " " if language == "en" else ""
    ask = forms["only_train"][0].format(n=names[0], v="|").split("|")[0].rstrip()
    order = draw.some(list(range(CHOICES)), CHOICES)
    text = space.join(forms["told"][0].format(n=names[i], v=shown[i]) for i in order)
    return _choices(draw, language, f"{text}{space}{ask}", shown[0], shown[1:], space)


def _worked(draw: RowRng, item: Item, prompt: str) -> Row:
    """Return a sum whose steps are written: the answer must be assembled from them."""
    right = int(item.short)
    start = phrases("sum", item.language)["answer"].format(v="|").split("|")[0].rstrip()
    wrong = [str(right + delta) for delta in draw.some([-11, -10, -9, -1, 1, 9, 10, 11], CHOICES - 1)]
    space = " " if item.language == "en" else ""
    return _choices(draw, item.language, f"{prompt}{item.steps}{start}", item.short, wrong, space)


def _sum(draw: RowRng, facts: Facts) -> Row:
    item = make("sum", draw, facts, draw.pick(LANGUAGES), "test")
    a, b = re.findall(r"\d+", item.ask)
    return _worked(draw, item, f"{a}+{b}: ")


def _problem(draw: RowRng, facts: Facts) -> Row:
    item = make("word", draw, facts, draw.pick(LANGUAGES), "test")
    return _worked(draw, item, item.ask + (" " if item.language == "en" else ""))


def test_texts(rows_: Iterable[Row]) -> Iterator[str]:
    """Yield what no training text may contain: the prompt of every test row, with the answer of a base test.

    Answers of the other tests are not included: some occur in training too."""
    for row in rows_:
        if "prompt" in row:
            yield row["prompt"] + row["answer"]
        else:
            yield "\n".join(message["content"] for message in row["messages"] if message["role"] != "system")
