"""Names of the Hub: what is fetched, what is kept, and what is said when it is not there. The server is on this
machine; any other address is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from qwenkit import hub as names
from qwenkit.errors import UserError
from qwenkit.hub import parse, resolve
from tests.hub_server import HubServer

MODEL = {
    "config.json": b'{"model_type": "qwen2"}',
    "generation_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}",
    "README.md": b"words",
    "modeling_qwen.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "original/model.safetensors": b"nested",
}
PICKLED = {"config.json": b"{}", "pytorch_model.bin": b"pickle", "qwen.tiktoken": b"YQ== 0", "modeling_qwen.py": b""}


def refused(reference: str, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(reference, **given)
    return str(caught.value)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_without_code_pickles_and_folders(hub: HubServer) -> None:
    commit = hub.add("org/name", MODEL)
    folder = resolve("org/name")
    assert folder.name == commit
    assert files(folder) == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert all((folder / name).read_bytes() == MODEL[name] for name in files(folder))
    hub.log.clear()
    assert resolve(Path("org/name")) == folder
    assert not [path for _, path, _ in hub.log if "/resolve/" in path or "/cdn/" in path]


def test_pickles_come_only_where_there_are_no_safetensors(hub: HubServer) -> None:
    hub.add("org/old", PICKLED)
    assert files(resolve("org/old")) == {"config.json", "pytorch_model.bin", "qwen.tiktoken"}


def test_a_tokenizer_needs_no_weights(hub: HubServer) -> None:
    hub.add("org/name", MODEL)
    assert files(resolve("org/name", what="tokenizer")) == {"config.json", "generation_config.json", "tokenizer.json"}
    assert not hub.asked("GET", "safetensors")
    assert "model.safetensors" in files(resolve("org/name"))


def test_revisions(hub: HubServer) -> None:
    """A branch moves on, a tag and a commit do not; both ways to say one."""
    first = hub.add("org/name", {**MODEL, "config.json": b'{"first": 1}'}, tags=("v1",))
    second = hub.add("org/name", MODEL)
    assert resolve("org/name").name == resolve("org/name@main").name == second != first
    assert (
        resolve("org/name", "v1").name == resolve("hf://org/name@v1").name == resolve(f"org/name@{first}").name == first
    )
    assert (resolve("org/name@v1") / "config.json").read_bytes() == b'{"first": 1}'
    assert names.commit("org/name@v1") == first and names.snapshot("org/name@v1", first) == resolve("org/name@v1")
    told = refused("org/name", revision="v2")
    assert "org/name has no revision 'v2'" in told and "expected: main, v1" in told and "nearest: v1" in told
    assert "one revision and revision = 'v2' another" in refused("org/name@v1", revision="v2")


def test_a_commit_that_is_whole_here_asks_nobody(hub: HubServer) -> None:
    commit = hub.add("org/name", MODEL)
    folder = resolve(f"org/name@{commit}")
    hub.log.clear()
    assert resolve(f"org/name@{commit}") == folder == resolve("org/name", commit) and not hub.log
    (folder / "model.safetensors").unlink()
    assert resolve(f"org/name@{commit}") == folder and (folder / "model.safetensors").exists()


def test_a_cut_download_goes_on_where_it_was(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last whole piece: the library reads 10 MB at a time, here less."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 20_000)
    hub.add("org/name", MODEL)
    hub.cut = {"model.safetensors"}
    folder = resolve("org/name")
    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"] and not hub.cut
    parts = [headers.get("range") for headers in hub.asked("GET", "/cdn/")]
    assert parts == [None, "bytes=40000-"]


def test_the_token_opens_gated_models_and_goes_to_the_hub_alone(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add("org/gated", MODEL, access="gated")
    told = refused("org/gated")
    assert told.startswith(f"{hub.endpoint}/org/gated: org/gated is open only to those whom its owner lets in")
    assert "hint: ask for access on that page, then log in with `hf auth login`, or set HF_TOKEN" in told
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "your token is not accepted: Invalid credentials" in refused("org/gated")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(hub.token)  # as `hf auth login` leaves it
    hub.log.clear()
    assert "model.safetensors" in files(resolve("org/gated"))
    assert {headers["authorization"] for headers in hub.asked("HEAD", "/resolve/")} == {f"Bearer {hub.token}"}
    assert hub.asked("GET", "/cdn/") and not any("authorization" in headers for headers in hub.asked("GET", "/cdn/"))


def test_a_private_model_and_none_at_all_look_the_same(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", MODEL, access="private")
    for name in ("org/private", "org/none"):
        told = refused(name)
        assert told.startswith(f"{name}: no such folder here, and no such model on the Hub that you may read")
        assert "expected: a folder, or org/name" in told and "HF_TOKEN" in told
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert files(resolve("org/private"))
    assert "no such model" in refused("org/none")


def test_a_misspelt_folder_is_told_its_neighbour(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert "nearest: runs/base" in refused("runs/bsae")


@pytest.mark.parametrize("state", ["told to be offline", "no server", "a server that says nothing"])
def test_offline_from_the_cache(state: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/name", MODEL)
    folder = resolve("org/name")
    hub.add("org/other", MODEL)
    resolve("org/other", what="tokenizer")
    hub.silent = state == "a server that says nothing"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", state == "told to be offline")
    if state == "no server":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve("org/name") == folder == resolve("org/name", what="tokenizer")
    assert names.commit("org/name") == folder.name
    what = "it is not in the cache of the Hub's models" if "told" in state else "the Hub cannot be reached: "
    told = refused("org/none")
    assert told.startswith(f"org/none: no such folder here, and {what}") and "ask again with a network" in told
    assert refused("org/other").startswith("org/other: only a part of it is in the cache")


def test_a_failing_hub_is_quoted(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import hub_server

    monkeypatch.setattr(hub_server, "ROUTES", [(".*", lambda answer: answer._fail(503, "", "maintenance until noon"))])
    told = refused("org/name")
    assert told.startswith(f"{hub.endpoint}/org/name: the Hub answers with status 503: maintenance until noon")


def test_a_full_disk(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/name", MODEL)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    told = refused("org/name")
    assert told.startswith(f"org/name, {constants.HF_HUB_CACHE}: the disk is full") and "HF_HOME" in told
    monkeypatch.undo()


def test_a_folder_is_itself(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    for local in (
        "org/name",
        "./org/name",
        Path("org/name"),
        tmp_path / "org/name",
        "nothing",
        "a/b/c",
        "../x",
        "x/y.json",
    ):
        assert resolve(local) == Path(local)
    assert not hub.log
    assert "revision = 'v1' for something that is not a model on the Hub" in refused("org/name", revision="v1")


def test_two_meanings_at_once(hub: HubServer, tmp_path: Path) -> None:
    """Only where both are at hand; either can be said."""
    hub.add("org/name", MODEL)
    folder = resolve("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    told = refused("org/name")
    assert told.splitlines() == [
        '"org/name" is both a folder here and a model in the cache of the Hub',
        '  expected: the folder "./org/name" or the model "hf://org/name"',
    ]
    assert resolve("hf://org/name") == folder and resolve("./org/name") == Path("org/name") == resolve(Path("org/name"))


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("Qwen/Qwen-7B", "Qwen/Qwen-7B", None),
        ("hf://a/b.c_d@refs/pr/1", "a/b.c_d", "refs/pr/1"),
        ("a/b@v1.0", "a/b", "v1.0"),
    ],
)
def test_names(text: str, repo: str, revision: str | None) -> None:
    found = parse(text)
    assert found is not None and found[:2] == (repo, revision)


@pytest.mark.parametrize(
    "text", ["", "a", "a/b/c", "/a/b", "a/", "./a", "../a", "a/.b", "a/b--c", "a/b..c", "a/b.git", "a/b.json", "a b/c",
             "名/字", "hf://a", "a/" + "b" * 96]
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    assert parse(text) is None


def test_a_downloaded_file_that_changed_is_refused(tmp_path: Path) -> None:
    """The cache names large files by their SHA-256 and small ones by git's digest."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("0" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    data = {"model.safetensors": b"weights", "config.json": b"{}"}
    kinds = {"model.safetensors": hashlib.sha256(b"weights"), "config.json": hashlib.sha1(b"blob 2\0{}")}
    for name, content in data.items():
        (blobs / kinds[name].hexdigest()).write_bytes(content)
        (snapshot / name).symlink_to(blobs / kinds[name].hexdigest())
    (snapshot / "own.txt").write_text("of nobody's digest")
    names.refuse_changed(snapshot)
    for name, content in data.items():
        (snapshot / name).write_bytes(b"x" + content[1:])
        with pytest.raises(UserError, match=f"{name}: a downloaded file changed"):
            names.refuse_changed(snapshot)
        (snapshot / name).write_bytes(content)
