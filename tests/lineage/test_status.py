"""Every node of the recipe is told, whatever happened to it, and one broken manifest hides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenkit.errors import Stopped, UserError
from qwenkit.lineage.report_card import write_card
from qwenkit.lineage.status import NodeStatus, read_status, verify
from qwenkit.stages import load_stage
from tests.errors.desk import call
from tests.lineage.test_runner import go

RUN = Path("runs/toy")


def told() -> dict[str, tuple[str, str]]:
    """State and detail of every node."""
    return {row.node: (row.state, row.detail) for row in read_status(RUN).nodes}


def test_a_finished_run(toy: Path) -> None:
    toy.write_text(toy.read_text().replace('text = "a"', 'text = "a"\nplanned_minutes = 3'))
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
    assert found.value.hint == "move it out of the folder"
    assert (RUN / "two" / "notes").exists()
    assert go(toy, "two.text=c") == ["two", "all"]  # superseded, the stray file with it
    assert len(list(RUN.glob(".old/two-*/notes"))) == 1


def test_what_older_code_made_is_marked(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `status` and in the card; a newer stage says so in the same words."""
    go(toy)
    assert {row.older_code for row in read_status(RUN).nodes} == {""}
    monkeypatch.setattr(load_stage("double"), "VERSION", 3)
    said = "made by version 1 of `double`, now 3"
    assert {row.node: row.older_code for row in read_status(RUN).nodes if row.older_code} == {"big": said}
    assert said in " ".join(call("status runs/toy")[1].split())
    assert [row["older_code"] for row in json.loads(call("status runs/toy --json")[1])["nodes"]][2] == said
    write_card(RUN, Path("card"))
    for name in ("report.html", "report.md"):
        assert said in Path("card", name).read_text().replace("\\", "")


def test_the_recipes_words_about_itself_are_heard(toy: Path) -> None:
    """A run that proves nothing says so, on the screen and at the head of the card."""
    toy.write_text('about = "proves <nothing>"\n' + toy.read_text())
    assert "proves <nothing>" in call(f"run {toy}")[1]
    write_card(RUN, Path("card"))
    assert "proves &lt;nothing&gt;" in Path("card/report.html").read_text().split("<main>")[0]
    assert Path("card/report.md").read_text().splitlines()[2].replace("\\", "") == "proves <nothing>"


def test_planned_and_actual_memory(toy: Path) -> None:
    toy.write_text(toy.read_text().replace('text = "a"', 'text = "a"\nplanned_minutes = 3\nplanned_memory_mb = 700'))
    said = call(f"run {toy}")[1]
    rows = [line.split() for line in said.split("planned MB")[1].splitlines() if line.startswith(("one", "all"))]
    assert rows[0][1:4:2] == rows[-1][1:4:2] == ["3.0", "700"]
    row = next(line for line in call(f"run {toy} --set one.text=b --dry-run")[1].splitlines() if "one" in line)
    assert row.split()[-2:] == ["3.0", "700"]
    write_card(RUN, Path("card"))
    whole = next(line for line in Path("card/report.md").read_text().splitlines() if line.startswith("| all | 3 |"))
    assert whole.split(" | ")[3] == "700" and int(whole.split(" | ")[4].replace(",", "")) > 0
