"""Every task of the package against its published file: rows, answer keys, and what simulated models score.

A model that always knows scores 100 %, one that misses one item misses exactly one, one that guesses is at chance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from qwenkit import rng
from qwenkit.errors import UserError
from qwenkit.evaluation.scorers import EXTRACTORS, NAMES, Response, arguments, score
from qwenkit.evaluation.task_data import MissingData
from qwenkit.evaluation.task_files import Task, load_task, task_names
from qwenkit.evaluation.task_items import TaskItem
from qwenkit.sandbox import Problem, Verdict, run_tests

MISSING = {"ocnli", "truthfulqa_mc1"}
"""Tasks whose files are not among the test data."""
PAIRS = [(name, form) for name in task_names() for form in load_task(name).forms]
WRAPPED = {"hashes": "#### {}", "conclusion": "So the answer is {}.", "math": "Thus \\boxed{{{}}}."}


def items_of(name: str, form: str, root: Path, limit: int = 0) -> list[TaskItem]:
    return list(load_task(name).items(root, form, limit))


def rows_here(task: Task, root: Path) -> int:
    """The number of rows that SOURCE.md states for the files of a task."""
    folder, _, pattern = task.data.path.partition("/")
    table = (root / folder / "SOURCE.md").read_text("utf-8").partition("## Files here")[2]
    rows = re.findall(r"^\| `([^`]+)` \| \d+ \| \w+ \| (\d+) \|", table, re.MULTILINE)
    return sum(
        int(count)
        for file, count in rows
        if fnmatch(file, pattern) and not any(fnmatch(Path(file).name, skip) for skip in task.data.skip)
    )


def golds(item: TaskItem) -> tuple[int | str, ...]:
    return item.gold if isinstance(item.gold, tuple) else (item.gold,)


def known(item: TaskItem, right: bool = True) -> Response:
    """What a model answers that knows everything, or one that is wrong on purpose."""
    if item.ask.kind == "choices":
        sums = [-1e-6 if (index in golds(item)) == right else -1e6 for index in range(len(item.choices))]
        options = item.contexts or item.choices
        if not right:  # a choice with the same text would be right
            texts = {options[gold] for gold in golds(item) if isinstance(gold, int)}
            sums = [-1e6 if option in texts else -1e-6 for option in options]
        return Response(logprobs=sums, tokens=[1] * len(sums))
    if item.ask.kind == "greedy":
        return Response(greedy=right)
    if item.ask.kind == "code":
        return Response(str(item.gold) if right else "neither of these")
    return Response(WRAPPED.get(item.ask.extract, "{}").format(golds(item)[0]) if right else "neither of these")


def stub(item: TaskItem) -> Callable[[Problem, str], Verdict]:
    """A judge that runs nothing: a program passes when the known solution is in it, or in its tests."""
    return lambda problem, program: Verdict(
        "passed" if str(item.gold).strip() in program + problem.tests else "failed", ""
    )


def total(items: list[TaskItem], responses: list[Response]) -> int:
    scored = [score(item, response, stub(item)) for item, response in zip(items, responses, strict=True)]
    return round(sum(one.components["right"] for one in scored))


@pytest.mark.parametrize("name", task_names())
def test_rows_and_keys(name: str, real_data: Path) -> None:
    """Each row becomes an item, except those that the task leaves out; ids differ and answer keys are in range."""
    task = load_task(name)
    if name in MISSING:
        with pytest.raises(MissingData, match="not there"):
            next(task.items(real_data))
        return
    items = list(task.items(real_data))
    if not task.keep and task.data.form != "text":
        assert len(items) == rows_here(task, real_data)
    assert 0 < len(items) <= task.rows
    assert len({item.id for item in items}) == len(items)
    assert all(re.fullmatch("[0-9a-f]{64}", item.prompt_hash) for item in items)
    for item in items:
        if item.ask.kind == "choices":
            assert all(isinstance(gold, int) and 0 <= gold < len(item.choices) for gold in golds(item))


SCORED = [(name, form) for name, form in PAIRS if name not in MISSING and load_task(name).form(form).gold]


@pytest.mark.parametrize(("name", "form"), SCORED)
def test_known_answers(name: str, form: str, real_data: Path) -> None:
    check_known(items_of(name, form, real_data, 200))


@pytest.mark.soak
@pytest.mark.parametrize(("name", "form"), SCORED)
def test_known_answers_to_every_item(name: str, form: str, real_data: Path) -> None:
    check_known(items_of(name, form, real_data))


def check_known(items: list[TaskItem]) -> None:
    """What knows everything is always right, and one changed answer is one item less."""
    responses = [known(item) for item in items]
    assert total(items, responses) == len(items)
    changed = len(items) // 3
    responses[changed] = known(items[changed], right=False)
    assert total(items, responses) == len(items) - 1


GUESSED = [(name, form) for name, form in SCORED if load_task(name).form(form).kind == "choices"]


@pytest.mark.parametrize(("name", "form"), GUESSED)
def test_guesses_are_at_chance(name: str, form: str, real_data: Path) -> None:
    """Guesses are right as often as the number of choices says: within 4.5 standard errors, for all tasks together."""
    items = items_of(name, form, real_data, 1000)
    responses: list[Response] = []
    for number, item in enumerate(items):
        draws = [rng.uniform(7, number, index) for index in range(len(item.choices))]
        lengths = {"char": len, "byte": lambda text: len(text.encode())}.get(item.ask.by, lambda _: 1)
        sums = [-draw * lengths(choice) for draw, choice in zip(draws, item.choices, strict=True)]
        responses.append(Response(logprobs=sums, tokens=[1] * len(sums)))
    chances = [len(set(golds(item))) / len(item.choices) for item in items]
    spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
    assert abs(total(items, responses) - sum(chances)) <= 4.5 * spread + 1


@pytest.mark.parametrize(
    ("name", "form"), [("humaneval", "qwen2023"), ("mbpp", "lm-eval"), ("cruxeval_i", "completion")]
)
def test_programs_run(name: str, form: str, real_data: Path) -> None:
    """Published solutions pass in the sandbox, as a completion and as a code block; another one fails."""
    for item in items_of(name, form, real_data, 3):
        assert score(item, known(item), run_tests).components["right"] == 1.0
        assert score(item, known(item, right=False), run_tests).components["right"] == 0.0


@pytest.mark.soak
@pytest.mark.parametrize("name", ["humaneval_x", "humanevalpack_fix", "humanevalpack_synthesize", "mbxp"])
def test_programs_of_other_languages(name: str, real_data: Path) -> None:
    """A solution of each language passes; a language without a compiler has no verdict, and is not wrong.

    Not every published solution of MBXP passes its own tests: of each language three are tried."""
    task = load_task(name)
    passed: dict[str, list[float]] = {}
    for item in task.items(real_data):
        solution, tried = item.row.get("canonical_solution"), passed.setdefault(item.subject, [])
        if len(tried) == 3 or 1.0 in tried or not solution:
            continue
        scored = score(item, Response(str(solution)), lambda problem, program: run_tests(problem, program, timeout=60))
        assert scored.components or scored.reason
        tried.append(scored.components.get("right", 1.0))
    assert len(passed) >= 5
    assert all(1.0 in tried for tried in passed.values() if tried)


def test_a_missing_file_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        next(load_task("mmlu").items(tmp_path))
    assert caught.value.hint and "people.eecs.berkeley.edu" in caught.value.hint


def test_each_task_has_its_sources() -> None:
    for name in task_names():
        task = load_task(name)
        assert task.citation and task.licence and task.data.get and task.about, name


def test_scorers_and_extractors_are_known() -> None:
    for name, form in PAIRS:
        ask = load_task(name).form(form)
        assert ask.scorer in NAMES and ask.extract in EXTRACTORS, (name, form)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("[1, 2], 'a'", "[1, 2], 'a'"), ("[1])\n# so", "[1]"), ("f(x=(1))", "x=(1)"), ("1) or (1", None), ("1 +", None)],
)
def test_arguments(text: str, wanted: str | None) -> None:
    """What a model writes behind `f(` is the arguments of that one call, or nothing."""
    assert arguments(text) == wanted


def test_a_whole_program_in_an_answer(real_data: Path) -> None:
    """A chat model's program stands for the whole, and need not repeat the imports of the prompt."""
    item = items_of("humaneval", "lm-eval", real_data, 1)[0]
    body = str(item.row["prompt"]).partition("\n\n\n")[2] + str(item.gold)
    assert score(item, Response(f"Here it is:\n```python\n{body}```\nDone.")).components["right"] == 1.0
    assert (
        score(item, Response("```python\ndef has_close_elements(n, t):\n    return 3\n```")).components["right"] == 0.0
    )


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UserError, match="no form `lm-evil`"):
        load_task("mmlu").form("lm-evil")
