"""A start refuses what it must not touch, a plan refuses the same; a newer artifact is no damaged one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from qwenkit import artifacts
from qwenkit.errors import UserError
from qwenkit.lineage import graph, runner
from qwenkit.lineage.recipe import load_recipe
from qwenkit.lineage.runner import Options
from qwenkit.lineage.status import hint_of, read_status, verify
from tests.lineage.test_runner import go

RUN = Path("runs/toy")


def plan(path: Path, *changes: str, out: str = "runs/toy", **options: object) -> list[graph.PlanEntry]:
    recipe = replace(load_recipe(str(path), list(changes)), out=Path(out))
    return runner.plan(recipe, Options(**options))  # type: ignore[arg-type]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("left", [[".lock"], [".lock", "run.json.tmp"], ["run.json.tmp"]], ids=str)
def test_what_a_kill_in_the_first_moments_leaves_is_gone_on_with(toy: Path, left: list[str]) -> None:
    RUN.mkdir(parents=True)
    for name in left:
        (RUN / name).write_text("")
    assert go(toy) == ["one", "two", "big", "all"]
    assert not list(RUN.glob("*.tmp"))


def test_a_kill_while_run_json_is_written(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (child := os.fork()) == 0:
        monkeypatch.setattr(Path, "replace", lambda *_: os._exit(9))
        go(toy)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert sorted(path.name for path in RUN.iterdir()) == [".lock", "run.json.tmp"]
    assert plan(toy)[0].state == "run"


def test_a_plan_refuses_the_folders_that_a_run_refuses(toy: Path) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something that is not a run"):
        plan(toy, out="mine")
    go(toy)
    with pytest.raises(UserError, match="a run of another recipe, `toy`"):
        plan(toy, "title=other")
    with pytest.raises(UserError, match="threads: 1 -> 2"):
        plan(toy, "threads=2", "two.text=z")
    assert plan(toy, "threads=2", "two.text=z", allow_drift=True)[1].state == "run"
    assert {verdict.state for verdict in plan(toy, "threads=2")} == {"done"}, "nothing to do, nothing to refuse"


def test_what_a_recipe_leaves_open_is_as_at_the_first_start(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` chose the processor; a GPU that comes later changes nothing, and neither does another core."""
    go(toy, "device=auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    fixed = json.loads((RUN / "run.json").read_text())["fixed"]
    assert (fixed["device"], fixed["deterministic"], fixed["accelerator"]) == ("cpu", True, None)
    assert plan(toy, "device=auto", "two.text=z")[1].state == "run"
    with pytest.raises(UserError, match="deterministic: true -> false"):
        plan(toy, "deterministic=false", "two.text=z")


def test_a_run_that_began_on_a_gpu_says_so_where_there_is_none(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(toy, "device=auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    fixed = json.loads((RUN / "run.json").read_text())["fixed"]
    edit(RUN / "run.json", fixed={**fixed, "device": "cuda", "cpu": None, "accelerator": {"name": "A", "driver": "1"}})
    assert {entry.state for entry in plan(toy, "device=auto")} == {"done"}
    with pytest.raises(UserError, match='device: "cuda" -> "cpu"'):
        plan(toy, "device=auto", "two.text=z")
    assert plan(toy, "device=auto", "two.text=z", allow_drift=True)[1].state == "run"


def test_a_run_of_an_older_version_goes_on(toy: Path) -> None:
    """Its fingerprint lacks what it did not know; what it knew must still hold."""
    go(toy)
    path = RUN / "run.json"
    fixed = json.loads(path.read_text())["fixed"]
    old = {key: fixed[key] for key in ("threads", "device", "cpu", "versions")}
    edit(path, fixed=old)
    assert plan(toy, "two.text=z")[1].state == "run"
    edit(path, fixed={**old, "cpu": "another"})
    with pytest.raises(UserError, match='cpu: "another" -> '):
        plan(toy, "two.text=z")


@pytest.mark.parametrize("lost", [["cpu"], ["versions"], ["cpu", "versions"]], ids=",".join)
def test_conditions_that_are_not_known_are_drift(toy: Path, lost: list[str]) -> None:
    """A damaged run.json, or one that is older still: it is said, and the run is marked where it may go on."""
    go(toy)
    path = RUN / "run.json"
    fixed = json.loads(path.read_text())["fixed"]
    edit(path, fixed={key: value for key, value in fixed.items() if key not in lost})
    said = [f"{name}: not known" for name in lost]
    for act in (go, plan):
        with pytest.raises(UserError) as refused:
            act(toy, "two.text=z")
        assert refused.value.what == f"the run was started under other conditions: {'; '.join(said)}"
    assert go(toy, "two.text=z", allow_drift=True) == ["two", "all"]
    assert json.loads(path.read_text())["drift"] == said


def test_an_older_run_on_a_gpu_does_not_know_its_accelerator(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(toy)
    fixed = json.loads((RUN / "run.json").read_text())["fixed"]
    edit(RUN / "run.json", fixed={key: fixed[key] for key in ("threads", "versions")} | {"device": "cuda"})
    monkeypatch.setattr("qwenkit.platform.has_device", lambda device: True)
    monkeypatch.setattr("qwenkit.platform.accelerator", lambda device: {"name": "A", "driver": "1"})
    with pytest.raises(UserError) as refused:
        plan(toy, "device=cuda", "deterministic=true", "two.text=z")
    assert refused.value.what == "the run was started under other conditions: accelerator: not known"


def test_a_plan_says_that_a_parent_is_missing(toy: Path) -> None:
    (verdict,) = plan(toy, only=("big",))
    assert (verdict.state, verdict.why) == ("blocked", "reads one, not made yet: --until big makes all it needs")


def test_a_newer_artifact_is_refused_and_not_replaced(toy: Path) -> None:
    """By a run, by its plan, by what would reuse it; status and verify tell, and advise no removal."""
    go(toy)
    manifest = RUN / "one" / "manifest.json"
    edit(manifest, schema=99, shape="unknown here")
    before = manifest.read_bytes()
    for act in (go, plan):
        with pytest.raises(UserError, match=r"one/manifest.json: written by a newer qwenkit \(schema 99\)") as found:
            act(toy)
        assert found.value.hint == "upgrade qwenkit"
        with pytest.raises(UserError, match="written by a newer qwenkit"):
            act(toy, out="runs/b", reuse=RUN)
    assert manifest.read_bytes() == before and not Path("runs/b").exists()
    told = read_status(RUN)
    assert (told.nodes[0].node, told.nodes[0].state) == ("one", "newer")
    assert not told.damage and "hint: upgrade qwenkit" in told.newer[0]
    wrong = verify(RUN)
    assert "written by a newer qwenkit" in wrong[RUN / "one"][0] and hint_of(wrong) is None
    (RUN / "two" / "text").write_text("other")
    assert "makes it again" in str(hint_of(verify(RUN)))


def test_data_from_outside_is_read_once(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, verdict and work each ask for its digest; another size or time is another file."""
    Path("data").mkdir()
    Path("data/text").write_text("xy")
    toy.write_text(toy.read_text().replace('source = "one"', 'source = "./data"'))
    read: list[Path] = []
    real = artifacts.sha256_file
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: (read.append(path), real(path))[1])
    go(toy)
    assert [path.parent.name for path in read].count("data") == 1
    Path("data/text").write_text("xyz")
    assert go(toy) == ["big", "all"]
    assert [path.parent.name for path in read].count("data") == 2


def test_a_kill_within_a_copy_publishes_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--reuse` copies the manifest first, here, and is killed: the next start does not take the half for a whole."""
    go(toy, out="runs/a")

    def half(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        (target / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(artifacts, "copy", half)
        go(toy, out="runs/b", reuse=Path("runs/a"))
    runner.recover(Path("runs/b"))
    assert not Path("runs/b/one").exists()
    assert go(toy, out="runs/b", reuse=Path("runs/a")) == []
    assert not artifacts.damage(Path("runs/b/one")) and not any(Path("runs/b/.work").iterdir())
