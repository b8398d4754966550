"""Identity: exactly what must run runs; a failure, a kill or a foreign folder harms nothing."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from qwenkit.artifacts import damage, digest_of, read_manifest
from qwenkit.errors import QwenkitError, Stopped, UserError
from qwenkit.events import read_events
from qwenkit.lineage import graph, runner, scratch
from qwenkit.lineage.progress import Terminal
from qwenkit.lineage.recipe import load_recipe
from qwenkit.lineage.report_card import environment_view
from qwenkit.lineage.run_reader import load_run
from qwenkit.lineage.runner import Options
from qwenkit.stages import load_stage
from qwenkit.stages.base import Input, Result, StageContext
from tests.lineage.conftest import RUNS


def go(path: Path, *changes: str, out: str = "runs/toy", **options: object) -> list[str]:
    RUNS.clear()
    recipe = replace(load_recipe(str(path), list(changes)), out=Path(out))
    runner.run_recipe(recipe, Options(**options), Terminal(Console(quiet=True)))  # type: ignore[arg-type]
    return list(RUNS)


def test_twice_runs_nothing(toy: Path) -> None:
    assert go(toy) == ["one", "two", "big", "all"]
    assert go(toy) == []
    assert (Path("runs/toy/all/text")).read_text() == "aa+b"


def test_one_change_runs_what_lies_below(toy: Path) -> None:
    go(toy)
    assert go(toy, "big.times=3") == ["big", "all"]
    assert go(toy, "big.times=3", "two.text=c") == ["two", "all"]
    assert len(list(Path("runs/toy/.old").iterdir())) == 4  # big once, two once, all twice


def test_equal_bytes_stop_the_wave(toy: Path) -> None:
    """An input rebuilt to the same bytes re-runs nothing below it."""
    go(toy)
    assert go(toy, "one.text=' a '") == ["one"]


def test_runtime_keys_and_comments_change_nothing(toy: Path) -> None:
    go(toy)
    toy.write_text(
        "# a comment\n" + toy.read_text().replace('text = "a"', 'text = "a"\nchatter = 7\nplanned_minutes = 3')
    )
    assert go(toy) == []


def test_seed_moves_everything_but_a_pinned_node(toy: Path) -> None:
    go(toy)
    assert go(toy, "seed=2", "one.seed=1") == ["two", "big", "all"]


def test_two_clean_runs_write_equal_manifests(toy: Path) -> None:
    go(toy, out="runs/a")
    go(toy, out="runs/b")
    for node in ("one", "two", "big", "all"):
        assert Path(f"runs/a/{node}/manifest.json").read_bytes() == Path(f"runs/b/{node}/manifest.json").read_bytes()


def test_failed_node_leaves_the_rest_whole(toy: Path) -> None:
    go(toy)
    with pytest.raises(Stopped, match="exploded on purpose"):
        go(toy, "two.text=explode")
    assert not damage(Path("runs/toy/two")) and not damage(Path("runs/toy/all"))
    assert go(toy, "two.text=c") == ["two", "all"]


def test_full_disk_is_the_users_to_mend(toy: Path) -> None:
    with pytest.raises(UserError, match="the disk is full, `two` stopped"):
        go(toy, "two.text=full")
    assert not Path("runs/toy/two").exists()


def test_a_finished_out_is_published_without_working_again(toy: Path) -> None:
    """The kill fell between the manifest and the rename."""
    go(toy)
    node = Path("runs/toy/big")
    scratch = Path("runs/toy/.work") / f"big-{read_manifest(node).key[:12]}"
    scratch.mkdir(parents=True)
    shutil.move(node, scratch / "out")
    assert go(toy) == []
    assert not damage(node) and not scratch.exists()


def test_only_until_and_missing_parents(toy: Path) -> None:
    with pytest.raises(UserError, match="`big` reads `one`, which has not been made"):
        go(toy, only=("big",))
    assert go(toy, until="big") == ["one", "big"]
    assert go(toy, "big.times=5", only=("big",)) == ["big"]
    with pytest.raises(UserError, match="no node `bog`"):
        go(toy, until="bog")


def test_judge_says_why(toy: Path) -> None:
    go(toy)
    recipe = replace(load_recipe(str(toy), ["big.times=3"]), out=Path("runs/toy"))
    verdicts = {v.node: v for v in graph.make_plan(recipe, recipe.out, recipe.nodes)}
    assert verdicts["one"].state == "done"
    assert verdicts["big"].why == "times: 2 -> 3"
    assert verdicts["all"].state == "waiting" and verdicts["all"].why == "after big"


def test_second_process_is_refused(toy: Path) -> None:
    go(toy)
    with Path("runs/toy/.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            go(toy)


def test_foreign_folders_are_refused(toy: Path) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something that is not a run"):
        go(toy, out="mine")
    go(toy)
    with pytest.raises(UserError, match="a run of another recipe, `toy`"):
        go(toy, "title=other")


def test_drift_is_refused_or_marked(toy: Path) -> None:
    go(toy)
    with pytest.raises(UserError, match="threads: 1 -> 2"):
        go(toy, "threads=2", "two.text=z")
    assert go(toy, "threads=2", "two.text=z", allow_drift=True) == ["two", "all"]
    assert json.loads(Path("runs/toy/run.json").read_text())["drift"] == ["threads: 1 -> 2"]


def test_reuse_takes_equal_artifacts(toy: Path) -> None:
    go(toy, out="runs/a")
    assert go(toy, "two.text=z", out="runs/b", reuse=Path("runs/a")) == ["two", "all"]
    (Path("runs/a/one/text")).write_text("tampered")
    assert "one" in go(toy, out="runs/c", reuse=Path("runs/a"))


def test_a_plan_says_what_is_reused(toy: Path) -> None:
    """Below a node that is taken over the inputs are known, so nothing is announced that does not run."""
    go(toy, out="runs/a")
    recipe = replace(load_recipe(str(toy), ["two.text=z"]), out=Path("runs/b"))
    verdicts = runner.plan(recipe, Options(reuse=Path("runs/a")))
    assert [(v.node, v.state) for v in verdicts] == [
        ("one", "reuse"), ("two", "run"), ("big", "reuse"), ("all", "waiting"),
    ]  # fmt: skip
    assert verdicts[2].why == "reused from runs/a/big"
    said = Console(record=True, width=200, quiet=False, file=io.StringIO())
    runner.run_recipe(recipe, Options(reuse=Path("runs/a")), Terminal(said))
    text = said.export_text()
    assert "2 of 4 nodes to run, 2 reused" in text
    assert RUNS[-2:] == ["two", "all"]
    assert [line.split()[2] for line in text.splitlines() if " one " in line or " big " in line] == ["reused"] * 2


def test_a_copy_with_other_bytes_is_not_published(toy: Path) -> None:
    """Size and time say nothing changed, the bytes of the copy do."""
    go(toy, out="runs/a")
    path = Path("runs/a/one/text")
    stat = path.stat()
    path.write_text("x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match="text: its bytes changed") as found:
        go(toy, out="runs/b", reuse=Path("runs/a"))
    assert found.value.hint == "make it again there, or run without --reuse"
    assert not Path("runs/b/one").exists()


def test_damaged_artifacts_of_another_run_are_told(toy: Path) -> None:
    go(toy, out="runs/a")
    Path("runs/a/one/text").unlink()
    recipe = replace(load_recipe(str(toy)), out=Path("runs/b"))
    assert runner.plan(recipe, Options(reuse=Path("runs/a")))[0].why == (
        "never run; that of runs/a is corrupted: text: missing"
    )


def test_several_nodes_can_be_named(toy: Path) -> None:
    assert go(toy, only=("two", "one")) == ["one", "two"]


def test_a_changed_list_is_said_as_it_was_written(toy: Path) -> None:
    go(toy)
    toy.write_text(toy.read_text().replace('["big", "two"]', '["big"]'))
    recipe = replace(load_recipe(str(toy)), out=Path("runs/toy"))
    assert {v.node: v.why for v in graph.make_plan(recipe, recipe.out, recipe.nodes)}[
        "all"
    ] == "input parts has one less"
    toy.write_text(toy.read_text().replace('["big"]', '["one", "two"]'))
    recipe = replace(load_recipe(str(toy)), out=Path("runs/toy"))
    why = {v.node: v.why for v in graph.make_plan(recipe, recipe.out, recipe.nodes)}["all"]
    assert why == "input parts (one) changed"


def test_damage_is_named(toy: Path) -> None:
    go(toy)
    Path("runs/toy/big/text").write_text("x")
    Path("runs/toy/big/extra").write_text("x")
    assert damage(Path("runs/toy/big")) == ["extra: not in the manifest", "text: its bytes changed"]


def test_events_carry_attempt_and_survive_a_torn_line(toy: Path) -> None:
    go(toy)
    log = Path("runs/toy/events.jsonl")
    with log.open("a") as file:
        file.write('{"event": "step", "att')
    go(toy, "two.text=q")
    rows = list(read_events(log))
    assert {row["attempt"] for row in rows} == {1, 2}
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_a_report_counts_metrics_that_no_digest_covers(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's new version gives the same bytes and another metric: nothing below it runs, but the report does."""
    toy.write_text(toy.read_text() + '\n[report]\nof = ["one", "all"]\n')
    go(toy)
    results = Path("runs/toy/report/results.json")
    assert json.loads(results.read_text())["one"]["metrics"] == {"length": 1}
    source = load_stage("source")
    plain = source.run
    monkeypatch.setattr(source, "VERSION", 2)
    monkeypatch.setattr(source, "run", lambda *args: replace(plain(*args), metrics={"length": 1, "new": 2}))
    assert go(toy) == ["one", "two"]
    assert json.loads(results.read_text())["one"]["metrics"] == {"length": 1, "new": 2}
    assert go(toy) == []


