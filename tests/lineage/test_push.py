"""Giving a model away: what is sent, what is refused, what the card says; and that it comes back the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from qwenkit import hub as names
from qwenkit.artifacts import read_manifest
from qwenkit.errors import UserError
from qwenkit.lineage.model_card import card_to_give, model_card
from qwenkit.records import read_json, write_json
from tests.errors.desk import call, raise_family
from tests.hub_server import HubServer

SENT = {"chat_template.jinja", "config.json", "generation_config.json", "manifest.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "README.md"}  # fmt: skip


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    raise_family(folder)
    return folder


@pytest.fixture
def mine(raised: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family here, and the token of its owner."""
    shutil.copytree(raised, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return tmp_path


def push(command: str) -> str:
    code, out, err = call(f"push {command}")
    assert code == 0, err
    return out


def refused(command: str) -> str:
    code, _, err = call(f"push {command}")
    assert code == 2
    return err


def test_a_model_goes_there_and_back(hub: HubServer, mine: Path) -> None:
    (mine / "runs/family/chat/.DS_Store").write_bytes(b"")
    out = push("runs/family/chat me/chat --message first --license apache-2.0")
    repo = hub.repos["me/chat"]
    assert set(repo.commits[repo.branches["main"]]) == SENT | {".gitattributes"}
    assert repo.access == "public" and repo.messages[-1] == "first" and repo.branches["main"] in out
    assert "left out: .DS_Store, run.json" in out and "written from the manifests" in out
    assert "license" not in (mine / "runs/family/chat/README.md").read_text()
    back = names.resolve("me/chat")
    for path in back.iterdir():
        assert path.read_bytes() == (mine / "runs/family/chat" / path.name).read_bytes()
    uploads = [path for method, path, _ in hub.log if method == "PUT"]
    push("runs/family/chat me/chat --license mit")
    assert [path for method, path, _ in hub.log if method == "PUT"] == uploads and len(uploads) == 1
    assert b"license: apache-2.0" in repo.commits[repo.branches["main"]]["README.md"]


def test_private_and_on_a_branch(hub: HubServer, mine: Path) -> None:
    push("runs/family/base me/base --private --revision trial")
    repo = hub.repos["me/base"]
    assert repo.access == "private" and set(repo.commits[repo.branches["main"]]) == {".gitattributes"}
    assert "model.safetensors" in repo.commits[repo.branches["trial"]]
    assert names.resolve("me/base@trial").name == repo.branches["trial"]


def test_a_dry_run_asks_nobody(hub: HubServer, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = json.loads(push("runs/family/pmp me/pmp --dry-run --json"))
    assert set(found["files"]) == SENT - {"generation_config.json"} and found["commit"] == "" and not hub.log
    assert found["files"]["model.safetensors"] == (mine / "runs/family/pmp/model.safetensors").stat().st_size
    assert "nothing was sent; without --dry-run this becomes me/pmp" in push("runs/family/pmp me/pmp --dry-run")


def test_a_card_that_is_there_is_sent_as_it_is(hub: HubServer, mine: Path) -> None:
    shutil.copytree(mine / "runs/family/base", mine / "model")
    (mine / "model/README.md").write_text("---\nlicense: mit\n---\nmine")
    push("model me/model")
    assert hub.repos["me/model"].commits[hub.repos["me/model"].branches["main"]]["README.md"].endswith(b"mine")


def test_what_is_no_whole_model_stays_here(hub: HubServer, mine: Path) -> None:
    chat = mine / "runs/family/chat"
    assert refused("runs/family/chat chat").startswith("error: 'chat' is not a name for a model")
    assert refused("runs/family/chat me/chat@v1").startswith("error: 'me/chat@v1' is not a name for a model")
    assert refused("nothing me/chat").startswith("error: nothing: no such folder")
    assert "config.json is missing" in refused("runs/family/tokenizer me/chat")
    data = (chat / "model.safetensors").read_bytes()
    (chat / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "a corrupted artifact: model.safetensors: its bytes changed" in refused("runs/family/chat me/chat")
    (chat / "manifest.json").unlink()
    (chat / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "corrupted" in refused("runs/family/chat me/chat")
    (chat / "model.safetensors").write_bytes(data)
    (chat / "tokenizer.json").unlink()
    assert "no tokenizer in this folder" in refused("runs/family/chat me/chat")
    assert not hub.log and not hub.repos


def test_who_may_not(hub: HubServer, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "you may not do this: You don't have the rights" in refused("runs/family/base other/base")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "your token is not accepted: Invalid username or password." in refused("runs/family/base me/base")
    monkeypatch.delenv("HF_TOKEN")
    assert refused("runs/family/base me/base").splitlines() == [
        "error: no token of the Hub", "  hint: log in with `hf auth login`, or set HF_TOKEN"
    ]  # fmt: skip
    assert not hub.repos


def test_no_network(hub: HubServer, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in refused("runs/family/base me/base")


def test_the_card_tells_base_licences_and_lineage(raised: Path, tmp_path: Path) -> None:
    """A corpus with licences above the model, and a model of the Hub at the top."""
    run = tmp_path / "run"
    shutil.copytree(raised / "runs/family", run)
    corpus = read_json(run / "tokenizer/manifest.json")
    corpus |= {"node": "corpus", "kind": "corpus", "metrics": {
        "by_licence": {"CC0-1.0": {"documents": 1200, "characters": 34567}},
        "by_source": {"pages": {"documents": 1200, "characters": 34567}},
        "by_language": {"en": {}, "zh": {}, "code": {}},
    }}  # fmt: skip
    (run / "corpus").mkdir()
    write_json(run / "corpus/manifest.json", corpus)
    base = read_json(run / "base/manifest.json")
    for counted, name in (("licence", "CC0-1.0"), ("source", "pages")):
        base["metrics"][f"tokens_by_{counted}"] = {name: {"documents": 1200, "tokens": 34567}}
    base["inputs"] = {"corpus": {"node": "corpus", "digest": corpus["digest"]},
                      "model": {"node": "", "digest": "0" * 40, "hub": "org/first"}}  # fmt: skip
    write_json(run / "base/manifest.json", base)
    card = model_card(run / "chat", "me/chat", "apache-2.0")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert head.splitlines() == [
        *("license: apache-2.0", "base_model:", "- org/first", "language:", "- en", "- zh"),
        *("library_name: transformers", "pipeline_tag: text-generation", "tags:", "- qwenkit"),
    ]
    assert "# chat" in body and "[org/first](https://huggingface.co/org/first)" in body
    assert "| CC0-1.0 | 1,200 | 34,567 | 100.00% |" in body and "| pages | 1,200 | 34,567 |" in body
    for node in ("chat", "base", "corpus"):
        manifest = read_manifest(run / node)
        assert f"| {node} | {manifest.kind} | {manifest.digest[:12]} | {manifest.headline} |" in body
    (run / "base/manifest.json").unlink()  # made again since, or gone: nothing is said of it
    assert "org/first" not in model_card(run / "chat", "me/chat")
    assert "No licence is stated" in model_card(run / "chat", "me/chat")
    assert "pipeline_tag: text-classification" in model_card(run / "pmp", "me/pmp")


@pytest.mark.parametrize("name", ["LICENSE-x", "README.md", "model-2.safetensors", "NOTICE"])
def test_a_link_out_of_the_folder_is_refused(hub: HubServer, mine: Path, name: str) -> None:
    (mine / "secret").write_text("mine alone")
    folder = mine / "runs/family/chat"
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(mine / "secret")
    assert f"{name}: a link that leads out of the folder" in refused("runs/family/chat me/chat")
    (folder / name).unlink()
    (folder / ".env").write_text("hidden")
    (folder / name).symlink_to(".env")
    assert f"{name}: a link that leads out of the folder" in refused("runs/family/chat me/chat --dry-run")
    assert not hub.repos


def test_a_link_within_the_folder_and_what_is_no_file(hub: HubServer, mine: Path) -> None:
    folder = mine / "runs/family/chat"
    (folder / "TERMS").write_text("terms")
    (folder / "LICENSE").symlink_to("TERMS")
    (folder / "NOTICE").mkdir()
    os.mkfifo(folder / "LICENSE-2")
    found = json.loads(push("runs/family/chat me/chat --dry-run --json"))
    assert found["files"]["LICENSE"] == 5 and not {"NOTICE", "LICENSE-2"} & set(found["files"])


@pytest.mark.parametrize(
    "licence", ["mit\nbase_model: evil/x", "mit\r", "", " mit", "mit # no", "[mit]", "m" * 65, "ä"]
)
def test_a_licence_is_an_identifier(raised: Path, licence: str) -> None:
    folder = raised / "runs/family/chat"
    with pytest.raises(UserError, match="is not a licence"):
        card_to_give(folder, "me/chat", licence)
    for fine in ("apache-2.0", "cc-by-sa-4.0", "other", "MIT", "gpl-3.0+", "no", "1.0"):
        written = fine if len(fine) > 3 or fine == "MIT" else f"'{fine}'"
        assert f"\nlicense: {written}\n" in (card_to_give(folder, "me/chat", fine) or "")


def test_names_from_a_manifest_write_no_metadata(raised: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(raised / "runs/family", run)
    base = read_json(run / "base/manifest.json")
    evil = "org/a\nlicense: evil\n---\n"
    base["inputs"] = {"model": {"node": "", "digest": "0" * 40, "hub": evil}}
    base |= {
        "metrics": {"by_language": {"no": {}, "e\n": {}, "en": {}}, "by_licence": {"x": 3}},
        "headline": f"h\n{evil}",
    }
    write_json(run / "base/manifest.json", base)
    (run / "base/README.md").unlink()
    card = model_card(run / "base", "me/base")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "evil" not in head and head.splitlines()[:3] == ["language:", "- en", "- 'no'"]
    assert "\nlicense: evil" not in body and "\n---\n" not in body
