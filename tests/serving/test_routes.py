"""The paths that generate nothing, with the real codecs."""

from __future__ import annotations

import math

import pytest

from qwenkit.serving.codecs import CODECS
from qwenkit.serving.keys import Client, Key, Keyring
from tests.serving.asgi import ask
from tests.serving.conftest import Desk

SECRET = "sk-0123456789abcdef"


def test_models_by_all_their_names(desk: Desk) -> None:
    app = desk.app("nano", "other", codecs=CODECS)
    listed = ask(app, "GET", "/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["nano", "other"]
    assert listed["data"][0]["max_model_len"] is None and not desk.loads
    ask(app, "POST", "/tokenize", {"prompt": "river"})
    assert ask(app, "GET", "/v1/models/nano").json["max_model_len"] == 512
    assert ask(app, "GET", "/v1/models/nan").json["error"]["message"].endswith("hint: did you mean nano?")


def test_a_key_lists_its_models_alone(desk: Desk) -> None:
    client = Client("alice", models=frozenset({"other"}))
    app = desk.app("nano", "other", codecs=CODECS, keyring=Keyring([Key.of(client, SECRET)]))
    assert [model["id"] for model in ask(app, "GET", "/v1/models", x_api_key=SECRET).json["data"]] == ["other"]
    assert ask(app, "GET", "/v1/models/nano", x_api_key=SECRET).status == 404


def test_texts_and_token_ids(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    text = "The river 河流"
    tokens = ask(app, "POST", "/tokenize", {"prompt": text}).json
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 512
    assert ask(app, "POST", "/detokenize", {"tokens": tokens["tokens"]}).json == {"prompt": text}
    chat = ask(app, "POST", "/tokenize", {"messages": [{"role": "user", "content": text}]}).json
    assert chat["count"] > tokens["count"]
    assert ask(app, "POST", "/tokenize", {"prompt": text * 500}).json["count"] > 512
    assert ask(app, "POST", "/detokenize", {"tokens": [10**6]}).status == 400


def test_tokens_in_anthropics_form(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "river?"}]}
    counted = ask(app, "POST", "/v1/messages/count_tokens", body).json
    answer = ask(app, "POST", "/v1/messages", {**body, "max_tokens": 2}).json
    assert counted["input_tokens"] == answer["usage"]["input_tokens"] > 0
    wrong = ask(app, "POST", "/v1/messages/count_tokens", {**body, "messages": 3}).json
    assert wrong["type"] == "error" and wrong["error"]["type"] == "invalid_request_error"


def test_vectors(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    answer = ask(app, "POST", "/v1/embeddings", {"input": ["river", "river", "石头"], "model": "tiny"}).json
    vectors = [row["embedding"] for row in answer["data"]]
    assert vectors[0] == vectors[1] != vectors[2] and len(vectors[0]) == 32
    assert math.hypot(*vectors[2]) == pytest.approx(1, abs=1e-5)
    assert answer["usage"]["prompt_tokens"] > 3
    assert ask(app, "POST", "/v1/embeddings", {"input": [[5] * 512]}).json["usage"]["prompt_tokens"] == 512
    refused = ask(app, "POST", "/v1/embeddings", {"input": [[5], [5] * 513]})
    error = refused.json["error"]
    assert (refused.status, error["param"], error["code"]) == (400, "input[1]", "context_length_exceeded")
    assert error["message"].startswith("input[1]: 513 tokens; expected: at most 512 tokens")


@pytest.mark.parametrize(
    "source", ["file:///etc/passwd", "http://127.0.0.1:9/x", "/etc/passwd", "data:image/png;base64,AA"]
)
def test_media_are_not_fetched(desk: Desk, source: str) -> None:
    """A model of text refuses a picture by its kind; nothing is opened, nothing is asked."""
    app = desk.app(codecs=CODECS)
    parts = [{"type": "image_url", "image_url": {"url": source}}, {"type": "text", "text": "river?"}]
    answer = ask(
        app, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    )
    assert answer.status == 400 and "root:" not in answer.body.decode()
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_fields_without_effect_are_named(desk: Desk) -> None:
    app = desk.app(codecs=CODECS)
    body = {
        "messages": [{"role": "user", "content": "river?"}],
        "max_tokens": 2,
        "store": False,
        "metadata": {"a": "b"},
    }
    answer = ask(app, "POST", "/v1/chat/completions", body)
    assert answer.status == 200 and answer.headers["x-ignored-fields"] == "store, metadata"
    streamed = ask(app, "POST", "/v1/chat/completions", {**body, "stream": True})
    assert streamed.headers["x-ignored-fields"] == "store, metadata" and streamed.body.endswith(b"data: [DONE]\n\n")


def test_the_schema_is_served(desk: Desk) -> None:
    schema = ask(desk.app(codecs=CODECS), "GET", "/openapi.json").json
    assert set(schema["paths"]) >= {"/v1/chat/completions", "/v1/models", "/health", "/metrics"}
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["messages"] and "max_tokens" in body["properties"]