def finished(toy: Path, **changes: object) -> Path:
    """A folder in `.work` that says of itself what it likes, and is as it should be otherwise."""
    go(toy)
    scratch = Path("runs/toy/.work/x-123456789012")
    shutil.copytree("runs/toy/one", scratch / "out")
    path = scratch / "out/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return scratch


VICTIM = {"../../victim": "victim", "..": ".", "two/../../../victim": "victim", "/tmp": "/tmp", ".old": ".", "": "."}


@pytest.mark.parametrize("node", [*VICTIM, "two", 7, None, "x" * 65])
def test_finished_work_of_another_name_is_published_nowhere(toy: Path, node: object) -> None:
    victim = Path("victim")
    victim.mkdir()
    (victim / "secret").write_text("mine")
    scratch = finished(toy, node=node)
    before = read_manifest(Path("runs/toy/two"))
    assert go(toy) == []
    assert (victim / "secret").read_text() == "mine" and (scratch / "out").exists()
    assert read_manifest(Path("runs/toy/two")) == before and not Path("runs/toy/.old").exists()


@pytest.mark.parametrize("key", ["../../../../victim/0123", "", "k" * 65, 3])
def test_a_key_names_no_other_folder(toy: Path, key: object) -> None:
    """A superseded artifact is moved to a folder that is called after its key."""
    go(toy)
    path = Path("runs/toy/two/manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": key}))
    assert go(toy) == ["two"]
    assert [folder.name for folder in Path("runs/toy/.old").iterdir()] == ["two-damaged-0"]


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../secret": "0"}}, {"files": {"/etc/passwd": "0"}}, {"files": {"a/../../b": "0"}},
        {"files": {".hidden": "0"}}, {"files": {"text": 3}}, {"files": {"manifest.json": "0"}}, {"files": []},
        {"inputs": {"source": {"node": "../victim", "digest": "0"}}}, {"inputs": {"source": "one"}},
        {"inputs": {"source": {"node": "one"}}}, {"metrics": 3}, {"config": None}, {"seed": "1"}, {"headline": []},
        {"version": None}, {"kind": ["source"]},
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_is_damage(toy: Path, changes: dict[str, object]) -> None:
    go(toy)
    path = Path("runs/toy/two/manifest.json")
    changed = {**json.loads(path.read_text()), **changes}
    if isinstance(changed["files"], dict):
        changed["digest"] = digest_of(changed["files"])
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="a corrupted manifest"):
        read_manifest(path.parent)
    assert go(toy) == ["two"]


