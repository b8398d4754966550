"""The runner with an engine whose answers are known: what is logged, resumed, counted, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.evaluation.task_files import Task, load_task
from qwenkit.evaluation.task_runner import BATCH, TaskRunner
from qwenkit.statistics import wilson

CHOICES = """about = "choices"
citation = "nobody"
licence = "ours"
rows = 200

[data]
path = "rows.jsonl"

[ask]
kind = "choices"
prompt = "{q}?"
choices = ["yes", "no"]
gold = "{g}"

[forms.plain]
"""
WRITTEN = CHOICES.replace('kind = "choices"', 'kind = "generate"\nscorer = "exact"\nmessages = ["{q}!"]').replace(
    'choices = ["yes", "no"]\ngold = "{g}"', 'gold = "{w}"'
)


class Known:
    """Says yes to everything, counts what it is asked, and dies or refuses where it is told to."""

    def __init__(self, most: int = 10**9, refused: str = "nothing") -> None:
        self.asked, self.most, self.refused = 0, most, refused

    def _count(self, prompts: list[str]) -> None:
        if any(self.refused in prompt for prompt in prompts):
            raise UserError("longer than the model")
        self.asked += len(prompts)
        if self.asked > self.most:
            raise KeyboardInterrupt

    def score(self, prompts: list[str], continuations: list[str]) -> list[list[float]]:
        self._count(prompts)
        return [[-1.0] if more == " yes" else [-2.0, -1.0] for more in continuations]

    def generate(self, prompts: list[str], params: Any) -> list[SimpleNamespace]:
        self._count(prompts)
        return [SimpleNamespace(text=prompt[:-1], ids=[1, 2]) for prompt in prompts]

    def chat(self, conversations: list[list[dict[str, str]]], params: Any) -> list[SimpleNamespace]:
        texts = [messages[-1]["content"][:-1] for messages in conversations]
        return [SimpleNamespace(text=f"<think>so?</think>\n\n{text}", ids=[1]) for text in texts]


def task_of(folder: Path, text: str = CHOICES, count: int = 200) -> Task:
    rows = [{"q": f"q{number:03}", "g": number % 4 // 3, "w": f"q{number:03}"} for number in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.toml").write_text(text)
    return load_task(folder / "mine.toml")


def runner(engine: Known, folder: Path, **more: Any) -> TaskRunner:
    stand_in: Any = engine
    return TaskRunner(stand_in, folder / "log.jsonl", model="known", root=folder, **more)


def test_the_mean_and_wilsons_interval(tmp_path: Path) -> None:
    summary = runner(Known(), tmp_path).run(task_of(tmp_path))
    assert (summary.mean, summary.items, summary.failed) == (0.75, 200, 0)
    assert (summary.low, summary.high) == wilson(150, 200)[1:3]
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert row["answer"] == "yes" and row["tokens"] == 3 and len(row["prompt_hash"]) == 64


def test_a_killed_run_goes_on_and_equals_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected = runner(Known(), whole).run(task_of(whole))
    task = task_of(killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            runner(Known(most=2 * BATCH), killed).run(task)
        with (killed / "log.jsonl").open("a") as log:
            log.write('{"model": "known", "ta')  # a line that was being written
    engine = Known()
    assert runner(engine, killed).run(task) == expected
    assert engine.asked == 2 * (200 - 3 * BATCH)
    assert sorted((killed / "log.jsonl").read_text().splitlines()) == sorted(
        (whole / "log.jsonl").read_text().splitlines()
    )
    engine = Known()
    assert runner(engine, killed).run(task) == expected
    assert engine.asked == 0


def test_a_changed_prompt_is_asked_anew(tmp_path: Path) -> None:
    runner(Known(), tmp_path).run(task_of(tmp_path))
    engine = Known()
    runner(engine, tmp_path).run(task_of(tmp_path, CHOICES.replace("{q}?", "{q}:")))
    assert engine.asked == 400


def test_what_cannot_be_asked_is_counted_and_not_wrong(tmp_path: Path) -> None:
    summary = runner(Known(refused="q007"), tmp_path).run(task_of(tmp_path))
    assert (summary.failed, summary.items) == (1, 199)
    assert summary.mean == 149 / 199 or summary.mean == 150 / 199
    with pytest.raises(Stopped) as caught:
        (tmp_path / "log.jsonl").unlink()
        runner(Known(refused="q01"), tmp_path).run(task_of(tmp_path))
    assert "10 of 200 items" in caught.value.text() and "longer than the model" in caught.value.text()


def test_rows_that_do_not_fit_stop_a_run(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.writelines('{"q": "bad", "g": 5}\n' for _ in range(3))
    with pytest.raises(Stopped, match="the answer key is 5"):
        runner(Known(), tmp_path).run(task)


def test_written_answers_as_a_completion_and_in_a_chat(tmp_path: Path) -> None:
    task = task_of(tmp_path, WRITTEN)
    assert runner(Known(), tmp_path).run(task).mean == 1.0
    assert runner(Known(), tmp_path, chat=True).run(task).mean == 1.0
    forms = {json.loads(line)["form"] for line in (tmp_path / "log.jsonl").read_text().splitlines()}
    assert forms == {"plain", "plain, chat"}


def test_a_task_without_its_data_is_not_run(tmp_path: Path) -> None:
    summary = runner(Known(), tmp_path).run(load_task("mmlu"))
    assert summary.mean is None and "not there" in summary.not_run
    assert not (tmp_path / "log.jsonl").exists()
