"""Recipes that begin with a model of the Hub: the commit is part of a node's identity, and a run stays with its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from qwenkit import Engine, load_model, load_tokenizer
from qwenkit.records import read_json
from tests.errors.desk import TRAIN, call, raise_family
from tests.hub_server import HubServer

RECIPE = f"""\
threads = 1

[chat]
kind = "sft"
model = "me/base"
data = "chat.jsonl"
steps = 1
{TRAIN}"""


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    raise_family(folder)
    return folder


@pytest.fixture
def base(raised: Path, hub: HubServer, tmp_path: Path) -> dict[str, bytes]:
    """The family's base model lies on the Hub, and only there; the recipe and its data are here."""
    shutil.copy(raised / "chat.jsonl", tmp_path)
    (tmp_path / "my.toml").write_text(RECIPE)
    return {path.name: path.read_bytes() for path in (raised / "runs/family/base").iterdir()}


def run(command: str) -> str:
    code, out, err = call(command)
    assert code == 0, err
    return out


def states(command: str) -> dict[str, tuple[str, str]]:
    return {row["node"]: (row["state"], row["why"]) for row in json.loads(run(f"{command} --dry-run --json"))}


def test_a_run_keeps_the_commit_that_it_began_with(hub: HubServer, base: dict[str, bytes], tmp_path: Path) -> None:
    first = hub.add("me/base", base)
    run("run my.toml -q")
    manifest = read_json(tmp_path / "runs/my/chat/manifest.json")
    assert manifest["inputs"]["model"] == {"node": "", "digest": first, "hub": "me/base"}
    assert read_json(tmp_path / "runs/my/run.json")["hub"] == {"me/base": first}
    second = hub.add("me/base", {**base, "README.md": b"more"})
    hub.log.clear()
    assert states("run my.toml")["chat"][0] == "done" and not hub.log
    run("run my.toml -q --out runs/other")
    other = read_json(tmp_path / "runs/other/chat/manifest.json")
    assert other["inputs"]["model"]["digest"] == second != first and other["key"] != manifest["key"]
    (tmp_path / "my.toml").write_text(RECIPE.replace("me/base", f"me/base@{second}"))
    assert states("run my.toml")["chat"] == ("run", "input model changed")


def test_a_run_goes_on_offline(
    hub: HubServer, base: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/base", base)
    run("run my.toml -q")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.rmtree(tmp_path / "runs/my/chat")
    assert states("run my.toml")["chat"] == ("run", "never run")
    run("run my.toml -q")
    assert (tmp_path / "runs/my/chat/model.safetensors").exists()


def test_a_model_that_cannot_be_had_stops_the_run_before_it_begins(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(RECIPE)
    turns = [{"role": "user", "content": "so?"}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    assert states("run my.toml")["chat"][0] == "absent"
    code, _, err = call("run my.toml -q")
    assert code == 2 and err.startswith("error: my.toml, me/base: no such folder here, and no such model on the Hub")
    assert not (tmp_path / "runs").exists()


def test_two_meanings_are_refused_with_the_line(hub: HubServer, base: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("me/base", base)
    load_tokenizer("me/base")
    (tmp_path / "me" / "base").mkdir(parents=True)
    code, _, err = call("run my.toml -q")
    assert code == 2 and err.startswith('error: my.toml, line 5: "me/base" is both a folder here and a model')
    (tmp_path / "my.toml").write_text(RECIPE.replace("me/base", "hf://me/base"))
    assert states("run my.toml")["chat"][0] == "run"


def test_an_examined_model_is_called_by_its_name(hub: HubServer, base: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("me/base", base)
    (tmp_path / "tests").mkdir()
    rows = [{"id": f"t{n}", "task": "t", "language": "en", "prompt": "a river", "answer": "stone"} for n in range(2)]
    (tmp_path / "tests/base.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("evaluate --models me/base --tests tests --max-tokens 2 --threads 1 --out runs/exam -q")
    assert (tmp_path / "runs/exam/evaluate/base.base.jsonl").exists()


def test_the_same_name_everywhere(hub: HubServer, base: dict[str, bytes]) -> None:
    """Model, tokenizer, engine and the command line, at a revision too."""
    hub.add("me/base", base, tags=("v1",))
    tok: Any = load_tokenizer("me/base", revision="v1")
    model = load_model("me/base", revision="v1")
    assert model.config.hidden_size == 16 and tok.vocab_size == model.config.vocab_size
    assert Engine("me/base@v1", tok).generate(["river"])[0].ids
    assert run("chat me/base -p river --max-tokens 3")


def test_a_real_process_with_the_usual_variables(hub: HubServer, base: dict[str, bytes], tmp_path: Path) -> None:
    """Fetched once; without the server it answers the same from the cache."""
    hub.add("me/base", base)
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
                   "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}  # fmt: skip
    command = [sys.executable, "-m", "qwenkit.cli", "chat", "me/base", "-p", "river", "--max-tokens", "3"]
    for offline in ("0", "1"):
        hub.silent = offline == "1"
        environment["HF_HUB_OFFLINE"] = offline
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(hub.asked("GET", "/cdn/")) == 1 and list((tmp_path / "home/hub").glob("models--me--base"))