DAMAGED = {"attempts.json": "", "out/manifest.json": "{", "out/run.json": "[]", "out/text": "half"}


@pytest.mark.parametrize(("name", "text"), DAMAGED.items(), ids=DAMAGED)
def test_damaged_work_is_done_again(toy: Path, name: str, text: str) -> None:
    go(toy)
    node = Path("runs/toy/big")
    scratch = Path("runs/toy/.work") / f"big-{read_manifest(node).key[:12]}"
    scratch.mkdir(parents=True)
    shutil.move(node, scratch / "out")
    (scratch / "out/text").write_text("HALF")
    (scratch / name).write_text(text)
    assert go(toy) == ["big"] and not damage(node) and not scratch.exists()


def replaced(path: Path, text: str, keep: bool) -> None:
    """Another file in its place; with `keep` of the same time."""
    stat = path.stat()
    path.with_name("new").write_text(text)
    path.with_name("new").replace(path)
    if keep:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_an_input_that_changes_meanwhile_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, folder: bool
) -> None:
    source = Path("data/text") if folder else Path("text")
    source.parent.mkdir(exist_ok=True)
    source.write_text("old")
    toy.write_text(toy.read_text().replace('source = "one"', f'source = "./{"data" if folder else "text"}"'))
    stage = load_stage("double")

    def swapped(config: object, inputs: object, context: StageContext) -> Result:
        replaced(source, "new", keep)
        (context.scratch / "checkpoint").write_text(source.read_text())
        (context.out / "text").write_text(source.read_text())
        return Result()

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the input `source` changed while `big`"):
        patch.setattr(stage, "run", swapped)
        go(toy)
    assert not Path("runs/toy/big").exists() and not any(Path("runs/toy/.work").glob("big-*"))

    def read(config: object, inputs: dict[str, Input], context: StageContext) -> Result:
        os.utime(source)  # touched, and the same bytes
        (context.out / "text").write_text(source.read_text())
        return Result()

    monkeypatch.setattr(stage, "run", read)
    replaced(source, "old", keep)
    go(toy)
    assert Path("runs/toy/big/text").read_text() == "old"


