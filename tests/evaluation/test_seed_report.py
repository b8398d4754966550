"""Runs of other seeds: joined when they are one recipe's, refused with the difference named when they are not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenkit import artifacts
from qwenkit.artifacts import read_manifest
from qwenkit.errors import UserError
from qwenkit.evaluation import compare
from qwenkit.evaluation.seed_report import join
from qwenkit.lineage import graph
from qwenkit.records import read_object, write_json, write_jsonl
from qwenkit.stages import seed_metrics, views

NAMES = ["tests", "base", "reward", "exam"]
Items = dict[str, list[Any]]


def joined_of(runs: list[Path], names: list[str] = NAMES) -> dict[str, Any]:
    return join(runs, names, seed_metrics, views())


def publish(run: Path, node: str, kind: str, seed: int, inputs: dict[str, str], **rest: Any) -> None:
    """One artifact with its books in order; its own file is what makes its digest."""
    folder = run / node
    folder.mkdir(parents=True, exist_ok=True)
    links = {key: {"node": name, "digest": read_manifest(run / name).digest} for key, name in inputs.items()}
    manifest = {"node": node, "kind": kind, "version": 1, "key": "k", "seed": seed, "inputs": links, "config": {}}
    artifacts.finish(folder, {**manifest, **rest}, {"schema": 1})


def answers(seed: int) -> dict[str, Items]:
    """Forty questions: chat is right on most, less so by seed 3; base on few."""
    right = {"base": lambda i: i % 5 == 0, "chat": lambda i: i % 3 > 0 or i % (seed + 1) == 0}
    return {
        name: {"chat": [{"id": f"q{i}", "components": {"right": float(rule(i))}} for i in range(40)]}
        for name, rule in right.items()
    }


def make(run: Path, seed: int, lr: float = 0.1, questions: str = "same", kind: str = "pretrain") -> Path:
    """A run folder: tests -> base -> reward -> exam; only the tests are shared by all seeds."""
    for node in NAMES:
        (run / node).mkdir(parents=True)
        (run / node / "text").write_text(questions if node == "tests" else f"{node} {seed}")
    write_json(run / "run.json", {"schema": 1, "recipe": "toy", "fixed": {}})
    publish(run, "tests", "testsets", 1, {})
    base = {"heldout_loss": {"en": 1.0 + seed / 10}, "steps": 3}
    publish(run, "base", kind, seed, {}, config={"lr": lr, "layers": 2}, metrics=base)
    score = {"mean": 0.6 + seed / 100, "low": 0.52, "high": 0.8, "n": 50}
    accuracy = {"held out": score, **({"unseen": score} if seed == 1 else {})}
    publish(run, "reward", "reward", seed, {"model": "base"}, metrics={"accuracy": accuracy})
    items = answers(seed)
    for model, sets in items.items():
        write_jsonl(run / "exam" / f"{model}.chat.jsonl", sets["chat"])
    difference = compare(items["chat"]["chat"], items["base"]["chat"])._asdict()
    row = {"a": "chat", "b": "base", "set": "chat", "component": "right", **difference}
    models = {"chat": {"rubric": {"right": {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 40}}}}
    metrics = {"comparisons": [row], "models": models}
    publish(run, "exam", "evaluate", seed, {"tests": "tests", "models.0": "base"}, metrics=metrics)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / f"run-{seed}", seed) for seed in (1, 2, 3)]


def test_the_command_joins_them(runs: list[Path], tmp_path: Path) -> None:
    others = ",".join(map(str, runs[1:]))
    command = ["report", "--of", str(runs[0]), "--seeds", others, "--out", str(tmp_path / "joint"), "-q"]
    subprocess.run([sys.executable, "-m", "qwenkit.cli", *command], check=True, capture_output=True, text=True)
    joined = read_object(tmp_path / "joint" / "report" / "seeds.json")
    assert joined["seeds"] == ["1", "2", "3"] and len(joined["comparisons"]) == 1
    assert [name for name, node in joined["nodes"].items() if node["shared"]] == ["tests"]
    page = (tmp_path / "joint" / "report.html").read_text(encoding="utf-8")
    assert "Across seeds" in page and "reward" in page


def test_what_is_shared_and_every_number_by_seed(runs: list[Path]) -> None:
    joined = joined_of(runs)
    assert joined["seeds"] == ["1", "2", "3"]
    assert {name: node["shared"] for name, node in joined["nodes"].items()} == {
        "tests": True, "base": False, "reward": False, "exam": False,
    }  # fmt: skip
    loss = joined["nodes"]["base"]["numbers"]
    assert list(loss) == ["heldout_loss.en"]
    assert loss["heldout_loss.en"] == {"by_seed": [1.1, 1.2, 1.3], "mean": pytest.approx(1.2), "min": 1.1, "max": 1.3}
    assert joined["nodes"]["exam"]["numbers"]["models.chat.rubric.right"]["by_seed"] == [0.7] * 3
    held, unseen = joined["accuracies"]
    assert held["across_seeds"]["mean"] == pytest.approx(0.62) and held["across_seeds"]["n"] == 3
    assert unseen["by_seed"][1:] == [None, None] and unseen["across_seeds"]["low"] is None


def test_comparisons_by_seed_and_pooled(runs: list[Path]) -> None:
    (row,) = joined_of(runs)["comparisons"]
    assert (row["exam"], row["a"], row["b"], row["set"], row["component"]) == ("exam", "chat", "base", "chat", "right")
    means = [seed["mean"] for seed in row["by_seed"]]
    assert len(set(means)) > 1 and row["pooled"]["mean"] == pytest.approx(sum(means) / 3)
    assert row["pooled"]["n"] == 40 and row["pooled"]["low"] > 0
    assert row["across_seeds"]["low"] < row["across_seeds"]["mean"] < row["across_seeds"]["high"]


def with_metrics(runs: list[Path], node: str, kind: str, metrics: Any, inputs: dict[str, str]) -> list[Path]:
    """The same runs, whose node has other metrics and inputs."""
    for seed, run in enumerate(runs, 1):
        publish(run, node, kind, seed, inputs, metrics=metrics)
    return runs


def exam_metrics(run: Path) -> dict[str, Any]:
    return read_manifest(run / "exam").metrics


@pytest.mark.parametrize(
    "comparisons",
    [0.5, {"chat": 0.5}, ["chat over base"], [{"a": "chat", "b": "base", "gain": 0.1}], [{"mean": 0.1}]],
    ids=["number", "object", "strings", "other keys", "no names"],
)
def test_comparisons_of_another_shape_are_skipped(runs: list[Path], comparisons: Any) -> None:
    links = {"tests": "tests", "models.0": "base"}
    joined = joined_of(with_metrics(runs, "exam", "evaluate", {"comparisons": comparisons}, links))
    assert joined["comparisons"] == [] and len(joined["accuracies"]) == 2


def test_a_row_of_another_shape_leaves_the_others(runs: list[Path]) -> None:
    links = {"tests": "tests", "models.0": "base"}
    rows = [{"a": "chat", "gain": 0.1}, *exam_metrics(runs[0])["comparisons"], None]
    joined = joined_of(with_metrics(runs, "exam", "evaluate", {"comparisons": rows}, links))
    assert [row["component"] for row in joined["comparisons"]] == ["right"]


def test_a_comparison_that_one_seed_lacks_is_skipped(runs: list[Path]) -> None:
    links = {"tests": "tests", "models.0": "base"}
    publish(runs[1], "exam", "evaluate", 2, links, metrics={"comparisons": []})
    assert joined_of(runs)["comparisons"] == []


def test_comparisons_without_test_sets_are_skipped(runs: list[Path]) -> None:
    joined = joined_of(with_metrics(runs, "exam", "evaluate", exam_metrics(runs[0]), {"models.0": "base"}))
    assert joined["comparisons"] == [] and "exam" in joined["nodes"]


@pytest.mark.parametrize(
    "accuracy", [0.5, None, [0.5], {"held out": 0.5}, {"held out": {"mean": 0.5}}, {"held out": None}]
)
def test_accuracies_of_another_shape_are_skipped(runs: list[Path], accuracy: Any) -> None:
    joined = joined_of(with_metrics(runs, "reward", "reward", {"accuracy": accuracy}, {"model": "base"}))
    assert joined["accuracies"] == [] and len(joined["comparisons"]) == 1


def test_an_accuracy_of_one_pair_has_no_ends(runs: list[Path]) -> None:
    accuracy = {"held out": {"mean": 1.0, "low": None, "high": None, "n": 1}, "unseen": 0.5}
    joined = joined_of(with_metrics(runs, "reward", "reward", {"accuracy": accuracy}, {"model": "base"}))
    assert [row["set"] for row in joined["accuracies"]] == ["held out"]


def test_other_test_sets_are_other_questions(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"{seed}", seed, questions=f"world {seed}") for seed in (1, 2)]
    joined = joined_of(runs)
    assert joined["comparisons"][0]["pooled"]["n"] == 80 and not joined["nodes"]["tests"]["shared"]


def test_what_is_not_asked_for_is_still_compared(tmp_path: Path) -> None:
    """A report on the exam alone: its models' recipe counts too."""
    runs = [make(tmp_path / "a", 1), make(tmp_path / "b", 2, lr=0.2)]
    with pytest.raises(UserError, match=r"another recipe: base.lr: 0.1 -> 0.2"):
        joined_of(runs, ["exam"])


