"""Every node of the recipe is told, whatever happened to it, and one broken manifest hides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.lineage.status import NodeStatus, read_status, verify
from tests.lineage.test_runner import go

RUN = Path("runs/toy")


def told() -> dict[str, tuple[str, str]]:
    """State and detail of every node."""
    return {row.node: (row.state, row.detail) for row in read_status(RUN).nodes}


def test_a_finished_run(toy: Path) -> None:
    toy.write_text(toy.read_text().replace('text = "a"', 'text = "a"\nminutes = 3'))
    go(toy)
    found = read_status(RUN)
    assert [row.node for row in found.nodes] == ["one", "two", "big", "all"]
    one = found.nodes[0]
    assert isinstance(one, NodeStatus)
    assert (one.kind, one.state, one.detail, one.planned_minutes, one.attempts) == (
        "source", "done", "1 characters", 3.0, 1,
    )  # fmt: skip
    assert one.minutes is not None and len(one.digest) == 64
    assert not found.damage and not found.alarms


def test_what_failed_and_what_was_not_reached(toy: Path) -> None:
    with pytest.raises(Stopped):
        go(toy, "two.text=explode")
    assert told() == {
        "one": ("done", "1 characters"),
        "two": ("failed", "exploded on purpose"),
        "big": ("not run", ""),
        "all": ("not run", ""),
    }


def test_nodes_that_only_left_out_are_told(toy: Path) -> None:
    go(toy, only=("one",))
    assert set(told()) == {"one", "two", "big", "all"}


def test_how_far_an_unfinished_node_came(toy: Path) -> None:
    go(toy, only=("one",))
    with (RUN / "events.jsonl").open("a") as log:
        for fields in ({"event": "node_start"}, {"event": "checkpoint", "step": 40, "until": 600}):
            log.write(json.dumps({"node": "two", "attempt": 2, **fields}) + "\n")
    assert told()["two"] == ("not finished", "checkpoint at step 40 of 600")
    with (RUN / "events.jsonl").open("a") as log:
        log.write(json.dumps({"node": "big", "attempt": 2, "event": "node_start"}) + "\n")
    assert told()["big"] == ("not finished", "no checkpoint yet")


def test_a_lost_artifact(toy: Path) -> None:
    go(toy)
    for path in (RUN / "two").iterdir():
        path.unlink()
    (RUN / "two").rmdir()
    assert told()["two"] == ("not run", "its artifact is gone")


def test_one_broken_manifest_hides_nothing(toy: Path) -> None:
    go(toy)
    (RUN / "one" / "manifest.json").write_text("{")
    (RUN / "all" / "run.json").unlink()
    (RUN / "two" / "text").write_text("other")
    found = told()
    assert {node: state for node, (state, _) in found.items()} == {
        "one": "damaged", "two": "done", "big": "done", "all": "damaged",
    }  # fmt: skip
    assert "broken JSON" in found["one"][1]
    assert len(read_status(RUN).damage) == 2
    wrong = {folder.name: lines for folder, lines in verify(RUN).items()}
    assert set(wrong) == {"one", "two", "big", "all"}
    assert wrong["two"] == ["runs/toy/two/text: its bytes changed"] and "broken JSON" in wrong["one"][0]
    assert not wrong["big"] and not wrong["all"]


def test_a_run_and_verify_agree_on_stray_files(toy: Path) -> None:
    go(toy)
    (RUN / "two" / "notes").write_text("mine")
    assert verify(RUN)[RUN / "two"] == ["runs/toy/two/notes: not in the manifest"]
    with pytest.raises(UserError, match="notes: not in the manifest") as found:
        go(toy)
    assert found.value.mend == "move it out of the folder"
    assert (RUN / "two" / "notes").exists()
    assert go(toy, "two.text=c") == ["two", "all"]  # superseded, the stray file with it
    assert len(list(RUN.glob(".old/two-*/notes"))) == 1