def test_work_that_broke_off_on_changed_data_is_no_work_to_go_on_with(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text").write_text("old")
    toy.write_text(toy.read_text().replace('source = "one"', 'source = "./text"'))

    def broken(change: bool) -> None:
        def run(config: object, inputs: object, context: StageContext) -> Result:
            (context.scratch / "checkpoint").write_text("half")
            if change:
                replaced(Path("text"), "new", keep=False)
            raise KeyboardInterrupt

        monkeypatch.setattr(load_stage("double"), "run", run)
        with pytest.raises(QwenkitError):
            go(toy)

    broken(change=False)
    assert len(list(Path("runs/toy/.work").glob("big-*/checkpoint"))) == 1
    broken(change=True)
    assert not list(Path("runs/toy/.work").glob("big-*"))


def test_a_note_is_told_with_the_headline(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(config: object, inputs: object, context: StageContext) -> Result:
        context.log("note", text="a checkpoint is passed over")
        (context.out / "text").write_text("x")
        return Result(warnings=("quick",))

    monkeypatch.setattr(load_stage("double"), "run", noted)
    go(toy)
    assert json.loads(Path("runs/toy/big/run.json").read_text())["remarks"] == ["a checkpoint is passed over", "quick"]
    notes = [row["text"] for row in read_events(Path("runs/toy/events.jsonl")) if row["event"] == "note"]
    assert notes == ["a checkpoint is passed over", "quick"]


def test_work_that_other_versions_began_is_marked(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the artifact's run.json, in the events and on the card's table of what a run was fixed by."""
    stage, real, versions = load_stage("double"), load_stage("double").run, runner.platform.versions()

    def broken(config: object, inputs: object, context: StageContext) -> Result:
        raise UserError("not now")

    monkeypatch.setattr(stage, "run", broken)
    with pytest.raises(UserError, match="not now"):
        go(toy)
    monkeypatch.setattr(stage, "run", real)
    monkeypatch.setattr(runner.platform, "versions", lambda: {**versions, "torch": "99"})
    go(toy, allow_drift=True)
    run = json.loads(Path("runs/toy/big/run.json").read_text())
    assert run["version_changes"] == [f'torch: "{versions["torch"]}" -> "99"'] and run["attempts"] == 2
    assert run["remarks"] == [f"work of other versions is continued: {run['version_changes'][0]}"]
    assert ("big was continued by other versions", run["version_changes"][0]) in environment_view(
        load_run(Path("runs/toy"))
    )
    assert json.loads(Path("runs/toy/one/run.json").read_text())["version_changes"] == []


def test_versions_of_earlier_attempts_that_are_not_known(tmp_path: Path) -> None:
    scratch.count_attempt(tmp_path)
    assert scratch.note_versions(tmp_path, {"torch": "1"}) == []
    (tmp_path / "versions.json").write_text("{")
    scratch.count_attempt(tmp_path)
    lost = "those of earlier attempts are not known"
    assert scratch.note_versions(tmp_path, {"torch": "1"}) == [lost]
    scratch.count_attempt(tmp_path)
    assert scratch.note_versions(tmp_path, {"torch": "2"}) == [lost, 'torch: "1" -> "2"']


def test_a_copy_takes_no_file_behind_a_link(toy: Path) -> None:
    go(toy, out="runs/a")
    Path("secret").write_text("mine")
    (Path("runs/a/one") / "README.md").symlink_to(Path("secret").resolve())
    go(toy, out="runs/b", reuse=Path("runs/a"))
    assert not (Path("runs/b/one") / "README.md").exists() and not damage(Path("runs/b/one"))


def test_a_name_that_is_not_utf8_is_refused(toy: Path) -> None:
    Path("data").mkdir()
    Path(os.fsdecode(b"data/\xff.txt")).write_text("x")
    toy.write_text(toy.read_text().replace('source = "one"', 'source = "./data"'))
    with pytest.raises(UserError, match=r"a file name that is not UTF-8: '.*data/\\udcff.txt'"):
        go(toy)
    with pytest.raises(UserError, match="not UTF-8"):
        go(toy, out=os.fsdecode(b"runs/\xff"))


def test_a_commit_that_is_none_leads_nowhere(toy: Path) -> None:
    go(toy)
    run = json.loads(Path("runs/toy/run.json").read_text())
    Path("runs/toy/run.json").write_text(json.dumps({**run, "hub": {"org/name": "../../../etc"}}))
    with pytest.raises(UserError, match="is not a commit of org/name"):
        go(toy)
