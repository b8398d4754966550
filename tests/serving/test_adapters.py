"""Adapters behind the server: asked like models, kept apart like models, loaded by those who may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qwenkit.cli.serve import _named
from qwenkit.errors import UserError
from qwenkit.model import load_model
from qwenkit.model.adapter_folder import save_adapter, tensors_digest
from qwenkit.model.lora import add_adapter
from qwenkit.model.lora_config import LoRAConfig
from qwenkit.model.trainable import trainable_state
from qwenkit.serving.codecs import CODECS
from qwenkit.serving.guard import check_exposure
from qwenkit.serving.keys import Client, Key, Keyring, read_key_file
from qwenkit.serving.models import entries_of
from qwenkit.serving.settings import ServerSettings
from tests.serving.asgi import Answer, ask
from tests.serving.conftest import Desk

OWNER, USER = "sk-owner-0123456789", "sk-user-0123456789ab"
KEYS = Keyring([Key.of(Client("owner", load_adapters=True), OWNER), Key.of(Client("user"), USER)])


@pytest.fixture(scope="module", name="adapters")
def _adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters, one of another model, and a link that leads out of it."""
    place = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "foreign")):
        model = load_model(tiny)
        digest = "0" * 64 if name == "foreign" else tensors_digest(model)
        model = add_adapter(model, LoRAConfig(rank=2), seed=seed)
        with torch.no_grad():
            for parameter in trainable_state(model).values():
                parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        save_adapter(model, place / name, str(tiny), digest=digest)
    (place / "out").symlink_to(tiny)
    return place


def question(model: str | None = None) -> dict[str, object]:
    return {"model": model, "prompt": "river " * 20, "max_tokens": 6, "temperature": 0, "logprobs": 1}


def asked(app: object, model: str | None, **headers: str) -> Answer:
    return ask(app, "POST", "/v1/completions", question(model), **headers)


def load(app: object, name: str, path: str, key: str = OWNER) -> Answer:
    return ask(app, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, x_api_key=key)


def unload(app: object, name: str, key: str = OWNER) -> Answer:
    return ask(app, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, x_api_key=key)


def test_adapters_are_models_with_a_parent(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS)
    desk.made.entries[0].adapters.update(one=str(adapters / "one"), two=str(adapters / "two"))
    answers = {name: asked(app, name).json for name in ("tiny", "one", "two")}
    assert {name: answer["model"] for name, answer in answers.items()} == {name: name for name in answers}
    logprobs = [json.dumps(answer["choices"][0]["logprobs"]) for answer in answers.values()]
    assert len(set(logprobs)) == 3 and desk.loads == ["tiny"], "one model in memory"
    rows = ask(app, "GET", "/v1/models").json["data"]
    assert [(row["id"], row["parent"], row["root"]) for row in rows] == [
        ("tiny", None, "tiny"), ("one", "tiny", "one"), ("two", "tiny", "two"),
    ]  # fmt: skip
    assert asked(app, "on").json["error"]["message"].endswith("hint: did you mean one?")
    assert asked(app, None).json["model"] == "tiny"