def lose_a_node(run: Path) -> Path:
    shutil.rmtree(run / "reward")
    return run


def make_base_again(run: Path) -> Path:
    (run / "base" / "text").write_text("again")
    publish(run, "base", "pretrain", 2, {}, config={"lr": 0.1, "layers": 2})
    return run


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda tmp: make(tmp / "b", 2, lr=0.2), "another recipe: base.lr: 0.1 -> 0.2"),
        (lambda tmp: make(tmp / "b", 2, kind="sft"), 'another recipe: base.kind: "pretrain" -> "sft"'),
        (lambda tmp: make(tmp / "b", 1), "`base` has the seed 1 twice|`tests` has the seed 1 twice"),
        (lambda tmp: lose_a_node(make(tmp / "b", 2)), "`reward` is missing in this run"),
        (lambda tmp: make_base_again(make(tmp / "b", 2)), "`(reward|exam)` was made of an earlier `base`"),
    ],
    ids=["key", "kind", "seed", "unfinished", "superseded"],
)
def test_what_is_no_other_seed_is_refused(tmp_path: Path, other: Callable[[Path], Path], what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        joined_of([make(tmp_path / "a", 1), other(tmp_path)])
    assert str(tmp_path / "b") in refused.value.text()


def test_runs_that_share_one_draw_and_not_another_are_refused(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"{n}", seed) for n, seed in enumerate((1, 2, 2))]
    with pytest.raises(UserError, match="has the seed 2 twice"):
        joined_of(runs)


def test_a_run_counts_by_its_artifacts(runs: list[Path]) -> None:
    """Events, pages and another report do not make it another run; an artifact does, and a damaged one is refused."""
    run = runs[0]
    before = graph.outside_digest(run)
    (run / "events.jsonl").write_text("{}")
    (run / "report.html").write_text("<html>")
    (run / "report").mkdir()
    publish(run, "report", "report", 1, {"of.0": "exam"})
    assert graph.outside_digest(run) == before != graph.outside_digest(runs[1])
    publish(run, "reward", "reward", 1, {"model": "base"}, metrics={"accuracy": {}})
    assert graph.outside_digest(run) != before, "metrics are told too"
    (run / "base" / "text").write_text("cut")
    with pytest.raises(UserError, match="a corrupted artifact"):
        graph.outside_digest(run)