def test_their_beginnings_figures_and_log_are_their_own(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS)
    desk.made.entries[0].adapters["one"] = str(adapters / "one")
    cached = [asked(app, name).json["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
              for name in ("tiny", "one", "tiny", "one")]  # fmt: skip
    assert cached[:2] == [0, 0] and min(cached[2:]) > 0
    page = ask(app, "GET", "/metrics").body.decode()
    assert 'qwenkit_request_prompt_tokens_count{model="one"} 2' in page
    assert 'qwenkit_request_prompt_tokens_count{model="tiny"} 2' in page
    assert [row.get("model") for row in desk.log_rows("request")][:4] == ["tiny", "one", "tiny", "one"]


def test_an_adapter_has_no_vectors(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS)
    desk.made.entries[0].adapters["one"] = str(adapters / "one")
    answer = ask(app, "POST", "/v1/embeddings", {"input": "river", "model": "one"})
    assert answer.status == 400 and "no vectors of its own" in answer.json["error"]["message"]


def test_a_key_of_an_adapter_alone(desk: Desk, adapters: Path) -> None:
    keyring = Keyring([Key.of(Client("u", models=frozenset({"one"})), USER)])
    app = desk.app("tiny", codecs=CODECS, keyring=keyring)
    desk.made.entries[0].adapters.update(one=str(adapters / "one"), two=str(adapters / "two"))
    assert asked(app, None, x_api_key=USER).json["model"] == "one"
    assert asked(app, "tiny", x_api_key=USER).status == asked(app, "two", x_api_key=USER).status == 404


def test_loaded_and_unloaded_over_http(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS, keyring=KEYS, adapters_from=adapters)
    bare = asked(app, "tiny", x_api_key=USER).json["choices"]
    assert load(app, "mine", "one").json == {"loaded": "mine", "parent": "tiny"}
    assert asked(app, "mine", x_api_key=USER).json["choices"] != bare
    taken = load(app, "mine", "two")
    assert (taken.status, taken.json["error"]["code"]) == (409, "name_taken")
    assert load(app, "tiny", "two").status == 409
    assert unload(app, "mine").json == {"unloaded": "mine"}
    assert asked(app, "mine", x_api_key=USER).status == unload(app, "mine").status == 404
    assert 'model="mine"' not in ask(app, "GET", "/metrics", x_api_key=USER).body.decode()
    assert load(app, "mine", str(adapters / "two")).status == 200, "a name may come again"
    assert asked(app, "tiny", x_api_key=USER).json["choices"] == bare


def test_adapters_that_are_not_loaded(desk: Desk, adapters: Path, tiny: Path) -> None:
    app = desk.app("tiny", codecs=CODECS, keyring=KEYS, adapters_from=adapters)
    outside = [load(app, "x", path) for path in ("../one", str(tiny), "out", "nowhere", ".", "", "a\0b", "one/../..")]
    assert {answer.status for answer in outside} == {400}
    assert len({answer.json["error"]["message"] for answer in outside}) == 1, "it tells nobody what is there"
    foreign = load(app, "x", "foreign")
    assert foreign.status == 400 and "another model" in foreign.json["error"]["message"]
    assert str(adapters) not in foreign.body.decode()
    assert load(app, "two words", "one").status == load(app, "", "one").status == 400
    assert [row["id"] for row in ask(app, "GET", "/v1/models", x_api_key=USER).json["data"]] == ["tiny"]


def test_only_by_keys_that_may_and_where_a_folder_is_named(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS, keyring=KEYS, adapters_from=adapters)
    for answer in (load(app, "mine", "one", USER), unload(app, "mine", USER)):
        assert (answer.status, answer.json["error"]["code"]) == (403, "not_allowed")
    assert load(app, "mine", "one", "sk-nobody-0123456789").status == 401
    closed = desk.app("tiny", codecs=CODECS, keyring=KEYS)
    assert load(closed, "mine", "one").status == unload(closed, "mine").status == 404
    with pytest.raises(UserError, match="everybody who reaches the server could load adapters"):
        check_exposure(ServerSettings(adapters_from=adapters))
    check_exposure(ServerSettings(adapters_from=adapters, keyring=KEYS))


def test_a_key_file_says_who_may(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[a]\nkey = "{OWNER}"\nload_adapters = true\n[b]\nkey = "{USER}"\n')
    file.chmod(0o600)
    clients = [key.client for key in read_key_file(file).keys]
    assert [client.load_adapters for client in clients] == [True, False]
    file.write_text(f'[a]\nkey = "{OWNER}"\nload_adapters = 1\n')
    with pytest.raises(UserError, match="load_adapters = 1"):
        read_key_file(file)


def test_adapters_of_a_command_line() -> None:
    assert _named(["a=x", "b=y=z"], "--adapter", "FOLDER") == {"a": "x", "b": "y=z"}
    with pytest.raises(UserError, match="--adapter a"):
        _named(["a=x", "a=y"], "--adapter", "FOLDER")
    first, second = entries_of(["runs/m", "runs/n"], {"small": "runs/m"}, {"a": "x"})
    assert first.adapters == {"a": "x"} and not second.adapters
    with pytest.raises(UserError, match="a model and an adapter are called small"):
        entries_of(["runs/m"], {"small": "runs/m"}, {"small": "x"})


def test_an_adapter_that_cannot_be_loaded_ends_the_load(desk: Desk, adapters: Path) -> None:
    app = desk.app("tiny", codecs=CODECS)
    desk.made.entries[0].adapters["bad"] = str(adapters / "foreign")
    assert asked(app, "tiny").status == 503
    assert "another model" in desk.log_rows("load")[0]["error"]
